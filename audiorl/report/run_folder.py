"""What a run left in its folder, read back.

RUN/metrics.jsonl              every log of the trainer, one JSON object a line (`audiorl.trainers.logs`); what is not a
                               finite number is null, as JSON has no other word for it
RUN/trainer_state.json         the same, where a run has no metrics.jsonl
RUN/checkpoint-N/              with a trainer_state.json each
RUN/evaluation.json            transcripts before and after, in the format of `audiorl evaluate --output`
RUN/report/run.json            what was trained on what (`audiorl.report.run_folder`)
RUN/report/pairs.jsonl         chosen and rejected transcripts
RUN/report/groups.jsonl        sampled hypotheses of a clip with their rewards; of RAFT, which were kept
RUN/report/audio/*.mp3         clips that lie in no file of their own
RUN/recipe.json                of a recipe: how each of its stages ended (`audiorl.commands.tune`)
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from audiorl.audio import AudioFault, row_audio_seconds, row_segment
from audiorl.evaluation.document import Compared, document, read_document, write_document
from audiorl.evaluation.measurement import Measurement, changes, measure
from audiorl.evaluation.settings import EvaluationSettings
from audiorl.evaluation.significance import Decoded
from audiorl.evaluation.transcription import TranscribedRow, audio_path, clip_of, row_channel
from audiorl.files import (
    AUDIO_FOLDER,
    EARLIER_EVALUATION,
    EVALUATION_FILE,
    GROUPS_FILE,
    LEFT_FOLDER,
    LIST_FILE,
    METRICS_FILE,
    PAIRS_FILE,
    RECIPE_FILE,
    RUN_FILE,
    STATE_FILE,
    json_lines,
    strict_json,
)
from audiorl.report.audio import compressed
from audiorl.text.tasks import TRANSCRIPTION, Task

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
    earlier: bool = False  # of a run that was in the folder before this one

    def __str__(self) -> str:
        figures = {"loss": self.loss, "evaluation loss": self.eval_loss}
        told = [f"{name} {value:.4g}" for name, value in figures.items() if value is not None]
        rates = {"WER": self.wer, "accuracy": self.accuracy}
        told += [f"{name} {rate:.1%} ({of})" for name, found in rates.items() for of, rate in found.items()]
        return f"{self.name}: {', '.join(told) or 'nothing was logged'}{', the best one' * self.best}"


@dataclass
class RunFolder:
    """Everything a report shows; fields are empty for files that the run did not write.

    Attributes:
        stages: of a recipe, see `recipe_stages`.
        trained: whether it is a run that trained; False of a file that `audiorl evaluate` wrote.
    """

    path: Path
    history: list[Record] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    evaluation: Record | None = None
    facts: Record = field(default_factory=dict)
    pairs: list[Record] = field(default_factory=list)
    groups: list[Record] = field(default_factory=list)
    stages: list[Record] = field(default_factory=list)
    trained: bool = True

    def kept_audio(self, name: str) -> str | None:
        """The file of a clip that the run kept for the report; None where it did not."""
        file = audio_file(self.path, name)
        return str(file) if file.is_file() else None


def audio_file(run: Path, name: str) -> Path:
    """Where a run keeps the clip of that name."""
    return run / LEFT_FOLDER / AUDIO_FOLDER / f"{name}.mp3"


def read_run(run: Path) -> RunFolder:
    """Read a run's folder, or a JSON file written by `audiorl evaluate --output`.

    Raises:
        ValueError: there is nothing that a report could show, or a file is damaged.
    """
    if run.is_file():
        return RunFolder(run.parent, evaluation=read_document(run), trained=False)
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
    found.stages = recipe_stages(run, found.history)
    if not (found.history or found.evaluation or found.checkpoints or found.pairs or found.groups):
        raise ValueError(
            f"{run} holds nothing to report: no {METRICS_FILE}, {STATE_FILE}, {EVALUATION_FILE} or checkpoint. Name "
            "the output_dir of a run, or a file that `audiorl evaluate --output` wrote."
        )
    return found


def recipe_stages(run: Path, history: Iterable[Record] = ()) -> list[Record]:
    """How the stages of a recipe ended, in their order; [] of any other run.

    Args:
        run: the recipe's folder.
        history: its log, whose records name their stage.

    Returns:
        `{"name", "before", "after", "interval", "kept", "minutes", "step"}` each. Error rates are fractions, None where
        none was measured; `interval` is that of `after`, `step` the first one in the log, None of pairs.
    """
    if not (run / RECIPE_FILE).is_file():
        return []
    steps: dict[str, int] = {}
    for record in history:
        if "stage" in record:
            steps.setdefault(record["stage"], record["step"])
    found = []
    for ended in _object(run / RECIPE_FILE)["ended"]:
        name = os.path.basename(ended["folder"])
        measured = run / name / EVALUATION_FILE
        known = read_document(measured)["measurements"] if measured.is_file() and ended["after"] is not None else []
        found.append(
            {
                **{key: ended[key] for key in ("before", "after", "kept")},
                "name": name,
                "minutes": ended["seconds"] / 60,
                "interval": known[-1]["summary"]["interval"] if known else None,
                "step": steps.get(name),
            }
        )
    return found


def _history(run: Path) -> list[Record]:
    if (run / METRICS_FILE).is_file():
        return _with_nan(json_lines(run / METRICS_FILE))
    states = [run / STATE_FILE, *(folder / STATE_FILE for folder in reversed(_checkpoint_folders(run)))]
    return next((_with_nan(_object(state).get("log_history", [])) for state in states if state.is_file()), [])


def _with_nan(history: Iterable[Record]) -> list[Record]:
    """Logs hold only numbers; a null was NaN or infinite."""
    return [{name: math.nan if value is None else value for name, value in record.items()} for record in history]


def run_checkpoints(run: str | os.PathLike, history: Iterable[Record] | None = None) -> list[Checkpoint]:
    """The run's checkpoints by step, with what its log says of them.

    Args:
        run: its output_dir.
        history: its log, default what lies in the folder.
    """
    run = Path(run)
    history = _history(run) if history is None else history
    folders = _checkpoint_folders(run)
    states: list[Record | None] = []
    for folder in folders:
        try:
            states.append(_object(folder / STATE_FILE))
        except (OSError, ValueError):
            states.append(None)
    facts = run / LEFT_FOLDER / RUN_FILE
    own = _object(facts).get("run_id") if facts.is_file() else None
    earlier = [own is not None and _run_id(folder) not in (own, None) for folder in folders]
    ours = [state for state, other in zip(states, earlier, strict=True) if state and not other]
    best = next((s["best_global_step"] for s in reversed(ours) if s.get("best_global_step")), None)
    records = list(history)
    return [
        _checkpoint(folder.name, state, [] if other else records, None if other else best)._replace(earlier=other)
        for folder, state, other in zip(folders, states, earlier, strict=True)
    ]


def _run_id(checkpoint: Path) -> str | None:
    """Which run wrote a checkpoint; None where its list of files is missing or does not say."""
    try:
        return _object(checkpoint / LIST_FILE)["run"]["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


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


def pick_checkpoint(checkpoints: Iterable[Checkpoint], by: str) -> Checkpoint:
    """One checkpoint of a run.

    Args:
        checkpoints: from `run_checkpoints`.
        by: "wer", the lowest mean over the evaluation sets (of a model that answers with labels, the highest
            accuracy); "eval_loss", the lowest; "last", the highest step; or a step. Of equal ones the earliest. One of
            an earlier run is picked by its step alone.

    Raises:
        ValueError: none was measured so, or there is no such step.
    """
    known = [found for found in checkpoints if found.step is not None]
    ours = [found for found in known if not found.earlier]
    steps = ", ".join(str(found.step) for found in known)
    if by in ("last", "wer", "eval_loss") and known and not ours:
        raise ValueError(
            f"All checkpoints here are of an earlier run, at steps {steps}; the last run wrote none. Pick one by its "
            "step, or take the model that lies in the folder itself."
        )
    if by == "last" and ours:
        return ours[-1]
    if by in ("wer", "eval_loss"):
        measured = [(value, found) for found in ours if (value := _badness(found, by)) is not None]
        if not measured:
            raise ValueError(
                f"No checkpoint has {'a WER' if by == 'wer' else 'an eval_loss'}: none was measured at steps {steps}. "
                f"Train with --eval_strategy steps{' --eval_wer true' if by == 'wer' else ''}, or pick last or a step."
            )
        return min(measured, key=lambda pair: pair[0])[1]
    if found := next((found for found in known if by == str(found.step)), None):
        return found
    raise ValueError(f"A checkpoint is picked by wer, eval_loss, last or a step of {steps or 'none'}; got {by!r}.")


def _badness(found: Checkpoint, by: str) -> float | None:
    """What is lowest of the best; None where it was not measured, or is not a number."""
    if by == "eval_loss":
        value = found.eval_loss
    elif found.accuracy:
        value = -sum(found.accuracy.values()) / len(found.accuracy)
    else:
        value = sum(found.wer.values()) / len(found.wer) if found.wer else None
    return None if value is None or math.isnan(value) else value


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
        best = "  (best)" if found.best else "  (of an earlier run)" if found.earlier else ""
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
            raise ValueError(f"{path} is not JSON ({error}). Restore it, or remove it to report without it.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object. Restore it, or remove it to report without it.")
    return found


# Pairs of a page; the first ones. The page says how many there were.
MOST_PAIRS = 1000
# Bytes of clips that lie in no file of their own; as much as a page embeds by default.
KEPT_BYTES = 15_000_000
# Of a run that was asked for no page. Compressing takes a CPU second for 180 s of speech, before the first step: 2.5 s
# for these bytes, 25 s for the others (measured on one core of an AMD EPYC).
UNASKED_BYTES = 1_500_000


class Systems(NamedTuple):
    """What is compared: the names of two models and of the data set, and how the models decoded."""

    before: str
    after: str
    dataset: str
    decoding: Mapping[str, Any]


class KeptAudio:
    """Clips that exist only in the rows are written, compressed, beside the run until `limit` bytes are full."""

    def __init__(self, run: str | os.PathLike, limit: int = KEPT_BYTES):
        self.run = Path(run)
        self.room = limit

    def keep(
        self, name: str, entry: Any, channel: int | None = None, segment: tuple[float, float | None] | None = None
    ) -> str | None:
        """The absolute path or address of a row's clip; None where it has none, and is written under `name` instead.

        Args:
            entry: `audio` of a row in the library's form, see `audiorl.datasets.speech_rows`.
            channel: which of its channels is written; None for the mean of all.
            segment: start and end of the part that is written, in seconds; None for all of it.

        Raises:
            AudioFault: the clip cannot be read.
        """
        if (path := audio_path(entry)) is not None:
            return path
        file = audio_file(self.run, name)
        if file.exists():
            self.room -= file.stat().st_size
        elif self.room > 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            content = compressed(entry, channel, segment)
            self.room -= len(content)
            file.write_bytes(content)
        return None


def row_seconds(row: Mapping[str, Any]) -> float:
    """The length of a row's clip, by its `duration` column or by the audio's header."""
    duration = row.get("duration")
    return row_audio_seconds(row) if duration is None else float(duration)


def place_of(row: Mapping[str, Any], kept: KeptAudio) -> dict[str, Any]:
    """Where a row of the training set is from, and its clip."""
    return {
        "row_id": row["row_id"],
        "where": row["where"],
        "seconds": row_seconds(row),
        "audio": kept.keep(f"row-{row['row_id']}", row["audio"], row_channel(row), row_segment(row)),
        "channel": row_channel(row),
        "segment": row_segment(row),
    }


def leave_facts(run: str | os.PathLike, facts: Mapping[str, Any]) -> None:
    """Write what was trained on what, in the order in which the page shows it."""
    path = _folder(run) / RUN_FILE
    path.write_text(strict_json(dict(facts), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def leave_pairs(run: str | os.PathLike, rows: Iterable[Mapping[str, Any]], kept: KeptAudio) -> None:
    """Write the first `MOST_PAIRS` rows with `chosen` and `rejected`; of clips that cannot be read nothing.

    Whoever trains on such a clip stops at it or skips it, and tells so.
    """
    records = []
    for row in islice(rows, MOST_PAIRS):
        with suppress(AudioFault):
            records.append({**place_of(row, kept), "chosen": row["chosen"], "rejected": row["rejected"]})
    _write_lines(_folder(run) / PAIRS_FILE, records, "w")


def start_run(run: str | os.PathLike, step: int, last_step: int) -> None:
    """Take away what is of an earlier run, or will come again.

    What was measured before the run trains is true of other weights: it lies in `EARLIER_EVALUATION` then.

    Args:
        step: 0 of a new run, which starts with nothing; of a resumed one its groups of later steps go.
        last_step: where the run ends.
    """
    measured = Path(run) / EVALUATION_FILE
    if step < last_step and measured.exists():
        measured.replace(Path(run) / EARLIER_EVALUATION)
    folder = _folder(run)
    if step == 0:
        clips = folder.glob(f"{AUDIO_FOLDER}/*.mp3")
        for path in (folder / RUN_FILE, folder / PAIRS_FILE, folder / GROUPS_FILE, *clips):
            path.unlink(missing_ok=True)
    elif groups := json_lines(folder / GROUPS_FILE):
        _write_lines(folder / GROUPS_FILE, [group for group in groups if group["step"] <= step], "w")


def leave_groups(run: str | os.PathLike, groups: Iterable[Mapping[str, Any]]) -> None:
    """Add groups: `place_of` a row, `step`, `transcript`, `hypotheses` with `text`, `reward`, `rewards`, or `kept`."""
    _write_lines(_folder(run) / GROUPS_FILE, groups, "a")


def leave_evaluation(
    run: str | os.PathLike,
    rows: Sequence[Mapping[str, Any]],
    before: Decoded,
    after: Decoded,
    systems: Systems,
    *,
    normalise: str | Callable[[str], str],
    task: Task = TRANSCRIPTION,
) -> None:
    """Write `evaluation.json`: every clip's transcript with what two models made of it, and all rates.

    Args:
        rows: N rows in the library's form, see `audiorl.datasets.speech_rows`.
        before, after: N hypotheses each, in the order of the rows.
        systems: their names.
        normalise: as in `audiorl.evaluation.count_errors`.
        task: of the models; labels are right or wrong as a whole, letter for letter.
    """
    text_column = "text" if "text" in rows[0] else "chosen"
    settings = EvaluationSettings(text_column=text_column, **task.evaluation(normalise))
    kept = KeptAudio(run)
    seconds = [row_seconds(row) for row in rows]
    measured = [_measured(rows, seconds, decoded, settings) for decoded in (before, after)]
    for place in _most_changed(*measured):
        kept.keep(f"clip-{place}", rows[place]["audio"], row_channel(rows[place]), row_segment(rows[place]))
    names = (systems.before, systems.after)
    evaluated = [
        dataclasses.replace(found, model=name, dataset=systems.dataset, decoding=dict(systems.decoding))
        for name, found in zip(names, measured, strict=True)
    ]
    found = document(settings, evaluated, [Compared(0, 1, changes(*measured))])
    write_document(found, Path(run) / EVALUATION_FILE)


def _measured(
    rows: Sequence[Mapping[str, Any]], seconds: Sequence[float], decoded: Decoded, settings: EvaluationSettings
) -> Measurement:
    clips = [
        dataclasses.replace(clip_of(TranscribedRow(row, said, length), place, settings), transcript=transcript)
        for place, (row, length, transcript, said) in enumerate(zip(rows, seconds, *decoded, strict=True))
    ]
    return measure(clips, settings)


def _most_changed(before: Measurement, after: Measurement) -> list[int]:
    """Places of the clips, the largest change first: whose audio a listener wants most."""
    change = abs(after.errors.errors - before.errors.errors).tolist()
    return sorted(range(len(change)), key=lambda place: -change[place])


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]], mode: str) -> None:
    with open(path, mode, encoding="utf-8") as file:
        file.writelines(strict_json(dict(record)) + "\n" for record in records)


def _folder(run: str | os.PathLike) -> Path:
    folder = Path(run) / LEFT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder
