"""Rows in tars: WebDataset, whose members of one name are one row, and Lhotse Shar."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from audiorl.audio.sources import SOUND_SUFFIXES
from audiorl.datasets.faults import BadRowsError, RowFault
from audiorl.datasets.formats import JsonRows, read_json_rows
from audiorl.datasets.manifests import FormFault, cut_columns
from audiorl.datasets.storage import NO_AUDIO

Row = Mapping[str, Any]


class TarRows(NamedTuple):
    """The rows of tars without their audio, and where that is."""

    found: JsonRows
    tars: list[str]
    form: str


class _Member(NamedTuple):
    ending: str
    name: str
    content: bytes | None  # of texts; None of audio


def read_tars(tars: Sequence[str], *, keep_unread: bool = False) -> TarRows:
    """WebDataset: members of one name, up to the first dot, are one row: its audio, .json (columns), .txt (text), and
    other texts, each a column named like its ending (.cls is `label`).

    Args:
        keep_unread: whether rows that cannot be read are kept as such, if there are others.

    Raises:
        BadRowsError: rows with no audio, with two, or with texts that are none.
        ValueError: no tar, or a damaged one.
    """
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    unread: dict[int, RowFault] = {}
    for tar in tars:
        for key, members in _groups(tar):
            rows.append({})
            places.append(f"{tar}:{key}")
            try:
                rows[-1] = _tar_row(key, members)
            except FormFault as fault:
                number = len(rows) - 1
                unread[number] = RowFault(places[-1], number, fault.problem, fault.remedy)
    if unread and not (keep_unread and len(unread) < len(rows)):
        raise BadRowsError(list(unread.values()))
    if not rows:
        raise ValueError(f"{tars[0]} has no members. Write clip.wav and clip.txt or clip.json into it.")
    return TarRows(JsonRows(rows, places, unread), list(tars), "WebDataset")


def _tar_row(key: str, members: Sequence[_Member]) -> dict[str, Any]:
    sounds = [member.name for member in members if member.content is None]
    if len(sounds) != 1:
        raise FormFault(
            f"it has {len(sounds)} audio files ({[member.name for member in members]})",
            f"Give each row one file that ends in {', '.join(SOUND_SUFFIXES[:5])}, ...; members of one row share the "
            "name up to the first dot and follow each other.",
        )
    row: dict[str, Any] = {}
    for member in members:
        if member.content is None:
            continue
        try:
            text = member.content.decode("utf-8-sig")
            value = json.loads(text) if member.ending == "json" else text
        except (ValueError, RecursionError) as error:
            what = "JSON" if member.ending == "json" else "text in UTF-8"
            raise FormFault(
                f"{member.name} is not {what}", "Rows hold audio and texts; leave other members out."
            ) from error
        if member.ending != "json":
            row[{"txt": "text", "cls": "label"}.get(member.ending, member.ending)] = value.rstrip("\r\n")
        elif isinstance(value, dict):
            row |= value
        else:
            raise FormFault(f"{member.name} is not a JSON object", 'Write the row\'s columns: {"text": "..."}.')
    row.pop("audio", None)
    return {"id": key, **row}


def _groups(tar: str, *, audio: bool = False) -> Iterator[tuple[str, list[_Member]]]:
    """Key and members of each row, in the order of the tar; the content of texts, or of audio."""
    key: str | None = None
    members: list[_Member] = []
    for name, content in _tar_members(tar, audio=audio):
        folder, file = os.path.split(name)
        stem, _, ending = file.partition(".")
        own = os.path.join(folder, stem)
        if own != key and members:
            yield str(key), members
            members = []
        key = own
        members.append(_Member(ending.lower(), name, content))
    if members:
        yield str(key), members


def _tar_members(tar: str, *, audio: bool) -> Iterator[tuple[str, bytes | None]]:
    """Name of each file, and its content: that of audio files alone, or of all others."""
    try:
        with tarfile.open(tar) as found:
            for member in found:
                is_sound = member.name.lower().endswith(SOUND_SUFFIXES)
                if not member.isfile() or os.path.basename(member.name).startswith("."):
                    continue
                file = found.extractfile(member)
                content = None if file is None or is_sound != audio else file.read()
                if content is not None and len(content) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield member.name, content
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{tar} is not a tar that can be read ({error}). Copy or download it again.") from error


def tar_audio(
    tars: Sequence[str], stamps: Sequence[tuple[int, int]], unread: Sequence[int], grouped: bool
) -> Iterator[dict[str, Any]]:
    """The audio of the rows of tars, in their order.

    Args:
        stamps: size and time of the last change of each, so that a changed tar is read anew.
        unread: numbers of the rows that could not be read: they get none.
        grouped: whether the members of one name are a row; else each audio file is one.
    """
    numbers, lost = count(), set(unread)
    for tar in tars:
        groups = (members for _, members in _groups(tar, audio=True)) if grouped else _sounds_alone(tar)
        for members in groups:
            if next(numbers) in lost:
                yield {"audio": dict(NO_AUDIO)}
                continue
            (sound,) = [member for member in members if member.content is not None]
            yield {"audio": {"bytes": sound.content, "path": os.path.basename(sound.name)}}


def _sounds_alone(tar: str) -> Iterator[list[_Member]]:
    for name, content in _tar_members(tar, audio=True):
        if content is not None:
            yield [_Member("", name, content)]


def read_shar(folder: str, *, keep_unread: bool = False) -> TarRows:
    """Lhotse Shar: cuts in cuts.NNNNNN.jsonl.gz, their audio in recording.NNNNNN.tar, in the same order.

    Args:
        keep_unread: whether cuts that are no rows are kept as such, if there are others.

    Raises:
        ValueError: a shard without its tar, or a tar with other cuts.
        BadRowsError: cuts that are no rows.
    """
    shards = _shar_shards(folder)
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    unread: dict[int, RowFault] = {}
    for cuts, tar in shards:
        found = read_json_rows(cuts)
        names = [os.path.splitext(members[0].name)[0] for members in _sounds_alone(tar)]
        ids = [str(row.get("id")) for row in found.rows]
        if names != ids:
            off = next(
                (i for i, pair in enumerate(zip(names, ids, strict=False)) if pair[0] != pair[1]),
                min(len(names), len(ids)),
            )
            raise ValueError(
                f"{tar} does not hold the cuts of {cuts}: they differ from number {off + 1} on ({len(names)} clips, "
                f"{len(ids)} cuts). Export both again."
            )
        for row, place in zip(found.rows, found.places, strict=True):
            rows.append({})
            try:
                if not isinstance(row.get("supervisions"), list):
                    raise FormFault("this is not a cut with supervisions", "Export the cuts again.")
                rows[-1] = cut_columns(row, whole=True)
            except FormFault as fault:
                unread[len(rows) - 1] = RowFault(place, len(rows) - 1, fault.problem, fault.remedy)
        places += found.places
    if unread and not (keep_unread and len(unread) < len(rows)):
        raise BadRowsError(list(unread.values()))
    return TarRows(JsonRows(rows, places, unread), [tar for _, tar in shards], "Lhotse Shar")


def _shar_shards(folder: str) -> list[tuple[str, str]]:
    shards = []
    for file in sorted(os.listdir(folder)):
        if not is_shar_cuts(file):
            continue
        tar = os.path.join(folder, file.replace("cuts.", "recording.", 1).split(".jsonl")[0] + ".tar")
        if not os.path.isfile(tar):
            raise ValueError(f"{os.path.join(folder, file)} has no {tar} beside it. Copy the recordings' tars too.")
        shards.append((os.path.join(folder, file), tar))
    return shards


def is_shar_cuts(file: str) -> bool:
    return file.startswith("cuts.") and file.endswith((".jsonl.gz", ".jsonl"))


def is_tar(file: str) -> bool:
    return file.endswith((".tar", ".tar.gz", ".tgz"))


def folder_tars(name: str) -> list[str]:
    return [os.path.join(name, file) for file in sorted(os.listdir(name)) if is_tar(file)]
