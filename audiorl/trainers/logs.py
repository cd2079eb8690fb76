"""What a run tells of its training: two files, the console, and the words at the end.

metrics.jsonl    one object for each log, with its step; a resumed run removes the logs of later steps, so that no step
                 is there twice
metrics.csv      the same as a table; a metric that comes up later adds a column
the console      a progress bar on a terminal and a line for each log, unless the run is quiet; in a notebook one output
                 with a bar and a table
"""

from __future__ import annotations

import csv
import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers import trainer as hf_trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import is_in_notebook
from transformers.utils import logging as hf_logging

from audiorl.files import METRICS_FILE, STATE_FILE, strict_json
from audiorl.model_card import MODEL_CARD
from audiorl.notebook import Output, html_table, percent
from audiorl.terminal import FAINT, VERDICTS, fitted, in_words, painted, wrapped
from audiorl.trainers.cost import cost_in_words, gib, peak_gib
from audiorl.trainers.report_files import model_name

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
