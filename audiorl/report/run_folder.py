"""What a run left in its folder, read back.

RUN/metrics.jsonl              every log of the trainer, one JSON object a line (`audiorl.trainers.logs`); what is not a
                               finite number is null, as JSON has no other word for it
RUN/trainer_state.json         the same, where a run has no metrics.jsonl
RUN/checkpoint-N/              with a trainer_state.json each
RUN/evaluation.json            transcripts before and after, in the format of `audiorl evaluate --output`
RUN/report/run.json            what was trained on what (`audiorl.report.leaving`)
RUN/report/pairs.jsonl         chosen and rejected transcripts
RUN/report/groups.jsonl        sampled hypotheses of a clip with their rewards; of RAFT, which were kept
RUN/report/audio/*.mp3         clips that lie in no file of their own
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from audiorl.evaluation.document import read_document

METRICS_FILE = "metrics.jsonl"
STATE_FILE = "trainer_state.json"
EVALUATION_FILE = "evaluation.json"
LEFT_FOLDER = "report"
AUDIO_FOLDER = "audio"
RUN_FILE, PAIRS_FILE, GROUPS_FILE = "run.json", "pairs.jsonl", "groups.jsonl"

# What is logged as an accuracy and is one of tokens, not of labels.
NO_ANSWERS = "mean_token_accuracy"

Record = dict[str, Any]


class Checkpoint(NamedTuple):
    """A checkpoint of a run, as its trainer state and the run's log tell of it."""

    name: str
    step: int | None  # None: its trainer state cannot be read, it is not whole
    loss: float | None  # the last training loss logged up to its step
    eval_loss: float | None  # measured at its step
    wer: dict[str, float]  # evaluation set -> error rate measured at its step, a fraction; {} where none was
    best: bool  # the best one by the run's own criterion
    accuracy: dict[str, float]  # as wer, of a model that answers with labels


@dataclass
class RunFolder:
    """Everything a report is made of; what the run did not leave is empty."""

    path: Path
    history: list[Record] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    evaluation: Record | None = None
    facts: Record = field(default_factory=dict)
    pairs: list[Record] = field(default_factory=list)
    groups: list[Record] = field(default_factory=list)

    def kept_audio(self, name: str) -> str | None:
        """The file of a clip that the run kept for the report; None where it did not."""
        file = audio_file(self.path, name)
        return str(file) if file.is_file() else None


def audio_file(run: Path, name: str) -> Path:
    """Where a run keeps the clip of that name."""
    return run / LEFT_FOLDER / AUDIO_FOLDER / f"{name}.mp3"


def read_run(run: Path) -> RunFolder:
    """Read a run's folder, or a JSON file that `audiorl evaluate --output` wrote.

    Raises:
        ValueError: there is nothing that a report could show, or a file is damaged.
    """
    if run.is_file():
        return RunFolder(run.parent, evaluation=read_document(run))
    left = run / LEFT_FOLDER
    evaluation = run / EVALUATION_FILE
    found = RunFolder(
        run,
        history=_history(run),
        evaluation=read_document(evaluation) if evaluation.is_file() else None,
        facts=_object(left / RUN_FILE) if (left / RUN_FILE).is_file() else {},
        pairs=json_lines(left / PAIRS_FILE),
        groups=json_lines(left / GROUPS_FILE),
    )
    found.checkpoints = run_checkpoints(run, found.history)
    if not (found.history or found.evaluation or found.checkpoints or found.pairs or found.groups):
        raise ValueError(
            f"{run} holds nothing to report: no {METRICS_FILE}, {STATE_FILE}, {EVALUATION_FILE} or checkpoint. Name "
            "the output_dir of a run, or a file that `audiorl evaluate --output` wrote."
        )
    return found


def _history(run: Path) -> list[Record]:
    if (run / METRICS_FILE).is_file():
        return _with_nan(json_lines(run / METRICS_FILE))
    states = [run / STATE_FILE, *(folder / STATE_FILE for folder in reversed(_checkpoint_folders(run)))]
    return next((_with_nan(_object(state).get("log_history", [])) for state in states if state.is_file()), [])


