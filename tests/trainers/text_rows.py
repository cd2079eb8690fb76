"""Rows of transcripts and trainers on them, for tests that all trainers of transcripts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from audiorl.trainers.base import SpeechTrainer
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


# name -> makes its trainer on a fresh tiny model: (output_dir, rows, **changes)
MAKE: dict[str, Callable[..., SpeechTrainer]] = {"sft": sft, "kto": kto}
# name -> rows of its own
ROWS: dict[str, Callable[[int], list[dict[str, Any]]]] = {"sft": text_rows, "kto": judged_rows}
