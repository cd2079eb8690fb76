"""What a run writes down while it trains: metrics.jsonl and metrics.csv always, a console unless it is to be quiet.

metrics.jsonl    one object for each log, its step among it; what was logged after the step that a run resumed from
                 goes, so that no step stands there twice; NaN and infinity are null, which strict JSON can say
metrics.csv      the same as a table, with nan and inf; a metric that comes up later adds a column
"""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as hf_logging

from audiorl.report.run_folder import METRICS_FILE, STATE_FILE, strict_json

TABLE_FILE = "metrics.csv"
# metric -> how a line of the console calls it
SHOWN = {
    "loss": "loss",
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
    """Progress, time left, loss, reward and the current WER: a bar on a terminal, a line for each log everywhere.

    There is one bar at a time: the bar of training makes room for those of sampling and of evaluation (`paused`).
    """

    training_bar: tqdm | None
    prediction_bar: tqdm | None

    def __init__(self) -> None:
        super().__init__()
        self.wer: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.current_step = self.first_step = state.global_step
        self.begun = time.monotonic()
        if state.is_world_process_zero:
            shown = sys.stderr.isatty() and not args.disable_tqdm
            self.training_bar = self._bar(state.max_steps, state.global_step, disable=not shown)

    @staticmethod
    def _bar(total: float | None, done: float, *, disable: bool = False) -> tqdm:
        # miniters: else a thread of tqdm may draw it while it is paused
        return tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, miniters=1, disable=disable)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar of training off the terminal while another one is shown."""
        bar = self.training_bar
        if bar is None or bar.disable:
            yield
            return
        bar.leave = False
        bar.close()
        yield
        self.training_bar = self._bar(int(bar.total or 0), int(bar.n))
        self.training_bar.start_t = bar.start_t
        self._show_wer()

    def end_prediction(self) -> None:
        """Close the bar of an evaluation; transformers does so when everything else of the evaluation is done, too."""
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
            tqdm.write(f"{self._progress(state)}{line}")
        self._show_wer()

    def _show_wer(self) -> None:
        if self.training_bar is not None:
            self.training_bar.set_postfix_str("" if self.wer is None else f"WER {100 * self.wer:.1f} %")

    def _progress(self, state: Any) -> str:
        """Steps done and the time that the others will take at the pace so far; "" outside of training."""
        if self.training_bar is None or not state.max_steps:
            return ""
        done, left = state.global_step - self.first_step, state.max_steps - state.global_step
        pace = (time.monotonic() - self.begun) / done if done else None
        eta = "" if pace is None or not left else f", {timedelta(seconds=round(pace * left))} left"
        return f"step {state.global_step}/{state.max_steps}{eta}: "


def log_line(logs: dict[str, Any]) -> str:
    """The metrics of `SHOWN` in words; "" where there is none of them."""
    parts = []
    for name, shown in SHOWN.items():
        if name in logs:
            value = logs[name]
            parts.append(f"{shown} {100 * value:.1f} %" if name in PERCENT else f"{shown} {value:.4g}")
    return ", ".join(parts)


def write_logs(trainer: Any) -> None:
    """Put the files and the console in the place of transformers' own printing; `quiet` leaves the console out."""
    for callback in list(trainer.callback_handler.callbacks):
        # exactly these: one that a user derived from them stays
        if type(callback) in (PrinterCallback, ProgressCallback):
            trainer.callback_handler.callbacks.remove(callback)
    trainer.add_callback(MetricsFiles())
    if not trainer.args.quiet:
        trainer.add_callback(Console())


def console_of(trainer: Any) -> Console:
    """The trainer's console; one that shows nothing where it has none."""
    return next((one for one in trainer.callback_handler.callbacks if isinstance(one, Console)), Console())


@contextmanager
def without_other_bars() -> Iterator[None]:
    """Turn off the bars of transformers and the Hub, of writing weights for example, beside that of training."""
    shown = hf_logging.is_progress_bar_enabled()
    if shown:
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
