"""Clips in which nothing is said: faults unless asked for, then learnt as such by every way of training."""

from __future__ import annotations

import numpy as np
import pytest

from audiorl import BadRowsError, GRPOTrainer, mine_pairs
from tests.tiny_models import SAMPLING_RATE, tiny_whisper
from tests.trainers import grpo_rows
from tests.trainers.pair_rows import logged, pair_rows, trainer

HISS = {"array": 0.01 * np.random.default_rng(0).standard_normal(SAMPLING_RATE), "sampling_rate": SAMPLING_RATE}
INVENTED = "thank you for watching"


def silent(count: int = 2, **columns: str) -> list[dict]:
    return [{"audio": HISS, **columns} for _ in range(count)]


def test_an_empty_text_is_a_fault_unless_silence_is_allowed(tmp_path):
    rows = pair_rows(2) + silent(chosen="", rejected=INVENTED)
    with pytest.raises(BadRowsError, match=r"row 2: chosen is empty\. .*allow_silence if nothing is said"):
        trainer(tmp_path, rows)
    for texts in ({"chosen": "", "rejected": ""}, {"chosen": " ", "rejected": INVENTED}):
        with pytest.raises(BadRowsError, match=r"row 0: chosen (and rejected are the same text|is empty)"):
            trainer(tmp_path, silent(**texts), allow_silence=True)
    assert len(trainer(tmp_path, rows, allow_silence=True).train_dataset) == 4


def test_dpo_makes_silence_likelier_than_the_invention(tmp_path):
    steps = {"max_steps": 8, "learning_rate": 5e-3, "lr_scheduler_type": "constant"}
    dpo = trainer(tmp_path, silent(4, chosen="", rejected=INVENTED), allow_silence=True, **steps)
    dpo.train()
    margins = logged(dpo, "rewards/margins")
    assert margins[0] == 0 and margins[-1] > 1


def test_grpo_rewards_saying_nothing(tmp_path):
    steps = {"max_steps": 12, "learning_rate": 5e-3, "lr_scheduler_type": "constant", "num_generations": 16}
    rewards = ["one_minus_wer", "hallucination"]
    grpo = grpo_rows.trainer(
        tmp_path, silent(4, text=""), allow_silence=True, trainer_reward_funcs=rewards, sft_weight=0.1, **steps
    )
    assert isinstance(grpo, GRPOTrainer)
    grpo.train()
    reward = logged(grpo, "rewards/one_minus_wer/mean")
    assert sum(reward[-3:]) / 3 > sum(reward[:3]) / 3 + 0.3


def test_mining_pairs_silence_with_what_the_model_makes_up():
    model, processor = tiny_whisper()
    with pytest.raises(BadRowsError, match="row 0: text is empty"):
        mine_pairs(model, processor, silent(text=""), progress=False)
    mined = mine_pairs(model, processor, silent(text=""), allow_silence=True, progress=False)
    assert [row["chosen"] for row in mined.rows] == ["", ""] and all(row["rejected"].strip() for row in mined.rows)
