"""Writing rows in a form that `speech_rows` reads again: ours, or another tool's.

    export_rows(load_corpus("librispeech", "test", limit=100), "librispeech.jsonl", metadata={"dataset": "librispeech"})
    export_rows("librispeech.jsonl", "kaldi_data", form="kaldi")

Our own form is JSON lines of `audio_path`, `text`, `duration`, `task`, `metadata`, as halo-forge writes them. `FORMS`
lists the others. Audio in files stays where it is; audio that rows hold as bytes is written unchanged into a folder
beside the file. Where a form has no place for a segment or a channel, that part is written as a 16-bit WAV of its own.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet
from datasets import Audio, Features

from audiorl.audio import AudioFault, audio_bytes, audio_suffix, row_audio_bytes, row_audio_seconds, row_segment
from audiorl.audio.load import recording_shape
from audiorl.audio.sources import SEGMENT_COLUMNS, short_repr
from audiorl.datasets.checks import duration_problem, missing_columns
from audiorl.datasets.corpora import speech_rows
from audiorl.datasets.faults import BadRowsError, RowFault
from audiorl.datasets.formats import EXPORTED_COLUMNS as EXPORTED_COLUMNS
from audiorl.datasets.formats import ColumnNames
from audiorl.datasets.storage import OURS, unkept_values
from audiorl.datasets.tables import CLIPS
from audiorl.files import whole_file
from audiorl.terminal import progress_bar

logger = logging.getLogger(__name__)

PARTS = ("channel", *SEGMENT_COLUMNS)
# Kinds of rows by their texts
_TEXTS = (("text",), ("chosen", "rejected"), ("completion", "label"))
# Rows of one tar
_SHARD = 1000


class _Checked(NamedTuple):
    """A row to write.

    Args:
        row: without our own columns and those that are None.
        number: of the row, from 0.
        seconds: of its clip.
        where: its place.
        source: the row as it came.
    """

    row: dict[str, Any]
    number: int
    seconds: float
    where: str
    source: Mapping[str, Any]

    def fault(self, problem: str, remedy: str) -> BadRowsError:
        return BadRowsError([RowFault(self.where, self.number, problem, remedy)])

    def others(self, *taken: str) -> dict[str, Any]:
        return {name: value for name, value in self.row.items() if name not in ("audio", *taken)}


Rows = Iterator[_Checked]


class ExportForm(NamedTuple):
    """A form that rows are written in.

    Args:
        write: (rows, path) -> None.
        what: for the help.
        texts: kinds of rows that it holds.
        parts: columns of a part of a recording that it holds; of other parts files are cut.
        folder: whether it is a folder.
    """

    write: Callable[[Rows, str], None]
    what: str
    texts: Sequence[Sequence[str]] = _TEXTS
    parts: Sequence[str] = ()
    folder: bool = False


def export_rows(
    rows: Any,
    path: str | os.PathLike[str],
    *,
    form: str = "jsonl",
    task: str = "asr",
    metadata: Mapping[str, Any] | None = None,
    progress: bool = True,
    columns: ColumnNames | None = None,
    split: str | None = None,
) -> int:
    """Write rows in a form that `speech_rows` reads again. The file or folder appears when it is complete.

    Args:
        rows: anything `speech_rows` takes, with `audio` and texts; streams are read once.
        path: of the file or folder, which must not be there yet. Audio from bytes goes to `<name>_audio/` beside a
            file, and its path starts at the file's folder; that of other audio is absolute.
        form: a name of `FORMS`.
        task: of the form "jsonl", what every line says of itself.
        metadata: added to every row; in "jsonl" to its `metadata`, which holds a row's other columns, those that are
            None left out.
        progress: show a progress bar.
        columns, split: see `speech_rows`.

    Returns:
        How many rows.

    Raises:
        BadRowsError: a row whose audio cannot be used or is not of its `duration`, that has no text, or a value that
            the form cannot hold, with its place.
        ValueError: no such form, the file is there, a column is missing, or a value cannot be written as JSON.
        OSError: it cannot be written.
    """
    path = os.path.abspath(path)
    if form not in FORMS:
        raise ValueError(f"form is one of {', '.join(FORMS)}; got {form!r}. Choose one of them (--format).")
    if os.path.exists(path):
        raise ValueError(f"{path} exists already, and lines would mix. Choose another name, or remove it.")
    known = speech_rows(rows, columns=columns, split=split)
    chosen = FORMS[form]
    texts = _kind_of_rows(known.column_names, chosen, form)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if form == "jsonl":
        chosen = chosen._replace(write=_own_writer(task, metadata or {}))
        metadata = None
    counted = _Counted(progress_bar(known, desc="Exporting rows", unit="row", progress=progress))
    checked = _checked_rows(counted, texts, metadata or {}, chosen.parts, path)
    if chosen.folder:
        with _whole_folder(path) as part:
            chosen.write(checked, part)
    else:
        chosen.write(checked, path)
    return counted.count


class _Counted:
    """Rows, and how many came."""

    def __init__(self, rows: Iterable[Any]):
        self.rows, self.count = rows, 0

    def __iter__(self) -> Iterator[Any]:
        for row in self.rows:
            yield row
            self.count += 1


def _kind_of_rows(names: Sequence[str] | None, form: ExportForm, name: str) -> Sequence[str]:
    """The texts that rows with these columns have."""
    if names is None:
        return form.texts[0]
    found = next((texts for texts in form.texts if set(texts) <= set(names)), None)
    if found is not None and "audio" in names:
        return found
    if found is None and (other := next((texts for texts in _TEXTS if set(texts) <= set(names)), None)):
        held = [name for name, known in FORMS.items() if other in known.texts]
        raise ValueError(
            f"The form {name} holds transcripts (text), and these rows have {' and '.join(other)}. Choose a form that "
            f"holds them: {', '.join(held)}."
        )
    raise BadRowsError(missing_columns(names, ("audio", *form.texts[0])))


def _checked_rows(
    rows: Iterable[Any], texts: Sequence[str], metadata: Mapping[str, Any], parts: Sequence[str], path: str
) -> Rows:
    for number, row in enumerate(rows):
        if unkept := unkept_values(row):
            raise BadRowsError([RowFault(row["where"], row["row_id"], fault.problem, fault.remedy) for fault in unkept])
        try:
            seconds = row_audio_seconds(row)
            if problem := duration_problem(row.get("duration"), seconds):
                raise AudioFault(*problem)
            ours = {**_values(row), **metadata}
            if any(row.get(name) is not None for name in PARTS if name not in parts) and _is_part(row):
                # the form has no place for a part: it becomes a clip of its own
                ours = {name: value for name, value in ours.items() if name not in PARTS}
                ours["audio"] = {"bytes": row_audio_bytes(row), "path": None}
            elif not parts:
                ours = {name: value for name, value in ours.items() if name not in PARTS}
        except AudioFault as fault:
            raise BadRowsError([RowFault(row["where"], row["row_id"], fault.problem, fault.remedy)]) from fault
        for name in texts:
            if not isinstance(row.get(name), bool if name == "label" else str):
                remedy = "Give the transcript or label, or remove the row."
                raise BadRowsError([RowFault(row["where"], row["row_id"], f"{name} is missing or not text", remedy)])
        yield _Checked(ours, number, seconds, row["where"], row)


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in OURS and value is not None}


def _is_part(row: Mapping[str, Any]) -> bool:
    return row_segment(row) is not None or row.get("channel") not in (None, "mix")


# ---- audio ----


def _audio_path(checked: _Checked, path: str) -> str:
    """Where a form that names files finds the clip: its own file, or one that is written beside `path`."""
    entry = checked.row["audio"]
    if entry["bytes"] is None:
        found = entry["path"]
        return found if "://" in found else os.path.abspath(found)
    folder = os.path.splitext(path)[0] + "_audio"
    return os.path.relpath(_write_audio(checked, folder), os.path.dirname(path))


def _absolute_path(checked: _Checked, path: str) -> str:
    """The same for tools whose relative paths start at the working folder."""
    found = _audio_path(checked, path)
    return found if "://" in found else os.path.join(os.path.dirname(path), found)


def _write_audio(checked: _Checked, folder: str) -> str:
    content, suffix = _audio_file(checked)
    os.makedirs(folder, exist_ok=True)
    name = os.path.join(folder, f"{checked.number:06d}{suffix}")
    with open(name, "wb") as file:
        file.write(content)
    return name


def _audio_file(checked: _Checked) -> tuple[bytes, str]:
    """The bytes of the clip's file, and how its name ends."""
    try:
        content = audio_bytes(checked.row["audio"])
        suffix = audio_suffix(content)
        if not suffix:
            raise AudioFault("the audio is not audio that can be read", "Remove the row.")
    except AudioFault as fault:
        raise checked.fault(fault.problem, fault.remedy) from fault
    return content, suffix


