"""`OnlineDPOTrainer` against plain transformers calls, one model call for each hypothesis."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.tiny_models import tiny_whisper
from tests.trainers.grpo_rows import letters, rows, trainer
from tests.trainers.pair_rows import largest_difference, weights
from tests.trainers.stock_scores import first_inputs, nudge, sequence_logp


def test_loss_is_that_of_the_best_against_the_worst_by_stock_forwards(tmp_path):
    rewarded = {}

    def watch(completions, text, **kwargs):
        scores = letters(completions, text)
        for said, true, score in zip(completions, text, scores, strict=True):
            rewarded.setdefault(true, []).append((score, said))
        return scores

    dpo = trainer(tmp_path, online_dpo=True, beta=0.3, trainer_reward_funcs=watch)
    stock, _ = tiny_whisper()
    reference = copy.deepcopy(stock)
    nudge(dpo.model)
    nudge(stock)
    inputs = first_inputs(dpo)
    loss = dpo.compute_loss(dpo.model, inputs)
    learnt = dpo.family.text(inputs.tokens, inputs.keep)
    expected = []
    for b, row in enumerate(rows(2)):
        group = rewarded[row["text"]]
        assert learnt[b] == [max(group, key=lambda found: found[0])[1], min(group, key=lambda found: found[0])[1]]
        ratios = []
        for k in range(2):
            length = int(inputs.keep[b, k].nonzero().max()) + 2
            first_kept = int(inputs.keep[b, k].nonzero().min()) + 1
            ids = inputs.tokens[b, k, :length].tolist()
            own, frozen = (sequence_logp(model, inputs.audio[b], ids, first_kept) for model in (stock, reference))
            ratios.append(own - frozen)
        expected.append(-torch.nn.functional.logsigmoid(0.3 * (ratios[0] - ratios[1])))
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    assert loss.item() != pytest.approx(0.6931, abs=1e-3)


def test_clips_whose_hypotheses_are_equally_good_give_no_pair(tmp_path):
    dpo = trainer(
        tmp_path, online_dpo=True, trainer_reward_funcs=lambda completions, **kwargs: [1.0] * len(completions)
    )
    before = weights(dpo.model)
    dpo.train()
    assert largest_difference(before, weights(dpo.model)) == 0
    assert dpo.state.log_history[0]["frac_reward_zero_std"] == 1


def test_clips_that_no_reward_scored_give_no_pair(tmp_path):
    dpo = trainer(
        tmp_path, online_dpo=True, trainer_reward_funcs=lambda completions, **kwargs: [None] * 4 + [1.0, 2.0, 3.0, 4.0]
    )
    inputs = first_inputs(dpo)
    assert inputs["paired"].tolist() == [False, True] and not inputs.keep[0].any()


def test_a_loss_without_reference_holds_none(tmp_path):
    dpo = trainer(tmp_path, online_dpo=True, loss_type="sft", max_steps=1)
    assert dpo.reference is None
    dpo.train()
    assert "rewards/margins" not in dpo.state.log_history[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "aot"}, r"value for the whole batch.*sigmoid"),
        ({"loss_type": "sigmoyd"}, "sigmoid"),
        ({"beta": 0.0}, "beta"),
        ({"num_generations": 1}, "num_generations >= 2"),
    ],
)
def test_wrong_settings_are_refused_when_the_config_is_built(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, online_dpo=True, **changes)
