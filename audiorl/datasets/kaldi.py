"""Rows in a Kaldi folder: wav.scp, and if there text, segments and what else Kaldi keeps beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from audiorl.datasets.faults import BadRowsError, RowFault
from audiorl.datasets.formats import JsonRows, utf8_text
from audiorl.datasets.manifests import from_working_folder
from audiorl.datasets.tables import cell

_CHANNELS = {"a": 0, "1": 0, "b": 1, "2": 1}


def read_kaldi(folder: str, *, keep_unread: bool = False) -> JsonRows:
    """A Kaldi folder: wav.scp, and if there text, segments, utt2spk, utt2lang, utt2dur, reco2file_and_channel.

    Paths start at the working folder, as in Kaldi; at the folder itself if the first file lies there.

    Args:
        keep_unread: whether utterances that cannot be read are kept as such, if there are others.

    Raises:
        BadRowsError: commands instead of files, archives, times that are no numbers, recordings or utterances that are
            named in one file alone, each with its line. Of keys and channels that are wrong in any case.
    """
    recordings = _scp(folder)
    unusable = {name: problem for name, (_, path) in recordings.items() if (problem := _scp_problem(path))}
    if unusable and not keep_unread:
        numbered = enumerate(recordings.items())
        raise BadRowsError(
            [RowFault(place, i, *unusable[name]) for i, (name, (place, _)) in numbered if name in unusable]
        )
    tables = {name: _kaldi_table(folder, name) for name in ("text", "utt2spk", "utt2lang", "utt2dur")}
    segments = _kaldi_table(folder, "segments")
    channels = _kaldi_channels(folder)
    unread: dict[int, RowFault] = {}
    rows: list[dict[str, Any]] = []
    places = []
    for name, (place, value) in (segments or recordings).items():
        recording, *times = (value.split() or [""]) if segments else [name]
        problem = unusable.get(recording) or (_segment_fault(recordings, recording, times) if segments else None)
        places.append(place)
        if problem:
            unread[len(rows)] = RowFault(place, len(rows), *problem)
            rows.append({})
            continue
        span = (
            {} if not segments else {"start": float(times[0]), "end": None if float(times[1]) < 0 else float(times[1])}
        )
        heard = {"channel": channels[recording]} if recording in channels else {}
        rows.append({"id": name, **span, "audio": recordings[recording][1], **heard, **_kaldi_said(tables, name)})
    known = segments or recordings
    for name, (place, _) in tables["text"].items():
        if name not in known:
            problem = "the utterance is in the file text, but in no segment or recording", "Run fix_data_dir.sh."
            unread[len(rows)] = RowFault(place, len(rows), *problem)
            rows.append({})
            places.append(place)
    if unread and not (keep_unread and len(unread) < len(rows)):
        raise BadRowsError([unread[number] for number in sorted(unread)])
    return JsonRows(from_working_folder(rows, folder), places, unread)


def _kaldi_said(tables: Mapping[str, Mapping[str, tuple[str, str]]], name: str) -> dict[str, Any]:
    """The columns of an utterance beside its audio."""
    row: dict[str, Any] = {}
    for column, table in (("text", "text"), ("speaker", "utt2spk"), ("language", "utt2lang")):
        if tables[table]:
            row[column] = tables[table][name][1] if name in tables[table] else None
    if name in tables["utt2dur"]:
        row["duration"] = cell("duration", tables["utt2dur"][name][1])
    return row


def _kaldi_table(folder: str, name: str) -> dict[str, tuple[str, str]]:
    """Key -> place and the rest of its line; empty without the file."""
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return {}
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(utf8_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        key, *rest = line.split(None, 1)
        value = rest[0] if rest else ""
        place = f"{path}:{number}"
        if key in found:
            raise BadRowsError([RowFault(place, len(found), f"{key} is there twice", "Keep one of both lines.")])
        found[key] = (place, value.strip())
    return found


def _scp(folder: str) -> dict[str, tuple[str, str]]:
    """Recording -> its place in wav.scp, and its path."""
    found = _kaldi_table(folder, "wav.scp")
    if not found:
        raise ValueError(
            f"{os.path.join(folder, 'wav.scp')} has no lines. Write one for each recording: its id, its path."
        )
    return found


def _scp_problem(value: str) -> tuple[str, str] | None:
    """Why what wav.scp names is no file, and what to do."""
    if value.endswith("|") or value.startswith("|"):
        return (
            f"the recording is a command ({value[:80]}), and commands are not run",
            "Run each command once with its output in a file, and write the file's path into wav.scp.",
        )
    if value.rpartition(":")[2].isdigit() and value.lower().rpartition(":")[0].endswith(".ark"):
        remedy = "Write each recording to a file of its own (wav-copy), and name that file."
        return f"the recording lies in an archive ({value[:80]})", remedy
    return None if value else ("the recording has no path", "Write: recording-id path.")


def _segment_fault(recordings: Mapping[str, Any], recording: str, times: Sequence[str]) -> tuple[str, str] | None:
    if recording not in recordings:
        return f"the segment is of {recording!r}, which wav.scp does not have", "Add the recording to wav.scp."
    try:
        right = len([float(time) for time in times]) == 2
    except ValueError:
        right = False
    remedy = "Write: utterance recording start end, in seconds; an end of -1 is the recording's."
    return None if right else (f"the segment has the times {' '.join(times)!r}", remedy)


def _kaldi_channels(folder: str) -> dict[str, int]:
    """Recording -> channel, where a file has two."""
    found: dict[str, int] = {}
    for recording, (place, value) in _kaldi_table(folder, "reco2file_and_channel").items():
        channel = value.split()[-1].lower() if value else ""
        if channel not in _CHANNELS:
            problem = f"the channel is {channel!r}"
            raise BadRowsError([RowFault(place, len(found), problem, "Kaldi's channels are A and B.")])
        found[recording] = _CHANNELS[channel]
    # a file of one channel is called A, too
    return found if any(found.values()) else {}
