"""ORPO and RAFT on families that they do not know by name: the loss falls, the reward rises."""

from __future__ import annotations

from typing import Any

import pytest

from audiorl import ORPOConfig, ORPOTrainer, RAFTTrainer
from tests.tiny_audio_llms import CONFIGS, tiny_audio_llm
from tests.tiny_audio_llms import KINDS as AUDIO_LLMS
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import SAMPLING_RATE, tiny_clips
from tests.tiny_seq2seq import tiny_seq2seq
from tests.trained_models import FAMILIES
from tests.trainers import raft_rows
from tests.trainers.grpo_rows import shortness
from tests.trainers.pair_rows import logged, settings

TEXTS = ["the fox", "dog", "lazy dogs", "so", "a fox", "dogs", "jumps", "the dog"]


def build(kind: str) -> tuple[Any, Any]:
    if kind in CONFIGS and kind not in AUDIO_LLMS:
        pytest.skip(f"{kind} is not in this release of transformers, or its tokenizer's package is not installed")
    if kind in AUDIO_LLMS:
        return tiny_audio_llm(kind)
    return tiny_ctc(kind) if kind == "wav2vec2" else tiny_seq2seq(kind)


def rows(count: int) -> list[dict]:
    clips = [{"array": clip, "sampling_rate": SAMPLING_RATE} for clip in tiny_clips(count)]
    texts = [{"text": TEXTS[i], "chosen": TEXTS[i], "rejected": TEXTS[i - 1]} for i in range(count)]
    return [{"audio": clip, "language": "en", **text} for clip, text in zip(clips, texts, strict=True)]


def of(method: str) -> list[str]:
    return [x.model for x in FAMILIES if x.method == method]


@pytest.mark.parametrize("kind", of("ORPO"))
def test_orpo_lowers_its_loss_on_eight_clips(kind, tmp_path):
    model, processor = build(kind)
    steps = {"max_steps": 8, "learning_rate": 3e-3, "lr_scheduler_type": "constant", "per_device_train_batch_size": 8}
    args = ORPOConfig(**{**settings(tmp_path), **steps})
    trainer = ORPOTrainer(model, args=args, train_dataset=rows(8), processing_class=processor)
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("kind", of("RAFT"))
def test_raft_raises_the_reward_on_four_clips(kind, tmp_path):
    model, processor = build(kind)
    cycles = {"num_cycles": 5, "steps_per_cycle": 4, "samples_per_prompt": 8, "max_completion_length": 16}
    args = raft_rows.config(tmp_path, **cycles, per_device_train_batch_size=4, learning_rate=5e-3)
    trainer = RAFTTrainer(model, shortness, args=args, train_dataset=rows(4), processing_class=processor)
    trainer.train()
    rewards = logged(trainer, "reward")
    assert rewards[-1] > rewards[0] + 1
