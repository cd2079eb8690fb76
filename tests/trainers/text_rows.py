"""Rows of transcripts and trainers on them, for tests that all trainers of transcripts share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration

from audiorl.trainers.base import SpeechTrainer
from audiorl.trainers.distillation import DistillationConfig, DistillationTrainer
from audiorl.trainers.kto import KTOConfig, KTOTrainer
from audiorl.trainers.sft import SFTConfig, SFTTrainer
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper
from tests.trainers.pair_rows import CHOSEN, REJECTED, settings


def text_rows(count: int = 8) -> list[dict[str, Any]]:
    """`count` <= 8 rows of about 0.9 s with `text`, of uneven length."""
    clips = tiny_clips(count)
    return [{"audio": {"array": clips[i], "sampling_rate": SAMPLING_RATE}, "text": CHOSEN[i]} for i in range(count)]


def sft(output_dir: Any, rows: Any = None, *, kind: str = "english", **changes: Any) -> SFTTrainer:
    """An `SFTTrainer` on a fresh tiny model; changes named `trainer_*` are the trainer's, others the config's."""
    options = {name.removeprefix("trainer_"): changes.pop(name) for name in list(changes) if name[:8] == "trainer_"}
    model, processor = tiny_whisper(kind)
    return SFTTrainer(
        options.pop("model", model),
        SFTConfig(**{**settings(output_dir), **changes}),
        train_dataset=text_rows() if rows is None else rows,
        processing_class=options.pop("processing_class", processor),
        **options,
    )


def judged_rows(count: int = 8) -> list[dict[str, Any]]:
    """The same with a `completion` each, of which every third is wrong."""
    rows = text_rows(count)
    return [
        {**row, "completion": REJECTED[i] if i % 3 == 1 else row["text"], "label": i % 3 != 1}
        for i, row in enumerate(rows)
    ]


def kto(output_dir: Any, rows: Any = None, *, kind: str = "english", **changes: Any) -> KTOTrainer:
    """A `KTOTrainer`, likewise; both kinds of rows weigh the same."""
    options = {name.removeprefix("trainer_"): changes.pop(name) for name in list(changes) if name[:8] == "trainer_"}
    model, processor = tiny_whisper(kind)
    return KTOTrainer(
        options.pop("model", model),
        args=KTOConfig(**{**settings(output_dir), "undesirable_weight": 1.5, **changes}),
        train_dataset=judged_rows() if rows is None else rows,
        processing_class=options.pop("processing_class", processor),
        **options,
    )


def larger_whisper(kind: str = "english") -> tuple[Any, Any]:
    """Twice as wide as the tiny one, with the same tokens and features."""
    small, processor = tiny_whisper(kind)
    config = copy.deepcopy(small.config)
    config.d_model, config.encoder_ffn_dim, config.decoder_ffn_dim = 2 * config.d_model, 64, 64
    torch.manual_seed(3)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = copy.deepcopy(small.generation_config)
    return model.eval(), processor


def distillation(output_dir: Any, rows: Any = None, *, kind: str = "english", **changes: Any) -> DistillationTrainer:
    """A `DistillationTrainer`, likewise; every other step or so is on-policy."""
    options = {name.removeprefix("trainer_"): changes.pop(name) for name in list(changes) if name[:8] == "trainer_"}
    model, processor = tiny_whisper(kind)
    teacher = options.pop("teacher_model", None) or larger_whisper(kind)[0]
    return DistillationTrainer(
        options.pop("model", model),
        teacher,
        DistillationConfig(**{**settings(output_dir), "max_new_tokens": 12, **changes}),
        teacher_processing_class=options.pop("teacher_processing_class", processor),
        train_dataset=text_rows() if rows is None else rows,
        processing_class=options.pop("processing_class", processor),
        **options,
    )


# name -> makes its trainer on a fresh tiny model: (output_dir, rows, **changes)
MAKE: dict[str, Callable[..., SpeechTrainer]] = {"sft": sft, "kto": kto, "distillation": distillation}
# name -> rows of its own
ROWS: dict[str, Callable[[int], list[dict[str, Any]]]] = {name: text_rows for name in MAKE} | {"kto": judged_rows}
