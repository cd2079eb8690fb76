"""The forms in which rows come: JSON lines, JSON arrays, folders of audio, other column names. And why others do not
load.

The forms of other tools are in `manifests`.

1. Every element of a JSON file is kept with its line number, for messages.
2. In a folder of audio files each file is a clip. metadata.csv or metadata.jsonl has a row for each clip: its path from
   the folder on in `file_name`, and its other columns. Without metadata the rows are the clips alone, in the order of
   their names. `datasets` calls this layout an audio folder; it is read here because `datasets` needs a decoder for it.
3. Columns with other names are renamed. A column that does not exist is an error.
4. Files that `export_rows` wrote are recognized by their columns and renamed without being asked.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from datasets import Dataset, Features, IterableDataset

from audiorl.audio.sources import SOUND_SUFFIXES
from audiorl.datasets.corpus import nearest_corpus
from audiorl.datasets.faults import BadRowsError, RowFault

# what `datasets` says of a repository with a loading script
_SCRIPT = "scripts are no longer supported"


def is_about_loading(error: Exception) -> bool:
    """Whether a loader's RuntimeError is about the data set, and not about the program."""
    return _SCRIPT in str(error)


def loading_problem(name: str, error: Exception, hint: str = "") -> ValueError:
    """Our error for a data set that could not be loaded.

    Args:
        name: of the data set or its folder.
        error: what `datasets` raised.
        hint: what else to do, a sentence.
    """
    reason = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
    hint = f" {hint}" if hint else ""
    told = f"{name} could not be loaded as a data set: {reason.rstrip('.')}."
    if "gated" in reason:
        page = f"https://huggingface.co/datasets/{name}"
        return ValueError(f"{told} Ask for access on {page}, then run `hf auth login`.{hint}")
    if _SCRIPT in reason:
        return ValueError(
            f"{told} Load its Parquet copy instead: datasets.load_dataset(..., revision='refs/convert/parquet') where "
            f"the Hub has made one, or a corpus that `audiorl datasets` lists.{hint}"
        )
    near = nearest_corpus(name)
    meant = f"Did you mean the corpus {near!r}? " if near else ""
    return ValueError(
        f"{told} {meant}Check the name and the split, and for the Hub the network and `hf auth login`; a folder of "
        f"audio files needs a JSON lines file that lists them.{hint}"
    )


_BLANK = re.compile(r"[ \t\r\n]*")
# First bytes -> the encoding of a text; a text without a mark begins with a bracket or a letter
_ENCODINGS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}
_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 4096
# First bytes -> what a file is that holds no rows, and what to do
_NO_ROWS = {
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "Run: git lfs pull."),
    b"PK\x03\x04": ("a ZIP archive or a spreadsheet", "Unpack it, or save the sheet as CSV in UTF-8."),
    b"BZh": ("a bzip2 archive", "Unpack it with bunzip2."),
    b"\xfd7zXZ": ("an xz archive", "Unpack it with unxz."),
    b"\x28\xb5\x2f\xfd": ("a Zstandard archive", "Unpack it with unzstd."),
    b"ARROW1": ("an Arrow file", "Pass datasets.Dataset.from_file(...), or the folder of save_to_disk."),
    b"\x80\x04": ("a pickle, which may hold a program", "Write its rows as JSON lines."),
    b"<!doctype html": ("an HTML page, as servers send in place of a file", "Download the file itself."),
    b"<html": ("an HTML page, as servers send in place of a file", "Download the file itself."),
    b"RIFF": ("a recording", "Pass a folder of clips, or a file of rows that names it."),
    b"fLaC": ("a recording", "Pass a folder of clips, or a file of rows that names it."),
    b"OggS": ("a recording", "Pass a folder of clips, or a file of rows that names it."),
    b"ID3": ("a recording", "Pass a folder of clips, or a file of rows that names it."),
}


def read_text(path: str | os.PathLike[str]) -> bytes:
    """The text of a file in UTF-8, without a mark: UTF-8, UTF-16 and UTF-32 are read, also behind gzip.

    Raises:
        ValueError: the file holds no rows, by its first bytes, or is damaged.
    """
    name = os.fspath(path)
    with open(name, "rb") as file:
        content = file.read()
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{name} is gzip that is cut off or damaged ({error}). Copy it again.") from error
    _refuse_no_rows(name, content)
    encoding = _encoding(content)
    if encoding is None:
        return content
    try:
        return content.decode(encoding).encode()
    except UnicodeError as error:
        raise ValueError(
            f"{name} begins as {encoding.upper()}, but is not valid ({error}). Write it anew as UTF-8, for example: "
            f"iconv -c -f {encoding} -t UTF-8 IN > OUT."
        ) from error


