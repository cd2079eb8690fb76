"""Methods on families that they do not know by name, all weights or an adapter: the loss falls, the reward rises."""

from __future__ import annotations

from typing import Any

import pytest
from peft import LoraConfig

from audiorl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    ORPOConfig,
    ORPOTrainer,
    RAFTTrainer,
    SFTConfig,
    SFTTrainer,
)
from tests.tiny_audio_llms import CONFIGS, tiny_audio_llm
from tests.tiny_audio_llms import KINDS as AUDIO_LLMS
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper
from tests.tiny_seq2seq import CLASSES, tiny_seq2seq
from tests.tiny_seq2seq import KINDS as SEQ2SEQ
from tests.trained_models import FAMILIES
from tests.trainers import raft_rows
from tests.trainers.grpo_rows import check_that_it_learns_two_words, shortness
from tests.trainers.pair_rows import logged, settings

TEXTS = ["the fox", "dog", "lazy dogs", "so", "a fox", "dogs", "jumps", "the dog"]


def build(kind: str) -> tuple[Any, Any]:
    if (kind in CONFIGS and kind not in AUDIO_LLMS) or (kind in CLASSES and kind not in SEQ2SEQ):
        pytest.skip(f"{kind} is not in this release of transformers, or its tokenizer's package is not installed")
    if kind in AUDIO_LLMS:
        return tiny_audio_llm(kind)
    return tiny_whisper("multilingual") if kind == "whisper" else tiny_seq2seq(kind)


def rows(count: int) -> list[dict]:
    clips = [{"array": clip, "sampling_rate": SAMPLING_RATE} for clip in tiny_clips(count)]
    texts = [{"text": TEXTS[i], "chosen": TEXTS[i], "rejected": TEXTS[i - 1]} for i in range(count)]
    for i, row in enumerate(texts):
        row |= {"completion": row["chosen" if i % 2 else "rejected"], "label": bool(i % 2)}
    return [{"audio": clip, "language": "en", **text} for clip, text in zip(clips, texts, strict=True)]


def of(method: str) -> Any:
    """A test for each cell of a method: `kind` and `adapter`."""
    cells = [x for x in FAMILIES if x.method == method]
    return pytest.mark.parametrize(
        ("kind", "adapter"), [pytest.param(x.model, x.adapter, marks=[pytest.mark.slow] * x.slow) for x in cells]
    )


def lora(adapter: str) -> LoraConfig | None:
    return LoraConfig(r=8, lora_alpha=16) if adapter == "LoRA" else None


def losses_on_eight_clips(made: type, config: type, kind: str, adapter: str, folder: Any) -> list[float]:
    model, processor = build(kind)
    steps = {"max_steps": 8, "lr_scheduler_type": "constant", "per_device_train_batch_size": 8}
    adapter_rate = 5e-3 if kind == "cohere_asr" else 1e-2  # it oversteps at the others' rate
    rate = {"learning_rate": adapter_rate if adapter == "LoRA" else 3e-3}
    trainer = made(
        model,
        args=config(**{**settings(folder), **steps, **rate}),
        train_dataset=rows(8),
        processing_class=processor,
        peft_config=lora(adapter),
    )
    trainer.train()
    return logged(trainer, "loss")


@of("SFT")
def test_sft_lowers_its_loss_on_eight_clips(kind, adapter, tmp_path):
    losses = losses_on_eight_clips(SFTTrainer, SFTConfig, kind, adapter, tmp_path)
    assert losses[-1] < 0.8 * losses[0], losses


@of("DPO")
def test_dpo_lowers_its_loss_on_eight_clips(kind, adapter, tmp_path):
    losses = losses_on_eight_clips(DPOTrainer, DPOConfig, kind, adapter, tmp_path)
    assert losses[0] == pytest.approx(0.693147, abs=1e-4) and losses[-1] < 0.7 * losses[0], losses


@of("ORPO")
def test_orpo_lowers_its_loss_on_eight_clips(kind, adapter, tmp_path):
    losses = losses_on_eight_clips(ORPOTrainer, ORPOConfig, kind, adapter, tmp_path)
    assert losses[-1] < 0.8 * losses[0], losses


@of("KTO")
def test_kto_lowers_its_loss_on_eight_clips(kind, adapter, tmp_path):
    losses = losses_on_eight_clips(KTOTrainer, KTOConfig, kind, adapter, tmp_path)
    assert losses[0] == pytest.approx(0.5, abs=1e-4) and losses[-1] < 0.47, losses


@of("GRPO")
def test_grpo_raises_the_reward_on_four_clips(kind, adapter, tmp_path):
    model, processor = build(kind)
    steps = {"max_steps": 30, "max_completion_length": 12, "sft_weight": 0.1}
    rate = {"learning_rate": 1e-2 if adapter == "LoRA" else 3e-3}
    check_that_it_learns_two_words(model, processor, tmp_path, rows(4), lora(adapter), **steps, **rate)


@of("RAFT")
def test_raft_raises_the_reward_on_four_clips(kind, adapter, tmp_path):
    model, processor = build(kind)
    cycles = {"num_cycles": 5, "steps_per_cycle": 4, "num_generations": 8, "max_completion_length": 16}
    rate = {"learning_rate": 2e-2 if adapter == "LoRA" else 5e-3}
    trainer = RAFTTrainer(
        model,
        shortness,
        args=raft_rows.config(tmp_path, **cycles, per_device_train_batch_size=4, **rate),
        train_dataset=rows(4),
        processing_class=processor,
        peft_config=lora(adapter),
    )
    trainer.train()
    rewards = logged(trainer, "reward")
    assert rewards[-1] > rewards[0] + 1, rewards