def _json(checked: _Checked, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        names = sorted(checked.others("text", "duration"))
        raise ValueError(
            f"{checked.where}: a value among {names} cannot be written as JSON ({error}). Remove its column."
        ) from error


@contextmanager
def _whole_folder(path: str) -> Iterator[str]:
    """A folder that gets its name when it is complete, and goes when it is not."""
    part = f"{path}.{os.getpid()}.part"
    os.makedirs(part)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _batches(rows: Rows, size: int) -> Iterator[list[_Checked]]:
    while some := list(itertools.islice(rows, size)):
        yield some


# ---- JSON lines ----


def _packed(file: Any, path: str) -> AbstractContextManager[Any]:
    return gzip.GzipFile(fileobj=file, mode="wb") if path.endswith(".gz") else nullcontext(file)


def _line_writer(line: Callable[[_Checked, str], dict[str, Any]]) -> Callable[[Rows, str], None]:
    def write(rows: Rows, path: str) -> None:
        with whole_file(path, "wb") as file, _packed(file, path) as out:
            for checked in rows:
                out.write(_json(checked, line(checked, path)).encode() + b"\n")

    return write


def _own_writer(task: str, metadata: Mapping[str, Any]) -> Callable[[Rows, str], None]:
    def line(checked: _Checked, path: str) -> dict[str, Any]:
        row = checked.row
        return {
            "audio_path": _audio_path(checked, path),
            "text": row["text"],
            "duration": row.get("duration", checked.seconds),
            "task": task,
            **{name: row[name] for name in PARTS if name in row},
            "metadata": {**checked.others("text", "duration", *PARTS), **metadata},
        }

    return _line_writer(line)


def _nemo_line(checked: _Checked, path: str) -> dict[str, Any]:
    segment = row_segment(checked.row)
    language = {} if "language" not in checked.row else {"lang": checked.row["language"]}
    return {
        "audio_filepath": _audio_path(checked, path),
        **({} if segment is None else {"offset": segment.start}),
        "duration": checked.row.get("duration", checked.seconds),
        **language,
        **checked.others("duration", "language", "start", "offset", "end"),
    }


def _turns(checked: _Checked, names: Sequence[str], answers: Sequence[str]) -> list[dict[str, str]]:
    """What system, user and assistant say, under a tool's names for role, content and the three."""
    role, content, system, user, assistant = names
    asked = f"<audio>{checked.row.get('prompt', '')}"
    said = [(system, checked.row["system"])] if "system" in checked.row else []
    said += [(user, asked), *((assistant, answer) for answer in answers)]
    return [{role: who, content: text} for who, text in said]


def _swift_line(checked: _Checked, path: str) -> dict[str, Any]:
    row = checked.row
    answer = next(row[name] for name in ("chosen", "completion", "text") if name in row)
    line = {
        "messages": _turns(checked, ("role", "content", "system", "user", "assistant"), [answer]),
        "audios": [_absolute_path(checked, path)],
    }
    if "rejected" in row:
        line["rejected_response"] = row["rejected"]
    taken = {"prompt", "system", "chosen", "rejected"} if "rejected" in row else {"prompt", "system", "completion"}
    return {**line, **checked.others(*taken, *(["text"] if answer == row.get("text") else []))}


def _llama_factory_line(checked: _Checked, path: str) -> dict[str, Any]:
    row = checked.row
    names = ("from", "value", "system", "human", "gpt")
    taken = {"prompt", "system"}
    line: dict[str, Any] = {}
    if "rejected" in row:
        line = {side: {"from": "gpt", "value": row[side]} for side in ("chosen", "rejected")}
        answers, taken = [], taken | {"chosen", "rejected"}
    elif "completion" in row:
        line, answers, taken = {"kto_tag": row["label"]}, [row["completion"]], taken | {"completion", "label"}
    else:
        answers, taken = [row["text"]], taken | {"text"}
    audio = {"audios": [_audio_path(checked, path)]}
    return {"conversations": _turns(checked, names, answers), **line, **audio, **checked.others(*taken)}


# ---- lhotse ----


def _cut(checked: _Checked, number: int, source: Mapping[str, Any]) -> dict[str, Any]:
    """A MonoCut with one supervision.

    Args:
        source: of the recording, a file or a tar.
    """
    row = checked.row
    shape = recording_shape(row["audio"])
    seconds = shape.samples / shape.sampling_rate
    segment = row_segment(row)
    channel = int(row.get("channel", 0)) if row.get("channel") != "mix" else 0
    name = str(row.get("id", f"{number:06d}"))
    said: dict[str, Any] = {name: row[name] for name in ("text", "language", "speaker", "gender") if name in row}
    custom = checked.others("id", "duration", *said, *PARTS)
    start = 0.0 if segment is None else segment.start
    common: dict[str, Any] = {"id": name, "start": 0.0, "duration": checked.seconds, "channel": channel}
    supervision: dict[str, Any] = {**common, "recording_id": name, **said}
    if custom:
        supervision["custom"] = custom
    return {
        **common,
        "start": start,
        "supervisions": [supervision],
        "recording": {
            "id": name,
            "sources": [{**source, "channels": list(range(shape.channels))}],
            "sampling_rate": shape.sampling_rate,
            "num_samples": shape.samples,
            "duration": seconds,
            "channel_ids": list(range(shape.channels)),
        },
        "type": "MonoCut",
    }


def _mono(checked: _Checked) -> _Checked:
    """The mean of several channels as a clip of its own: a cut has one."""
    channels = recording_shape(checked.row["audio"]).channels
    if channels == 1 or checked.row.get("channel") not in (None, "mix"):
        return checked
    samples = audio_bytes(checked.row["audio"], segment=row_segment(checked.row) or (0.0, None))
    kept = {name: value for name, value in checked.row.items() if name not in PARTS}
    return checked._replace(row={**kept, "audio": {"bytes": samples, "path": None}})


def _cut_line(checked: _Checked, path: str) -> dict[str, Any]:
    checked = _mono(checked)
    found = _absolute_path(checked, path)
    return _cut(checked, checked.number, {"type": "url" if "://" in found else "file", "source": found})


def _write_shar(rows: Rows, folder: str) -> None:
    known: set[str] = set()
    for number, some in enumerate(_batches(rows, _SHARD)):
        name = f"{number:06d}"
        with gzip.open(os.path.join(folder, f"cuts.{name}.jsonl.gz"), "wb") as cuts:
            with tarfile.open(os.path.join(folder, f"recording.{name}.tar"), "w") as tar:
                for checked in map(_mono, some):
                    cut = _cut(checked, checked.number, {"type": "shar", "source": ""})
                    if cut["id"] in known:
                        raise checked.fault(f"the id {cut['id']!r} is there twice", "Give each row an id of its own.")
                    known.add(cut["id"])
                    content, suffix = _audio_file(checked)
                    _add(tar, cut["id"] + suffix, content)
                    _add(tar, cut["id"] + ".json", _json(checked, cut["recording"]).encode())
                    cuts.write(_json(checked, cut).encode() + b"\n")


# ---- tars and Parquet ----


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _write_webdataset(rows: Rows, folder: str) -> None:
    for number, some in enumerate(_batches(rows, _SHARD)):
        with tarfile.open(os.path.join(folder, f"{number:06d}.tar"), "w") as tar:
            for checked in some:
                content, suffix = _audio_file(checked)
                _add(tar, f"{checked.number:06d}{suffix}", content)
                _add(tar, f"{checked.number:06d}.json", _json(checked, checked.others()).encode())


def _write_parquet(rows: Rows, path: str) -> None:
    batches = _batches(rows, 100)
    first = [_parquet_row(checked) for checked in next(batches, [])]
    schema = _parquet_schema(first)
    with whole_file(path, "wb") as file, pa.parquet.ParquetWriter(file, schema) as writer:
        writer.write_table(pa.Table.from_pylist(first, schema))
        for some in batches:
            held = [_parquet_row(checked) for checked in some]
            strange = [name for row in held for name in row if name not in schema.names]
            if strange:
                raise ValueError(
                    f"{some[0].where} or a later row has a column {strange[0]!r}, which the first 100 rows lack, but "
                    "Parquet needs the same columns in all rows. Put such a row first, or remove the column."
                )
            writer.write_table(pa.Table.from_pylist(held, schema))


def _parquet_row(checked: _Checked) -> dict[str, Any]:
    content, suffix = _audio_file(checked)
    return {**checked.others(), "audio": {"bytes": content, "path": f"{checked.number:06d}{suffix}"}}


def _parquet_schema(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """The types of rows, with the note by which `datasets` knows the audio."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "audio"))
    plain = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    return Features({**Features.from_arrow_schema(plain.schema), "audio": Audio()}).arrow_schema


# ---- tables and Kaldi ----


def _write_common_voice(rows: Rows, path: str) -> None:
    folder = os.path.join(os.path.dirname(path), CLIPS)
    theirs = {"speaker": "client_id", "language": "locale", "text": "sentence"}
    held: list[tuple[_Checked, dict[str, str]]] = []
    for checked in rows:
        name = os.path.basename(_write_audio(checked, os.path.join(folder, os.path.basename(path).split(".tsv")[0])))
        cells = {theirs.get(column, column): _cell_text(checked, value) for column, value in checked.others().items()}
        held.append((checked, {"path": os.path.join(os.path.basename(path).split(".tsv")[0], name), **cells}))
    columns = list(dict.fromkeys(name for _, cells in held for name in cells))
    with whole_file(path, newline="") as file:
        for cells in [dict(zip(columns, columns, strict=True)), *(cells for _, cells in held)]:
            file.write("\t".join(cells.get(name, "") for name in columns) + "\n")


def _cell_text(checked: _Checked, value: Any) -> str:
    text = value if isinstance(value, str) else _json(checked, value)
    if set("\t\r\n") & set(text):
        raise checked.fault(f"{short_repr(text)} has a tab or a line break", "Replace it, or choose another form.")
    return text


def _write_kaldi(rows: Rows, folder: str) -> None:
    """Sorted by utterance, as Kaldi wants it. Utterances without a speaker are speakers of their own."""
    lines: dict[str, dict[str, str]] = {name: {} for name in ("wav.scp", "segments", "text", "utt2spk", "utt2lang")}
    recordings: dict[str, str] = {}
    spans: dict[str, tuple[str, str]] = {}
    left_out: set[str] = set()
    for checked in rows:
        name = str(checked.row.get("id", f"utt{checked.number:06d}"))
        if name in spans or not name or any(letter.isspace() for letter in name):
            raise checked.fault(
                f"the id {name!r} is there twice, empty or has spaces", "Give each row an id of its own."
            )
        found = _kaldi_path(checked, folder)
        segment = row_segment(checked.row)
        end = -1 if segment is None or segment.end is None else segment.end
        spans[name] = (
            recordings.setdefault(found, f"rec{len(recordings):06d}"),
            f"{segment.start if segment else 0} {end}",
        )
        lines["text"][name] = _one_line(checked, "text")
        lines["utt2spk"][name] = "_".join(str(checked.row.get("speaker", name)).split())
        if "language" in checked.row:
            lines["utt2lang"][name] = _one_line(checked, "language")
        left_out |= checked.others("id", "text", "speaker", "language", "duration", *PARTS).keys()
    whole = len(recordings) == len(spans) and all(span == "0 -1" for _, span in spans.values())
    if whole:
        paths = {recording: path for path, recording in recordings.items()}
        lines["wav.scp"] = {name: paths[recording] for name, (recording, _) in spans.items()}
    else:
        lines["wav.scp"] = {recording: path for path, recording in recordings.items()}
        lines["segments"] = {name: " ".join(span) for name, span in spans.items()}
    for file, entries in lines.items():
        if entries:
            with open(os.path.join(folder, file), "w", encoding="utf-8") as out:
                out.writelines(f"{name} {entries[name]}".rstrip() + "\n" for name in sorted(entries))
    if left_out:
        logger.warning(f"A Kaldi folder has no place for the columns {sorted(left_out)}; they are left out.")


def _kaldi_path(checked: _Checked, folder: str) -> str:
    """An absolute path, also of a clip that is written into the folder that is not there yet."""
    entry = checked.row["audio"]
    if entry["bytes"] is None:
        found = entry["path"]
        if "://" in found or any(letter.isspace() for letter in found):
            raise checked.fault(
                f"{found} cannot be a path in a Kaldi folder", "Name a file without spaces in its path."
            )
        return os.path.abspath(found)
    final = folder.rsplit(".", 2)[0]
    return os.path.join(final, "audio", os.path.basename(_write_audio(checked, os.path.join(folder, "audio"))))


def _one_line(checked: _Checked, column: str) -> str:
    text = str(checked.row[column])
    if len(text.splitlines()) > 1:
        raise checked.fault(f"{column} has a line break", "Replace it, or choose another form.")
    return " ".join(text.split())


_TRANSCRIPTS = (("text",),)
FORMS: Mapping[str, ExportForm] = {
    "jsonl": ExportForm(_own_writer("asr", {}), "our JSON lines", _TRANSCRIPTS, PARTS),
    "nemo": ExportForm(_line_writer(_nemo_line), "a NeMo manifest", _TRANSCRIPTS, SEGMENT_COLUMNS),
    "kaldi": ExportForm(_write_kaldi, "a Kaldi folder", _TRANSCRIPTS, SEGMENT_COLUMNS, folder=True),
    "lhotse": ExportForm(_line_writer(_cut_line), "lhotse cuts", _TRANSCRIPTS, PARTS),
    "shar": ExportForm(_write_shar, "a Lhotse Shar folder", _TRANSCRIPTS, folder=True),
    "webdataset": ExportForm(_write_webdataset, "a folder of WebDataset tars", folder=True),
    "parquet": ExportForm(_write_parquet, "a Parquet file with the audio in it"),
    "ms-swift": ExportForm(_line_writer(_swift_line), "JSON lines of ms-swift"),
    "llama-factory": ExportForm(_line_writer(_llama_factory_line), "JSON lines of LLaMA-Factory"),
    "common-voice": ExportForm(_write_common_voice, "a TSV of Common Voice with clips/ beside it", _TRANSCRIPTS),
}