def _with_nan(history: Iterable[Record]) -> list[Record]:
    """Logs hold numbers alone: null was none that is finite."""
    return [{name: math.nan if value is None else value for name, value in record.items()} for record in history]


def run_checkpoints(run: Path, history: Iterable[Record]) -> list[Checkpoint]:
    """The run's checkpoints by step, with what its log says of them."""
    folders = _checkpoint_folders(run)
    states: list[Record | None] = []
    for folder in folders:
        try:
            states.append(_object(folder / STATE_FILE))
        except (OSError, ValueError):
            states.append(None)
    best = next((s["best_global_step"] for s in reversed(states) if s and s.get("best_global_step")), None)
    records = list(history)
    return [_checkpoint(folder.name, state, records, best) for folder, state in zip(folders, states, strict=True)]


def _checkpoint(name: str, state: Record | None, history: list[Record], best: int | None) -> Checkpoint:
    if state is None:
        return Checkpoint(name, None, None, None, {}, False, {})
    step = int(state["global_step"])
    known = history or state.get("log_history", [])
    losses = [record["loss"] for record in known if "loss" in record and record["step"] <= step]
    measured = {key: value for record in known if record["step"] == step for key, value in record.items()}
    wer, accuracy = (
        {
            found["set"] or "": value
            for key, value in measured.items()
            if (found := re.fullmatch(rf"eval_((?P<set>.+)_)?{rate}", key)) and not key.endswith(NO_ANSWERS)
        }
        for rate in ("wer", "accuracy")
    )
    loss = losses[-1] if losses else None
    return Checkpoint(name, step, loss, measured.get("eval_loss"), wer, step == best, accuracy)


def _checkpoint_folders(run: Path) -> list[Path]:
    folders = [folder for folder in run.glob("checkpoint-*") if folder.is_dir()]
    return sorted(
        (folder for folder in folders if folder.name.removeprefix("checkpoint-").isdigit()),
        key=lambda folder: int(folder.name.removeprefix("checkpoint-")),
    )


def checkpoint_table(checkpoints: Iterable[Checkpoint]) -> str:
    """The checkpoints as lines of text for a terminal."""
    checkpoints = list(checkpoints)
    labels = any(found.accuracy for found in checkpoints)
    lines = [f"{'checkpoint':<24}{'step':>8}{'loss':>12}  {'accuracy' if labels else 'WER'}"]
    for found in checkpoints:
        if found.step is None:
            lines.append(f"{found.name:<24}{'not whole: its trainer state cannot be read':>8}")
            continue
        loss = "-" if found.loss is None else f"{found.loss:.4g}"
        best = "  (best)" if found.best else ""
        rates = describe_rates(found.accuracy if labels else found.wer)
        lines.append(f"{found.name:<24}{found.step:>8}{loss:>12}  {rates}{best}")
    return "\n".join(lines)


def describe_rates(rates: Mapping[str, float]) -> str:
    """Error rates or accuracies of one or several evaluation sets in percent."""
    if not rates:
        return "-"
    return ", ".join(f"{f'{name} ' if name else ''}{100 * rate:.2f} %" for name, rate in rates.items())


# ---- files ----


def _object(path: Path) -> Record:
    with open(path, encoding="utf-8") as file:
        try:
            found = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON ({error}). Restore it, or remove it to report without it.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object. Restore it, or remove it to report without it.")
    return found


def strict_json(value: Any, **options: Any) -> str:
    """JSON as its standard has it, in which NaN and infinity are null; Python's own would write words no parser knows.

    Args:
        options: of `json.dumps`.
    """
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def json_lines(path: Path) -> list[Record]:
    """The objects of a JSON lines file, [] where there is none; a last line that a killed run cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number} is no JSON ({error}). Mend the line, or remove the file to report without it."
            ) from error
    return found
