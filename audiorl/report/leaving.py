"""What a run leaves in its folder for its report; `audiorl.report.run_folder` lists the files and reads them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from audiorl.audio import AudioFault, row_audio_seconds
from audiorl.evaluation.changes import changes
from audiorl.evaluation.clips import audio_path, clip_of, row_channel
from audiorl.evaluation.comparison import Decoded
from audiorl.evaluation.document import Compared, Evaluated, document, write_document
from audiorl.evaluation.measurement import Measurement, measure
from audiorl.evaluation.settings import LABELS, EvaluationSettings
from audiorl.evaluation.transcription import TranscribedRow
from audiorl.report.audio import compressed
from audiorl.report.run_folder import (
    AUDIO_FOLDER,
    EVALUATION_FILE,
    GROUPS_FILE,
    LEFT_FOLDER,
    PAIRS_FILE,
    RUN_FILE,
    audio_file,
    json_lines,
    strict_json,
)

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

    def keep(self, name: str, entry: Any, channel: int | None = None) -> str | None:
        """The absolute path or address of a row's clip; None where it has none, and is written under `name` instead.

        Args:
            entry: `audio` of a row in the library's form, see `audiorl.datasets.speech_rows`.
            channel: which of its channels is written; None for the mean of all.

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
            content = compressed(entry, channel)
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
        "audio": kept.keep(f"row-{row['row_id']}", row["audio"], row_channel(row)),
        "channel": row_channel(row),
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


def start_run(run: str | os.PathLike, step: int) -> None:
    """Take away what is of an earlier run, or will come again.

    Args:
        step: 0 of a new run, which starts with nothing; of a resumed one its groups of later steps go.
    """
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
    labels: Sequence[str] | None = None,
) -> None:
    """Write `evaluation.json`: every clip's transcript with what two models made of it, and all rates.

    Args:
        rows: N rows in the library's form, see `audiorl.datasets.speech_rows`.
        before, after: N hypotheses each, in the order of the rows.
        systems: their names.
        normalise: as in `audiorl.evaluation.count_errors`.
        labels: all that the models can say, which is right or wrong as a whole, letter for letter; None for words.
    """
    text_column = "text" if "text" in rows[0] else "chosen"
    settings = EvaluationSettings(normalise=normalise, text_column=text_column)
    if labels is not None:
        settings = EvaluationSettings(task=LABELS, labels=labels, normalise="none", text_column=text_column)
    kept = KeptAudio(run)
    seconds = [row_seconds(row) for row in rows]
    measured = [_measured(rows, seconds, decoded, settings) for decoded in (before, after)]
    for place in _most_changed(*measured):
        kept.keep(f"clip-{place}", rows[place]["audio"], row_channel(rows[place]))
    names = (systems.before, systems.after)
    evaluated = [
        Evaluated(name, systems.dataset, 0, dict(systems.decoding), found)
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
