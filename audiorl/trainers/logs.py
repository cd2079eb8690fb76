"""What a run writes while it trains.

metrics.jsonl    one object for each log, with its step; a resumed run removes the logs of later steps, so that no step
                 is there twice
metrics.csv      the same as a table; a metric that comes up later adds a column
the console      a progress bar on a terminal and a line for each log, unless the run is quiet; in a notebook one output
                 with a bar and a table
loggers          audio and tables, for loggers that take them: TensorBoard, Weights & Biases, Trackio
the report       facts, pairs, sampled groups and evaluations that the report reads; with `report_html` the page itself
"""

from __future__ import annotations

import csv
import dataclasses
import os
import shlex
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers import trainer as hf_trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import is_in_notebook, logging
from transformers.utils import logging as hf_logging

from audiorl.datasets import speech_rows
from audiorl.evaluation import Decoded
from audiorl.evaluation.transcription import decoding_in_force, load_clip, where
from audiorl.files import METRICS_FILE, STATE_FILE, strict_json
from audiorl.model_card import MODEL_CARD
from audiorl.models import base_model
from audiorl.notebook import Output, html_table, percent
from audiorl.report import write_report
from audiorl.report.run_folder import (
    KEPT_BYTES,
    UNASKED_BYTES,
    KeptAudio,
    Systems,
    leave_evaluation,
    leave_facts,
    leave_groups,
    leave_pairs,
    place_of,
    start_run,
)
from audiorl.terminal import FAINT, VERDICTS, fitted, in_words, painted, wrapped
from audiorl.trainers.cost import cost_in_words, gib, peak_gib
from audiorl.trainers.rollouts import Rollout

TABLE_FILE = "metrics.csv"
# metric -> how a line of the console calls it
SHOWN = {
    "loss": "loss",
    "train_loss": "mean loss",  # of the last log, which may have no other
    "eval_loss": "evaluation loss",
    "reward": "reward",
    "eval_reward": "evaluation reward",
    "rewards/accuracies": "pairs in order",
    "kl": "KL",
    "wer": "WER of samples",
    "eval_wer": "WER",
    "eval_cer": "CER",
    "accuracy": "accuracy of samples",
    "eval_accuracy": "accuracy",
    "learning_rate": "learning rate",
}
PERCENT = ("wer", "eval_wer", "eval_cer", "accuracy", "eval_accuracy")
# of these the bar shows the last one: measured on decoded evaluation rows, else on sampled hypotheses
CURRENT_WER = ("eval_wer", "wer")
# A notebook's output is drawn anew at each log, and no more often than this between logs.
SECONDS_BETWEEN_DRAWINGS = 0.5


class MetricsFiles(TrainerCallback):
    """Writes every log of a trainer, in one process."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._begun = False  # an evaluation alone leaves the files of an earlier run in the folder as they are

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        known = state.log_history or self._records
        self._records = [record for record in known if record["step"] <= state.global_step]
        self._begun = True
        self._write_all(args.output_dir)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        # the trainer has put it there, with its step
        record = dict(state.log_history[-1])
        self._records.append(record)
        if not self._begun:
            return
        if not record.keys() <= set(self._columns):
            self._write_all(args.output_dir)
            return
        with open(os.path.join(args.output_dir, METRICS_FILE), "a", encoding="utf-8") as lines:
            lines.write(strict_json(record) + "\n")
        with open(os.path.join(args.output_dir, TABLE_FILE), "a", encoding="utf-8", newline="") as table:
            csv.DictWriter(table, self._columns).writerow(record)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            with open(os.path.join(args.output_dir, STATE_FILE), "w", encoding="utf-8") as file:
                file.write(strict_json(dataclasses.asdict(state), indent=2, sort_keys=True) + "\n")

    def _write_all(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        names = dict.fromkeys(name for record in self._records for name in record)
        self._columns = ["step", "epoch", *(name for name in names if name not in ("step", "epoch"))]
        with open(os.path.join(folder, METRICS_FILE), "w", encoding="utf-8") as lines:
            lines.writelines(strict_json(record) + "\n" for record in self._records)
        with open(os.path.join(folder, TABLE_FILE), "w", encoding="utf-8", newline="") as table:
            writer = csv.DictWriter(table, self._columns)
            writer.writeheader()
            writer.writerows(self._records)


class Console(ProgressCallback):
    """Progress, time left, loss, reward and the current WER: a bar on a terminal, and a line for each log.

    There is one bar at a time: the bar of training makes room for those of sampling and of evaluation (`paused`).
    """

    training_bar: tqdm | None
    prediction_bar: tqdm | None

    def __init__(self) -> None:
        super().__init__()
        self.wer: float | None = None
        self._loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.current_step = self.first_step = state.global_step
        self.begun = time.monotonic()
        if state.is_world_process_zero:
            shown = sys.stderr.isatty() and not args.disable_tqdm
            self.training_bar = self._bar(state.max_steps, state.global_step, disable=not shown)

    @staticmethod
    def _bar(total: float | None, done: float, *, disable: bool = False) -> tqdm:
        # miniters: else a thread of tqdm may draw it while it is paused
        return tqdm(
            desc="training",
            total=total,
            initial=done,
            unit="step",
            dynamic_ncols=True,
            miniters=1,
            disable=disable,
        )

    @contextmanager
    def paused(self) -> Iterator[bool]:
        """Take the bar of training off the terminal while another one is shown; False where there is to be none."""
        bar = self.training_bar
        if bar is None or bar.disable:
            yield True
            return
        bar.leave = False
        bar.close()
        yield True
        again = self._bar(int(bar.total or 0), bar.initial)
        # as if it had never gone: steps since the beginning and their time give the time left
        again.n = again.last_print_n = bar.n
        again.start_t = bar.start_t
        self.training_bar = again
        self._show_figures()

    def end_prediction(self) -> None:
        """Close the bar of an evaluation. transformers closes it only after everything else in the evaluation."""
        if self.prediction_bar is not None:
            self.prediction_bar.close()
        self.prediction_bar = None

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not args.disable_tqdm:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        self.wer = next((logs[name] for name in CURRENT_WER if name in logs), self.wer)
        if line := log_line(logs):
            tqdm.write(fitted(f"{self._progress(state)}{line}"))
        self._loss = logs.get("loss", self._loss)
        self._show_figures()

    def _show_figures(self) -> None:
        figures = [] if self._loss is None else [f"loss {self._loss:.4g}"]
        figures += [] if self.wer is None else [f"WER {100 * self.wer:.1f} %"]
        if self.training_bar is not None:
            self.training_bar.set_postfix_str(", ".join(figures))

    def _progress(self, state: Any) -> str:
        """Steps done and, where no bar shows it, the time that the others will take; "" outside of training."""
        bar = self.training_bar
        if bar is None or not state.max_steps:
            return ""
        return f"{self._steps_in_words(state) if bar.disable else f'step {state.global_step}/{state.max_steps}'}: "

    def _steps_in_words(self, state: Any) -> str:
        """Steps done, and the time that the others will take at the pace so far."""
        done, left = state.global_step - self.first_step, state.max_steps - state.global_step
        pace = (time.monotonic() - self.begun) / done if done else None
        eta = "" if pace is None or not left else f", {timedelta(seconds=round(pace * left))} left"
        return f"step {state.global_step}/{state.max_steps}{eta}"


class NotebookConsole(Console):
    """In a notebook while it trains: one output with a bar and a table, a row for each step that was logged."""

    def __init__(self) -> None:
        super().__init__()
        self._output: Output | None = None  # None: it does not train
        self._rows: dict[int, dict[str, str]] = {}  # step -> column -> what is shown
        self._drawn = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first_step, self.begun, self._rows = state.global_step, time.monotonic(), {}
        if state.is_world_process_zero:
            self._output = Output()
            for record in state.log_history:
                self._add(record["step"], record)
            self._draw(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if time.monotonic() - self._drawn > SECONDS_BETWEEN_DRAWINGS:
            self._draw(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self._output is None or not logs:
            super().on_log(args, state, control, logs, **kwargs)
            return
        self._add(state.global_step, logs)
        self._draw(state)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._output is None:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._draw(state)
        self._output = None

    @contextmanager
    def paused(self) -> Iterator[bool]:
        """While it trains no other bar is shown."""
        yield self._output is None

    def _add(self, step: int, logs: dict[str, Any]) -> None:
        if found := shown_metrics(logs):
            self._rows.setdefault(step, {}).update(found)
        self.wer = next((logs[name] for name in CURRENT_WER if name in logs), self.wer)

    def _draw(self, state: Any) -> None:
        if self._output is None:
            return
        self._drawn = time.monotonic()
        columns = [name for name in SHOWN.values() if any(name in row for row in self._rows.values())]
        rows = [[step, *(row.get(name) for name in columns)] for step, row in self._rows.items()]
        bar = f'<progress value="{state.global_step}" max="{max(state.max_steps, 1)}"></progress>'
        wer = "" if self.wer is None else f", WER {percent(self.wer)}"
        table = html_table(["step", *columns], rows) if rows else ""
        self._output.show(f"<div>{bar} {self._steps_in_words(state)}{wer}</div>{table}")


def log_line(logs: dict[str, Any]) -> str:
    """The metrics of `SHOWN` in words, and what the steps cost; "" where there is none of them."""
    return ", ".join([*(f"{shown} {value}" for shown, value in shown_metrics(logs).items()), *cost_in_words(logs)])


def shown_metrics(logs: dict[str, Any]) -> dict[str, str]:
    """The metrics of `SHOWN` by the name that a reader sees, as text."""
    return {
        shown: percent(logs[name]) if name in PERCENT else f"{logs[name]:.4g}"
        for name, shown in SHOWN.items()
        if name in logs
    }


def write_logs(trainer: Any) -> None:
    """Put the files and the console in the place of transformers' own printing; `quiet` leaves the console out."""
    for callback in list(trainer.callback_handler.callbacks):
        # exactly these: one that a user derived from them stays
        if type(callback) in (PrinterCallback, ProgressCallback, hf_trainer.DEFAULT_PROGRESS_CALLBACK):
            trainer.callback_handler.callbacks.remove(callback)
    trainer.add_callback(MetricsFiles())
    if not trainer.args.quiet:
        trainer.add_callback(NotebookConsole() if is_in_notebook() and not trainer.args.disable_tqdm else Console())