def utf8_text(name: str) -> str:
    """The text of a file; see `read_text`.

    Raises:
        ValueError: it is in another encoding, with the line.
    """
    content = read_text(name)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{name}:{line} is not UTF-8 (byte 0x{content[error.start]:02x}). {AS_UTF8}") from error


def text_start(path: str | os.PathLike[str]) -> bytes:
    """The first bytes of a text that are no space, in UTF-8; of a gzip those inside. The file is not read as a whole.

    Raises:
        ValueError: the file holds no rows, by its first bytes.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
        except zlib.error:
            return b""  # `read_text` says that it is damaged
    _refuse_no_rows(os.fspath(path), head)
    encoding = _encoding(head)
    text = head if encoding is None else head.decode(encoding, errors="ignore").encode()
    return text.lstrip()


def _refuse_no_rows(name: str, content: bytes) -> None:
    for start, (kind, remedy) in _NO_ROWS.items():
        if content[: len(start)].lower() == start.lower():
            raise ValueError(f"{name} is {kind}. {remedy}")


def _encoding(content: bytes) -> str | None:
    """None for UTF-8, whose faults are told with their lines."""
    for mark, encoding in _ENCODINGS.items():
        if content.startswith(mark):
            return encoding
    zeros = "".join("0" if byte == 0 else "x" for byte in content[:4])
    wide = {"x000": "utf-32-le", "000x": "utf-32-be"}
    return wide.get(zeros) or {"x0": "utf-16-le", "0x": "utf-16-be"}.get(zeros[:2])


AS_UTF8 = "Write the file anew as UTF-8: iconv -f LATIN1 -t UTF-8 IN > OUT."
_REMEDY = 'Write one JSON object for each row, for example {"audio": "clip.wav", "text": "..."}.'


class JsonRows(NamedTuple):
    """The objects of a file, where each of them stands, and by their number the lines that could not be read.

    Such a line has an empty row in its place.
    """

    rows: list[dict[str, Any]]
    places: list[str]
    unread: Mapping[int, RowFault] = MappingProxyType({})


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice, and only one of the two could be kept")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def read_json_rows(path: str | os.PathLike[str], *, keep_unread: bool = False) -> JsonRows:
    """Read a file of JSON lines, or of one JSON array: its content tells which.

    Args:
        path: of the file.
        keep_unread: whether lines and elements that cannot be read are kept as such, if there are others.

    Returns:
        Rows with "path:line", the path as given; "path: item n", from 1, where elements of an array share a line.

    Raises:
        BadRowsError: what does not parse, is no object, or names a column twice; of JSON lines all such lines. An
            array that does not parse is refused in any case, for nobody knows where its next element starts.
        ValueError: see `read_text`; or one object holds all rows.
    """
    name = os.fspath(path)
    content = read_text(name)
    if content.lstrip()[:1] == b"[":
        rows, places = _array_rows(name, content)
    else:
        rows, places = line_rows(name, content)
    unread = {number: fault for number, fault in enumerate(rows) if isinstance(fault, RowFault)}
    if unread and not (keep_unread and len(unread) < len(rows)):
        _refuse_one_object(name, content)
        raise BadRowsError(list(unread.values()))
    return JsonRows([{} if number in unread else row for number, row in enumerate(rows)], places, unread)


def _refuse_one_object(name: str, content: bytes) -> None:
    """Say so if a file is one JSON object around its rows."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return
    if not isinstance(whole, dict):
        return
    lists = [key for key, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if lists:
        raise ValueError(
            f"{name} is one JSON object with its rows under {lists[0]!r}. Write that list alone, for example: "
            f"jq .{lists[0]} IN > OUT."
        )
    if len(whole) > 1 and all(isinstance(value, dict) for value in whole.values()):
        raise ValueError(
            f"{name} is one JSON object whose keys are the ids of its rows ({next(iter(whole))!r}, ...). Write an "
            "array with the id inside each row: jq '[to_entries[] | {id: .key} + .value]' IN > OUT."
        )


def is_plain_lines(name: str) -> bool:
    """Whether a file is UTF-8 without a mark, neither packed nor one array, so that each of its lines is read alone."""
    with open(name, "rb") as file:
        head = file.read(_HEAD_BYTES)
    return _encoding(head) is None and head.lstrip()[:1] == b"{"


def line_rows(name: str, content: bytes, first_line: int = 1) -> tuple[list[Any], list[str]]:
    """An object, or the fault, of each line that is not blank, and its place.

    Args:
        first_line: number of the first line of `content` in the file.
    """
    rows: list[Any] = []
    places: list[str] = []
    # Not splitlines(): U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(content.split(b"\n"), start=first_line):
        if not line or line.isspace():
            continue
        place = f"{name}:{number}"
        try:
            row = _DECODER.decode(line.decode())
        except (ValueError, RecursionError) as error:
            row = RowFault(place, len(rows), _reason(error), _remedy(error))
        rows.append(row if isinstance(row, dict | RowFault) else _no_object(place, len(rows), row))
        places.append(place)
    return rows, places


def _array_rows(name: str, content: bytes) -> tuple[list[Any], list[str]]:
    """An object, or the fault, of each element, and its place."""
    elements, lines = _array_elements(name, content)
    own_lines = len(set(lines)) == len(lines)
    places = [f"{name}:{line}" if own_lines else f"{name}: item {i}" for i, line in enumerate(lines, start=1)]
    rows = [
        element if isinstance(element, dict) else _no_object(place, number, element)
        for number, (place, element) in enumerate(zip(places, elements, strict=True))
    ]
    return rows, places


def _array_elements(name: str, content: bytes) -> tuple[list[Any], list[int]]:
    """The elements and the line on which each starts."""
    elements: list[Any] = []
    lines: list[int] = []
    line, counted = 1, 0
    try:
        text = content.decode()
        position = _behind_blank(text, text.index("[") + 1)
        more = text[position : position + 1] != "]"
        while more:
            line += text.count("\n", counted, position)
            counted = position
            element, position = _DECODER.raw_decode(text, position)
            elements.append(element)
            lines.append(line)
            position = _behind_blank(text, position)
            more = text[position : position + 1] == ","
            if more:
                position = _behind_blank(text, position + 1)
        if text[position : position + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        if _behind_blank(text, position + 1) != len(text):
            raise json.JSONDecodeError("Extra data behind the array", text, position + 1)
    except json.JSONDecodeError as error:
        fault = RowFault(f"{name}:{error.lineno}", len(elements), _reason(error), _remedy(error))
        raise BadRowsError([fault]) from error
    except UnicodeDecodeError as error:
        broken = content.count(b"\n", 0, error.start) + 1
        raise BadRowsError([RowFault(f"{name}:{broken}", len(elements), _reason(error), _remedy(error))]) from error
    except (ValueError, RecursionError) as error:  # a column twice, a number of thousands of digits, a deep nest
        raise BadRowsError([RowFault(f"{name}:{line}", len(elements), _reason(error), _remedy(error))]) from error
    return elements, lines


def _behind_blank(text: str, position: int) -> int:
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"this is not JSON ({error.msg} at column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return f"this is not UTF-8 (byte 0x{error.object[error.start]:02x})"
    if isinstance(error, RecursionError):
        return "this is not JSON that can be read (it is nested too deep)"
    return f"this is not JSON that can be read ({error})"


def _remedy(error: Exception) -> str:
    return AS_UTF8 if isinstance(error, UnicodeDecodeError) else _REMEDY


def _no_object(place: str, row_id: int, element: Any) -> RowFault:
    return RowFault(place, row_id, f"this is a JSON {type(element).__name__}, not an object", _REMEDY)


METADATA = ("metadata.csv", "metadata.jsonl")
NAME_COLUMN = "file_name"
# Files by which a folder is a data set of another kind
_DATA_SUFFIXES = (".parquet", ".arrow", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".tar", ".zip")


def is_audio_folder(name: str) -> bool:
    """Whether a folder holds audio files, directly or one folder below, and no other file with rows than metadata."""
    if not os.path.isdir(name):
        return False
    with os.scandir(name) as found:
        entries = [entry.name for entry in found]
    if any(entry.lower().endswith(_DATA_SUFFIXES) and entry not in METADATA for entry in entries):
        return False
    if any(entry in METADATA or _is_sound(entry) for entry in entries):
        return True
    folders = [path for entry in entries if os.path.isdir(path := os.path.join(name, entry))]
    below = [entry for folder in folders for entry in os.listdir(folder)]
    return any(map(_is_sound, below)) and not set(METADATA) & set(below)  # which would be one for each split


def read_audio_folder(name: str, *, keep_unread: bool = False) -> JsonRows:
    """The rows of a folder, with their places.

    Args:
        name: of the folder.
        keep_unread: see `read_json_rows`.

    Raises:
        ValueError: two files of metadata, one without `file_name`, or without rows.
        BadRowsError: lines of metadata.jsonl that are no objects.
    """
    told = [file for file in METADATA if os.path.isfile(os.path.join(name, file))]
    if len(told) > 1:
        raise ValueError(f"{name} has {' and '.join(told)}, and either may be meant. Keep one of them.")
    if not told:
        files = sorted(
            os.path.relpath(os.path.join(folder, file), name)
            for folder, _, found in os.walk(name)
            for file in found
            if _is_sound(file)
        )
        return JsonRows([{"audio": file} for file in files], [os.path.join(name, file) for file in files])
    path = os.path.join(name, told[0])
    rows, places, unread = _read_csv(path) if path.endswith(".csv") else read_json_rows(path, keep_unread=keep_unread)
    if not rows:
        raise ValueError(f"{path} has no rows. Write one for each clip: its file_name and its texts.")
    for number, row in enumerate(rows):
        if NAME_COLUMN not in row and number not in unread:
            raise ValueError(
                f"{places[number]} does not say which clip the row is about; its columns are {sorted(row)}. Put each "
                f"clip's path into the column {NAME_COLUMN}."
            )
    return JsonRows([{"audio": row.pop(NAME_COLUMN, None), **row} for row in map(dict, rows)], places, unread)


def _read_csv(path: str) -> JsonRows:
    reader = csv.DictReader(io.StringIO(utf8_text(path), newline=""), strict=True)
    rows, places = [], []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise csv.Error(f"it does not have one value for each of the columns {reader.fieldnames}")
            rows.append(row)
            places.append(f"{path}:{reader.line_num}")
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num} cannot be read: {error}. Quote values that have commas.") from error
    return JsonRows(rows, places)


def _is_sound(name: str) -> bool:
    return name.lower().endswith(SOUND_SUFFIXES)


# ---- columns under other names ----

Rows = TypeVar("Rows", Dataset, IterableDataset)
# How a user says which columns are meant: {"audio": "path"}, or as on the command line ["audio=path"], "audio=path"
ColumnNames = Mapping[str, str] | Sequence[str] | str


def column_names(given: ColumnNames | None) -> dict[str, str] | None:
    """ours -> theirs, from a mapping or from texts of the form `ours=theirs`; None for none.

    Raises:
        ValueError: something else, or one of ours twice.
    """
    if given is None:
        return None
    if isinstance(given, Mapping) and all(isinstance(name, str) for pair in given.items() for name in pair):
        return dict(given)
    if isinstance(given, Mapping) or not isinstance(given, str | Sequence):
        raise ValueError(
            f"columns maps our names to theirs, for example {{'audio': 'audio_filepath', 'text': 'sentence'}}; got "
            f"{given!r:.200}. Pass such a dict; columns that keep their names are not listed."
        )
    found: dict[str, str] = {}
    for text in [given] if isinstance(given, str) else given:
        ours, is_one, theirs = str(text).partition("=")
        if not (ours and is_one and theirs) or ours in found:
            raise ValueError(
                f"columns maps each of our column names once, as ours=theirs; got {text!r}. Write "
                "--columns audio=audio_filepath text=sentence, in Python columns={'audio': 'audio_filepath'}."
            )
        found[ours] = theirs
    return found


def told_columns(columns: Mapping[str, str]) -> str:
    """Columns as a user passes them, on the command line and in Python."""
    flag = " ".join(f"{ours}={theirs}" for ours, theirs in columns.items())
    return f"--columns {flag} (in Python columns={dict(columns)})"


def still_to_rename(columns: Mapping[str, str] | None, found: Sequence[str]) -> dict[str, str]:
    """What of `columns` still applies to rows in the library's form, so that renamed rows are accepted again."""
    return {ours: theirs for ours, theirs in (columns or {}).items() if theirs in found or ours not in found}


# The columns of an exported file as `speech_rows(columns=...)` takes them. Its `task` says what the file is for ("asr",
# "tts", ...), a row's would say transcribe or translate.
EXPORTED_COLUMNS: Mapping[str, str] = MappingProxyType({"audio": "audio_path", "exported_task": "task"})
EXPORTED_NAMES = frozenset({"audio_path", "text", "duration", "task", "metadata"})
# Columns that models, rewards and evaluation read by name; an export keeps them in its metadata.
_IN_METADATA = (
    *("language", "channel", "prompt", "history", "history_hypothesis", "hotwords", "keywords", "speaker", "id"),
    *("recording", "task", "answers", "other_transcripts", "all_labels"),
)


def is_exported(names: Iterable[str] | None) -> bool:
    """Whether rows with these columns have the form that `export_rows` writes."""
    found = set(names or ())
    return found >= EXPORTED_NAMES and "audio" not in found


def exported_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of an exported file under our names, with the columns that the export moved into its metadata."""
    ours = {theirs: name for name, theirs in EXPORTED_COLUMNS.items()}
    metadata = row.get("metadata")
    inside = metadata if isinstance(metadata, Mapping) else {}
    renamed = {ours.get(name, name): value for name, value in row.items()}
    return {**renamed, **{name: inside[name] for name in _IN_METADATA if name in inside and name not in renamed}}


def exported_rows(rows: Rows) -> Rows:
    """The same for all rows of a data set, or of a stream whose columns are known."""
    features = Features(exported_row(rows.features))  # the types of a struct are laid out as its values are
    return rows.map(exported_row, features=features, remove_columns=list(EXPORTED_COLUMNS.values()))


def renamed_columns(rows: Rows, columns: Mapping[str, str] | None) -> Rows:
    """A data set or stream with its columns renamed.

    Args:
        columns: ours -> theirs; None for none.

    Raises:
        ValueError: a column is not there, or would take the place of another.
    """
    new = _renaming(columns)
    if not new:
        return rows
    if rows.column_names is None:
        raise ValueError(
            f"The stream does not say which columns it has, so columns={dict(columns or {})} cannot be found in it. "
            "Pass features when the stream is made, or rename with map."
        )
    _check(new, list(rows.column_names), "the data set")
    return rows.rename_columns(new)


def renamed_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None, source: str) -> list[Any]:
    """Dicts with their keys renamed, where a row has them.

    Args:
        columns: ours -> theirs; None for none.
        source: where the rows are from, for messages.

    Raises:
        ValueError: no row has a column, or one would take the place of another.
    """
    new = _renaming(columns)
    if not new:
        return list(rows)
    _check(new, list(dict.fromkeys(name for row in rows for name in row)), source)
    return [{new.get(name, name): value for name, value in row.items()} for row in rows]


def _renaming(columns: Mapping[str, str] | None) -> dict[str, str]:
    """theirs -> ours, for the columns that change."""
    given = columns or {}
    twice = [theirs for theirs in given.values() if list(given.values()).count(theirs) > 1]
    if twice:
        raise ValueError(f"columns maps {twice[0]!r} more than once: {dict(given)}. Map each of theirs to one of ours.")
    return {theirs: ours for ours, theirs in given.items() if theirs != ours}


def _check(new: Mapping[str, str], found: Sequence[str], source: str) -> None:
    for theirs, ours in new.items():
        if theirs not in found:
            near = get_close_matches(theirs, found, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(
                f"columns maps {ours!r} to {theirs!r}, which {source} does not have{meant} Its columns are "
                f"{list(found)}."
            )
    kept = [name for name in found if name not in new]
    taken = next((ours for ours in new.values() if ours in kept), None)
    if taken is not None:
        raise ValueError(
            f"columns maps {taken!r} to another column, but {source} has a {taken!r} of its own. Rename that one too, "
            f"for example columns={{..., 'source_{taken}': {taken!r}}}."
        )
