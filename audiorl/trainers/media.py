"""Clips that can be heard and hypotheses that can be read, for loggers that take audio and tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from audiorl.evaluation.transcription import load_clip, where

# How many clips are decoded and logged each time: the first rows, so that one can hear and read the same ones again.
LOGGED_CLIPS = 4
STEP = "train/global_step"
NO_MARKUP = {ord(letter): f"&#{ord(letter)};" for letter in "\\`*_[]|<>&#"}


class Sample(NamedTuple):
    """One clip with the model's hypothesis."""

    name: str  # of its row, for a person
    samples: np.ndarray  # (N,) float32
    sampling_rate: int  # Hz
    transcript: str
    hypothesis: str

    @property
    def caption(self) -> str:
        return f"{self.name}\ntranscript: {self.transcript}\nhypothesis: {self.hypothesis}"


class MediaLogger(ABC):
    """A logger that takes audio and tables."""

    @abstractmethod
    def audio(self, samples: Sequence[Sample], step: int) -> None:
        """Log clips with transcript and hypothesis, the texts as a table, too."""

    def texts(self, samples: Sequence[Sample], step: int) -> None:
        rows = [(one.name, one.transcript, one.hypothesis) for one in samples]
        self.table("audio_samples_texts", ("clip", "transcript", "hypothesis"), rows, step)

    @abstractmethod
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Log a table of texts and numbers."""


class TensorBoardMedia(MediaLogger):
    def __init__(self, callback: Any):
        self.callback = callback

    def audio(self, samples: Sequence[Sample], step: int) -> None:
        for place, one in enumerate(samples):
            clip = np.clip(one.samples, -1, 1)[None]
            self.callback.tb_writer.add_audio(f"audio_samples/{place}", clip, step, one.sampling_rate)
        self.texts(samples, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self.callback.tb_writer.add_text(name, markdown_table(columns, rows), step)


class WandbMedia(MediaLogger):
    def __init__(self, callback: Any):
        self.wandb = callback._wandb

    def audio(self, samples: Sequence[Sample], step: int) -> None:
        sounds = [self.wandb.Audio(one.samples, one.sampling_rate, caption=one.caption) for one in samples]
        self.wandb.log({"audio_samples": sounds, STEP: step})
        self.texts(samples, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        table = self.wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        self.wandb.log({name: table, STEP: step})


class TrackioMedia(MediaLogger):
    def __init__(self, callback: Any):
        self.trackio = callback._trackio

    def audio(self, samples: Sequence[Sample], step: int) -> None:
        for place, one in enumerate(samples):
            # floats would be scaled to their peak: a faint clip would sound loud
            whole = np.round(np.clip(one.samples, -1, 1) * 32767).astype(np.int16)
            sound = self.trackio.Audio(whole, caption=one.caption, sample_rate=one.sampling_rate)
            self.trackio.log({f"audio_samples/{place}": sound, STEP: step})
        self.texts(samples, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        records = [dict(zip(columns, row, strict=True)) for row in rows]
        self.trackio.log({name: self.trackio.Table(data=records), STEP: step})


MEDIA: dict[type, type[Any]] = {
    TensorBoardCallback: TensorBoardMedia,
    WandbCallback: WandbMedia,
    TrackioCallback: TrackioMedia,
}


def media_loggers(trainer: Any) -> list[MediaLogger]:
    """The trainer's loggers that take audio and tables. Ask during training, when they are open."""
    callbacks = trainer.callback_handler.callbacks
    return [made(callback) for callback in callbacks for kind, made in MEDIA.items() if isinstance(callback, kind)]


# In place of the transcript, of rows that have none
NO_TRANSCRIPT = "(not known)"


class AudioSamples(TrainerCallback):
    """Decodes the same few clips every `log_audio_every` steps and logs them with transcript and hypothesis.

    Args:
        trainer: whose evaluation rows, else training rows, are decoded; a `Dataset`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        sets = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
        rows = next(iter(sets.values())) if isinstance(sets, dict) else sets
        if not isinstance(rows, Dataset):
            raise ValueError(
                "log_audio_every decodes the same clips again and again, which a stream cannot offer. Load the rows as "
                "a Dataset (streaming=False), or leave log_audio_every out."
            )
        self.rows = rows.select(range(min(LOGGED_CLIPS, len(rows))))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.log_audio_every:
            return
        said = self.trainer.decoder.transcribe(self.rows)
        if not state.is_world_process_zero:
            return
        family = self.trainer.family
        try:
            column = self.trainer.transcript_column(self.rows.column_names)
        except ValueError:
            column = None  # rows of audio alone
        samples = [
            Sample(
                name,
                load_clip(row, name, family),
                family.sampling_rate,
                NO_TRANSCRIPT if column is None else family.words(row[column]),
                hypothesis,
            )
            for row, hypothesis in zip(self.rows, said, strict=True)
            for name in [where(0, row)]
        ]
        for logger in media_loggers(self.trainer):
            logger.audio(samples, state.global_step)


def log_completions(trainer: Any, records: Sequence[dict[str, Any]]) -> None:
    """Log the best and worst hypothesis of each clip as a table, to loggers that take tables."""
    columns = ("step", "clip", "transcript", "best", "best_reward", "worst", "worst_reward")
    step = trainer.state.global_step
    rows = [
        (
            *(step, record["where"], record["transcript"]),
            *(record[name][key] for name in ("best", "worst") for key in ("text", "reward")),
        )
        for record in records
    ]
    for logger in media_loggers(trainer) if rows else ():
        logger.table("completions", columns, rows, step)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown that shows texts as they are, markup and bars included."""

    def cell(value: Any) -> str:
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        return " ".join(text.split()).translate(NO_MARKUP)

    lines = [columns, ["---"] * len(columns)]
    table = [" | ".join(map(str, line)) for line in lines] + [" | ".join(map(cell, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in table)