# What to try next, by the verdict
ADVICE = {
    "better": "",
    "worse": "Keep the model you began with. Try a lower learning_rate, fewer steps, or more clips.",
    "cannot tell": "Measure more held-out clips, or train on more.",
}
# What stands for a repository that nobody has named
A_REPO = "my-org/my-model"


class Closing(NamedTuple):
    """What came of a run, in lines; each with its style on a terminal."""

    lines: list[tuple[str, str]]

    def __str__(self) -> str:
        return "\n".join(line for line, _ in self.lines)

    def show(self) -> None:
        """Print it, fitted to the terminal; what can be copied as a command stays in one piece."""
        for line, style in self.lines:
            whole = line if line.startswith("  ") else wrapped(line)
            print(painted(whole, style) if style else whole)


def closing(trainer: Any, further: Sequence[str] = (), *, next_steps: bool = True) -> Closing:
    """Error rates before and after with their verdict, what the run took, where the model is, what to do next.

    Args:
        trainer: that has trained and saved; what `record_evaluation` was told last is its measurement.
        further: lines to add where the model is.
        next_steps: whether to say what to do next.
    """
    args, measured = trainer.args, trainer.card.measurement
    lines: list[tuple[str, str]] = []
    if measured is not None:
        comparison = measured.main[1]
        *rates, verdict = str(comparison).split("\n")
        lines += [(line, "") for line in rates]
        lines.append((verdict, f"bold {VERDICTS[comparison.verdict]}"))
        lines += [(advice, "")] if (advice := ADVICE[comparison.verdict]) else []
    trained, whole = trainer.card.stopwatch.seconds, time.monotonic() - trainer.built
    lines.append((f"Training took {in_words(trained)} of {in_words(whole)}{peak_in_words(args.device)}.", FAINT))
    lines += [(line, "") for line in further]
    lines.append((f"The tuned checkpoint lies in {args.output_dir}", ""))
    if next_steps:
        look = f"audiorl report {shlex.quote(args.output_dir)}"
        base = model_name(trainer) if measured is None else None
        repo = None if args.push_to_hub else args.hub_model_id or A_REPO
        lines += [(line, FAINT) for line in next_in_words(args.output_dir, look, base=base, repo=repo)]
    return Closing(lines)


def next_in_words(folder: str, look: str, *, base: str | None, repo: str | None = A_REPO) -> list[str]:
    """What to do with a tuned model, in lines.

    Args:
        folder: where it lies.
        look: what to do to see the report.
        base: the checkpoint to measure it against; None if that has been done.
        repo: where to push it; None if that has been done.
    """
    quoted = shlex.quote(folder)
    steps = {"look": look, "check": f"{os.path.join(folder, MODEL_CARD)}, the model card"}
    if base is not None:
        pair = f"{shlex.quote(base)} {quoted}"
        steps["measure"] = f"audiorl evaluate --model_name_or_path {pair} --dataset_name ROWS"
    if repo is not None:
        steps["push"] = f"hf upload {repo} {quoted} . --exclude 'checkpoint-*'"
    return ["Next:", *(f"  {what:<8}{how}" for what, how in steps.items())]


def peak_in_words(device: torch.device) -> str:
    """The most memory that was in use: the GPU's, for tensors, else the program's; "" where nothing says it."""
    peak = peak_gib(device)
    if peak is None:
        return ""
    whose = "the GPU's memory" if device.type == "cuda" else "memory"
    return f", with up to {gib(peak)} of {whose}"


def console_of(trainer: Any) -> Console:
    """The trainer's console; a silent one if it has none."""
    return next((one for one in trainer.callback_handler.callbacks if isinstance(one, Console)), Console())


@contextmanager
def without_other_bars() -> Iterator[None]:
    """Turn off the bars of transformers and the Hub, such as that of writing weights, during training."""
    shown = hf_logging.is_progress_bar_enabled()
    if shown:
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


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


# ---- the report ----


logger = logging.get_logger(__name__)


class RunReport(TrainerCallback):
    """Writes what the report reads: facts, pairs and sampled groups; with `report_html` the page too. One process does.

    Args:
        trainer: a `SpeechTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.kept = self._kept_audio()
        self.comes_later = False  # who measures before and after writes the page then, see `leave_comparison`

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        start_run(args.output_dir, state.global_step)
        self.kept = self._kept_audio()
        rows = self.trainer.train_dataset
        pairs = rows if isinstance(rows, Dataset) and {"chosen", "rejected"} <= set(rows.column_names) else None
        facts = {
            "trainer": type(self.trainer).__name__,
            "model": model_name(self.trainer),
            "training_rows": len(rows) if isinstance(rows, Dataset) else "a stream",
            "epochs": args.num_train_epochs,
            "steps": state.max_steps,
            "learning_rate": args.learning_rate,
            "wer_normaliser": self.trainer.normalizer.name,
        }
        leave_facts(args.output_dir, facts if pairs is None else {**facts, "pairs": len(pairs)})
        if pairs is not None:
            leave_pairs(args.output_dir, pairs, self.kept)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and args.report_html and not self.comes_later:
            write_page(args.output_dir)

    def _kept_audio(self) -> KeptAudio:
        args = self.trainer.args
        return KeptAudio(args.output_dir, KEPT_BYTES if args.report_html else UNASKED_BYTES)

    def keep_groups(self, groups: Sequence[dict[str, Any]], step: int) -> None:
        """Write what `group_records` found in this process.

        Args:
            step: the optimizer step that learns from them, > 0.
        """
        if self.trainer.args.process_index:
            return
        words = self.trainer.family.words
        records = [
            {
                **place_of(group["row"], self.kept),
                "step": step,
                "transcript": None if (text := group["row"].get("text")) is None else words(text),
                "hypotheses": group["hypotheses"],
            }
            for group in groups
        ]
        leave_groups(self.trainer.args.output_dir, records)


def write_page(run: str) -> None:
    """Write report.html. A failure is logged and loses no trained model."""
    try:
        page = write_report(run)
    except (OSError, ValueError) as error:
        logger.warning(f"No report was written: {error}\nMend this, then run: audiorl report {run}")
    else:
        print(f"The report lies in {page}", flush=True)


def model_name(trainer: Any) -> str:
    """The name or path of the checkpoint that is trained."""
    return base_model(trainer.model).config._name_or_path or type(base_model(trainer.model)).__name__


# ---- groups ----


def group_records(rollouts: Sequence[Rollout], names: Sequence[str], most: int) -> list[dict[str, Any]]:
    """The first groups of some rollouts: row, K hypotheses with their rewards; None where one abstained.

    Args:
        names: of the rewards.
        most: how many, >= 0.
    """
    places = [(rollout, b) for rollout in rollouts for b in rollout.batch.valid.nonzero().flatten().tolist()]
    return [
        {
            "row": rollout.batch.rows[b],
            "hypotheses": [
                {"text": text, "reward": _known(reward), "rewards": dict(zip(names, map(_known, parts), strict=True))}
                for text, reward, parts in zip(
                    rollout.texts[b], rollout.rewards[b].tolist(), rollout.parts[b].tolist(), strict=True
                )
            ],
        }
        for rollout, b in places[:most]
    ]


def _known(value: float) -> float | None:
    return None if value != value else value


# ---- before and after ----


def leave_comparison(trainer: Any, held_out: Any, before: Decoded, after: Decoded, dataset: str | None = None) -> None:
    """Write evaluation.json for clips decoded before and after training and, with `report_html`, the page again.

    Args:
        trainer: a trained `SpeechTrainer`; its weights have been saved.
        held_out: the rows that were decoded.
        dataset: what they are called.
    """
    args = trainer.args
    decoding = decoding_in_force(trainer.model, {}, args.per_device_eval_batch_size)
    systems = Systems(model_name(trainer), args.output_dir, dataset or "held-out clips", decoding)
    leave_evaluation(
        args.output_dir,
        list(speech_rows(held_out)),
        before,
        after,
        systems,
        normalise=trainer.normalizer,
        task=trainer.family.task,
    )
    if args.report_html:
        write_page(args.output_dir)
