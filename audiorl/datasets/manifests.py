"""Rows in the forms of other tools, recognized by their content.

Files
    JSON lines or an array   NeMo manifest, lhotse cuts, ms-swift, LLaMA-Factory; `json_form` tells them by their keys
    a table                  TSV or CSV with a header; Common Voice by its columns `path` and `sentence`
    a tar                    WebDataset: members of one name are one row
Folders
    Kaldi (wav.scp), Lhotse Shar (cuts.*.jsonl.gz beside recording.*.tar), WebDataset (*.tar), Common Voice (clips/ and
    *.tsv)

Every reader gives rows with our column names and the place of each. Text may be UTF-8, UTF-16 or UTF-32, with any line
ends, also behind gzip (`formats.read_text`). What resembles a form without being one is refused with its name.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from audiorl.audio.sources import SOUND_SUFFIXES, is_number
from audiorl.datasets.faults import BadRowsError, RowFault
from audiorl.datasets.formats import JsonRows, read_json_rows, read_text
from audiorl.datasets.storage import NO_AUDIO

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


class FormFault(ValueError):
    """A row that is not what its form asks for.

    Args:
        problem: what is wrong, without a full stop.
        remedy: what to do, a sentence.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}. {remedy}")
        self.problem, self.remedy = problem, remedy


class Form(NamedTuple):
    """A form of JSON rows."""

    name: str  # for messages, with its article
    fits: Callable[[Row], bool]
    read: Callable[[Row], dict[str, Any]]  # raises FormFault
    from_here: bool = False  # whether relative paths start at the working folder


# ---- JSON rows of other tools ----


def nemo_row(row: Row) -> dict[str, Any]:
    """A line of a NeMo manifest: `audio_filepath`, `offset`, `duration`, `text`, and whatever else it has."""
    if not isinstance(row.get("audio_filepath"), str):
        raise FormFault("audio_filepath is missing, or is no path", "Write the clip's path into audio_filepath.")
    taken = ("audio_filepath", *([] if "language" in row else ["lang"]))
    ours = {"audio": row["audio_filepath"], **{name: value for name, value in row.items() if name not in taken}}
    spoken = row.get("source_lang") or row.get("lang")
    if spoken is not None and row.get("language") is None:
        ours["language"] = spoken
    written = row.get("target_lang")
    if written is not None and spoken is not None and written != spoken:
        ours["task"] = f"translate:{written}"
    return ours


_NO_RECORDING = "the cut has no recording"


def cut_row(row: Row) -> dict[str, Any]:
    """A lhotse cut with one recording of one file, one channel and one supervision; any other by lhotse itself."""
    problem = _cut_problem(row)
    if problem is None:
        return {"audio": row["recording"]["sources"][0]["source"], **_cut_columns(row, whole=False)}
    if problem.startswith("this is"):
        raise FormFault(problem, "Make cuts of recordings and supervisions: lhotse cut simple -r RECS -s SUPS CUTS.")
    if problem == _NO_RECORDING:
        raise FormFault(problem, "Features alone are no sound: make cuts with recordings.")
    audio, plain = _by_lhotse(row, problem)
    return {"audio": audio, **_cut_columns(plain, whole=True)}


def _cut_problem(row: Row) -> str | None:
    """Why a cut is not plain."""
    recording = row.get("recording")
    if row.get("type", "MonoCut") != "MonoCut":
        return f"the cut is a {row['type']}"
    if not isinstance(row.get("supervisions"), list):
        what = (
            "recording" if "sources" in row else "supervision" if "recording_id" in row else "cut without supervisions"
        )
        return f"this is a lhotse {what}, not a cut"
    if not isinstance(recording, Mapping) or not isinstance(recording.get("sources"), list):
        return _NO_RECORDING
    kinds = [source.get("type") for source in recording["sources"] if isinstance(source, Mapping)]
    if kinds not in (["file"], ["url"]):
        return f"its recording has the sources {kinds}"
    if recording.get("transforms"):
        return "its recording is transformed"
    return None


def _cut_columns(row: Row, *, whole: bool) -> dict[str, Any]:
    """What a cut says but for its audio.

    Args:
        whole: whether the audio is the cut itself, and not the recording around it.
    """
    said = row["supervisions"]
    if len(said) > 1:
        raise FormFault(
            f"the cut has {len(said)} supervisions, and a row has one transcript",
            "Cut it first: lhotse cut trim-to-supervisions CUTS OUT.",
        )
    ours: dict[str, Any] = {"id": row.get("id"), "duration": row.get("duration")}
    recording = row.get("recording") or {}
    start, length = row.get("start") or 0.0, recording.get("duration")
    if not whole:
        channels = recording["sources"][0].get("channels") or [0]
        if len(channels) > 1:
            ours["channel"] = channels.index(row["channel"]) if row.get("channel") in channels else row.get("channel")
        if start or not (is_number(length) and is_number(ours["duration"]) and abs(length - ours["duration"]) < 1e-3):
            ours["offset"] = start
    first = said[0] if said else {}
    known = {name: first.get(name) for name in ("text", "language", "speaker", "gender")}
    custom = {**(row.get("custom") or {}), **(first.get("custom") or {})}
    return {**custom, **ours, **{name: value for name, value in known.items() if value is not None or name == "text"}}


def _by_lhotse(row: Row, problem: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The samples of a cut that only lhotse reads, and what else it says."""
    try:
        deserialize = importlib.import_module("lhotse.serialization").deserialize_item
    except ImportError as error:
        raise FormFault(
            f"{problem}, which only lhotse reads, and lhotse is not installed",
            "Run: pip install lhotse. Or write plain cuts of one recording: lhotse cut export-to-webdataset, or "
            "cuts.save_audios(...) in Python.",
        ) from error
    try:
        cut = deserialize(dict(row))
        samples = cut.load_audio()
    except Exception as error:  # of any of lhotse's readers
        raise FormFault(f"{problem}, and lhotse cannot read it ({error})", "Repair the cut, or remove it.") from error
    said = [supervision.to_dict() for supervision in cut.supervisions]
    plain = {"id": cut.id, "duration": cut.duration, "supervisions": said, "custom": getattr(cut, "custom", None)}
    return {"array": samples, "sampling_rate": cut.sampling_rate}, plain


_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
_TAG = "<audio>"
_ONE_TURN = "Write one row for each clip: one question, one answer, one file in audios."


def swift_row(row: Row) -> dict[str, Any]:
    """A row of ms-swift: `messages`, `audios`, and `rejected_response` or `label`."""
    turns = _turns(row["messages"])
    rejected = row.get("rejected_response")
    if rejected is None and row.get("rejected_messages") is not None:
        rejected = _answer(_turns(row["rejected_messages"]))
    taken = ("messages", "rejected_response", "rejected_messages", "label")
    return _spoken_row(row, turns, _answer(turns), rejected, row.get("label"), taken)


def llama_factory_row(row: Row) -> dict[str, Any]:
    """A row of LLaMA-Factory (sharegpt): `conversations` or `messages`, `audios`, and `chosen`, `rejected` or
    `kto_tag`."""
    turns = _turns(row.get("conversations", row.get("messages")))
    sides = {side: _turns([row[side]])[0][1] for side in ("chosen", "rejected") if row.get(side) is not None}
    taken = ("conversations", "messages", "chosen", "rejected", "kto_tag")
    answer = sides.get("chosen") if sides else _answer(turns)
    if sides and len(sides) < 2:
        raise FormFault("the row has one of chosen and rejected", "Give both, or neither.")
    return _spoken_row(row, turns, answer, sides.get("rejected"), row.get("kto_tag"), taken)


def _turns(given: Any) -> list[tuple[str, str, list[Any]]]:
    """Role, text without tags, and the clips inside, of each turn."""
    turns = []
    for turn in given if isinstance(given, list) else [None]:
        role = _ROLES.get(str(turn.get("role", turn.get("from")))) if isinstance(turn, Mapping) else None
        if role is None or not isinstance(turn, Mapping):
            raise FormFault(
                f"a turn is {turn!r:.80}, which is not a message of user, assistant or system",
                'Write {"role": "user", "content": "..."}.',
            )
        said = turn.get("content", turn.get("value"))
        parts = said if isinstance(said, list) else [{"type": "text", "text": said}]
        if not all(isinstance(part, Mapping) and part.get("type") in ("text", "audio") for part in parts):
            raise FormFault(f"a turn holds {said!r:.80}", "Rows hold text and audio; remove images, video and tools.")
        texts = [text for part in parts if isinstance(text := part.get("text"), str) and part["type"] == "text"]
        if len(texts) < sum(part["type"] == "text" for part in parts):
            raise FormFault(f"what the {role} says is {said!r:.80}, not text", "Give a string.")
        clips = [part.get("audio", part.get("audio_url")) for part in parts if part["type"] == "audio"]
        turns.append((role, "".join(texts).replace(_TAG, "").strip(), clips))
    return turns


def _answer(turns: Sequence[tuple[str, str, list[Any]]]) -> str:
    answers = [text for role, text, _ in turns if role == "assistant"]
    if len(answers) != 1 or turns[-1][0] != "assistant":
        raise FormFault(f"the conversation has {len(answers)} answers", _ONE_TURN)
    return answers[0]


def _spoken_row(
    row: Row, turns: Sequence[tuple[str, str, list[Any]]], answer: Any, rejected: Any, good: Any, taken: Sequence[str]
) -> dict[str, Any]:
    """One question about one clip as a row of ours."""
    questions = [text for role, text, _ in turns if role == "user"]
    held: Any = next((row[name] for name in ("audios", "audio") if row.get(name) is not None), [])
    clips = [*(held if isinstance(held, list) else [held]), *(clip for _, _, clips in turns for clip in clips)]
    if len(questions) > 1 or len(clips) != 1:
        raise FormFault(f"the conversation has {len(questions)} questions and {len(clips)} clips", _ONE_TURN)
    others = {name: value for name, value in row.items() if name not in ("audios", "audio", *taken)}
    ours: dict[str, Any] = {"audio": clips[0], **others}
    if rejected is not None:
        ours |= {"chosen": answer, "rejected": rejected}
    elif good is not None:
        ours |= {"completion": answer, "label": good}
    else:
        ours["text"] = answer
    system = [text for role, text, _ in turns if role == "system"]
    return {**ours, **({"system": system[0]} if system else {}), **({"prompt": questions[0]} if any(questions) else {})}


def _is_nemo(row: Row) -> bool:
    return "audio_filepath" in row and "audio" not in row


def _is_cut(row: Row) -> bool:
    whole = {"start", "duration", "supervisions"} <= row.keys() or str(row.get("type")).endswith("Cut")
    return (
        whole
        or {"sources", "sampling_rate", "num_samples"} <= row.keys()
        or ({"recording_id", "start", "duration"} <= row.keys() and "audio" not in row)
    )


def _is_swift(row: Row) -> bool:
    return isinstance(row.get("messages"), list) and not _is_llama_factory(row)


def _is_llama_factory(row: Row) -> bool:
    sides = [row.get(side) for side in ("chosen", "rejected")]
    return isinstance(row.get("conversations"), list) or (
        isinstance(row.get("messages"), list) and all(isinstance(side, Mapping) for side in sides)
    )


FORMS = (
    Form("lhotse cuts", _is_cut, cut_row, from_here=True),
    Form("LLaMA-Factory's sharegpt", _is_llama_factory, llama_factory_row),
    Form("ms-swift's messages", _is_swift, swift_row),
    Form("a NeMo manifest", _is_nemo, nemo_row),
)


def json_form(rows: Sequence[Row], name: str) -> Form | None:
    """The form of another tool that rows have, told by the first one; None if they are rows of ours.

    If they could be several, the log says which one was taken; what has our audio and texts is ours.
    """
    first = next((row for row in rows if row), {})
    fitting = [form for form in FORMS if form.fits(first)]
    if "audio" in first and any(isinstance(first.get(column), str) for column in ("text", "chosen", "completion")):
        if fitting:
            logger.warning(
                f"{name} is read as rows of ours, by audio and their texts; it could be {fitting[0].name}, too. To "
                "read it so, leave these columns out."
            )
        return None
    if len(fitting) > 1:
        logger.warning(f"{name} is read as {fitting[0].name}; it could be {fitting[1].name}, too, by its keys.")
    return fitting[0] if fitting else None


def read_form(found: JsonRows, form: Form, name: str, *, keep_unread: bool = False) -> JsonRows:
    """The rows in our form. A row that does not have the form is a fault of its own.

    Raises:
        BadRowsError: such rows, all of them, unless they are kept and there are others.
    """
    rows: list[dict[str, Any]] = []
    unread = dict(found.unread)
    for number, (row, place) in enumerate(zip(found.rows, found.places, strict=True)):
        rows.append({})
        if number in unread:
            continue
        try:
            rows[-1] = form.read(row) if form.fits(row) else _refuse(form)
        except FormFault as fault:
            unread[number] = RowFault(place, number, f"{fault.problem} ({form.name})", fault.remedy)
    if unread and not (keep_unread and len(unread) < len(rows)):
        raise BadRowsError([unread[number] for number in sorted(unread)])
    return JsonRows(_from_working_folder(rows, os.path.dirname(name)) if form.from_here else rows, found.places, unread)


def _refuse(form: Form) -> dict[str, Any]:
    raise FormFault(
        "the row's keys differ from those of the rows before it", f"Keep to the form of {form.name}, or to ours."
    )


# ---- tables ----

# Columns of numbers; and those in which an empty cell says nothing
_NUMBERS = ("duration", "offset", "start", "end")
_UNSAID = (
    *_NUMBERS,
    "channel",
    "language",
    "task",
    "prompt",
    "history",
    "history_hypothesis",
    "hotwords",
    "speaker",
    "id",
)
_COMMON_VOICE = {"audio": "path", "text": "sentence"}
_COMMON_VOICE_EXTRAS = {"speaker": "client_id", "language": "locale"}
CLIPS = "clips"


def _text(name: str) -> str:
    content = read_text(name)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name}:{line} is not UTF-8 (byte 0x{content[error.start]:02x}). Write the file anew as UTF-8: "
            "iconv -f LATIN1 -t UTF-8 IN > OUT."
        ) from error


def read_table(name: str) -> JsonRows:
    """A TSV or CSV file whose first line names the columns. A TSV has no quotes, as Common Voice writes it.

    Raises:
        ValueError: no header, a line with more or fewer values, with its place; a table of another kind.
    """
    text = _text(name)
    header = text.split("\n", 1)[0]
    tabs = "\t" in header
    if not tabs and "," not in header:
        split = "columns separated by '|'" if "|" in header else "one column"
        raise ValueError(
            f"{name} is a text with {split}, which is no known form of rows. Write TSV with a header (audio, text), "
            'or JSON lines: {"audio": "clip.wav", "text": "..."}.'
        )
    how: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    reader = csv.DictReader(io.StringIO(text, newline=None if tabs else ""), **how)
    names = [column.strip() for column in reader.fieldnames or ()]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"{name}:1 names the columns {names}. Give each column one name of its own.")
    reader.fieldnames = names
    rows, places = [], []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise csv.Error(f"it does not have one value for each of the columns {names}")
            rows.append({column: _cell(column, value) for column, value in row.items()})
            places.append(f"{name}:{reader.line_num}")
    except csv.Error as error:
        rule = "Keep tabs out of values." if tabs else "Quote values that have commas."
        raise ValueError(f"{name}:{reader.line_num} cannot be read: {error}. {rule}") from error
    if {"path", "sentence"} <= set(names) and tabs and "audio" not in names:
        rows = [_common_voice_row(row, os.path.dirname(name)) for row in rows]
    return JsonRows(rows, places)


def _cell(column: str, value: str) -> Any:
    if not value and column in _UNSAID:
        return None
    if column not in _NUMBERS:
        return value
    try:
        return float(value)
    except ValueError:
        return value  # which the check reports with its row


def _common_voice_row(row: Row, folder: str) -> dict[str, Any]:
    ours = {ours: row[theirs] for ours, theirs in _COMMON_VOICE.items()}
    if os.path.isdir(os.path.join(folder, CLIPS)):
        ours["audio"] = os.path.join(CLIPS, ours["audio"])
    extras = {ours: row[theirs] or None for ours, theirs in _COMMON_VOICE_EXTRAS.items() if theirs in row}
    taken = {*_COMMON_VOICE.values(), *_COMMON_VOICE_EXTRAS.values()}
    return {**ours, **extras, **{name: value for name, value in row.items() if name not in taken}}


# ---- Kaldi ----

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
    return JsonRows(_from_working_folder(rows, folder), places, unread)


def _kaldi_said(tables: Mapping[str, Mapping[str, tuple[str, str]]], name: str) -> dict[str, Any]:
    """The columns of an utterance beside its audio."""
    row: dict[str, Any] = {}
    for column, table in (("text", "text"), ("speaker", "utt2spk"), ("language", "utt2lang")):
        if tables[table]:
            row[column] = tables[table][name][1] if name in tables[table] else None
    if name in tables["utt2dur"]:
        row["duration"] = _cell("duration", tables["utt2dur"][name][1])
    return row


def _kaldi_table(folder: str, name: str) -> dict[str, tuple[str, str]]:
    """Key -> place and the rest of its line; empty without the file."""
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return {}
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(_text(path).split("\n"), start=1):
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


def _from_working_folder(rows: list[dict[str, Any]], folder: str) -> list[dict[str, Any]]:
    """Rows whose paths start at the working folder, unless the first one's file lies in their own."""
    first = next((row["audio"] for row in rows if row), "")
    if not isinstance(first, str) or os.path.exists(os.path.join(folder, first)) or not os.path.exists(first):
        return rows
    return [
        {**row, "audio": os.path.abspath(audio)}
        if isinstance(audio := row.get("audio"), str) and "://" not in audio
        else row
        for row in rows
    ]


# ---- tars ----


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
                rows[-1] = _cut_columns(row, whole=True)
            except FormFault as fault:
                unread[len(rows) - 1] = RowFault(place, len(rows) - 1, fault.problem, fault.remedy)
        places += found.places
    if unread and not (keep_unread and len(unread) < len(rows)):
        raise BadRowsError(list(unread.values()))
    return TarRows(JsonRows(rows, places, unread), [tar for _, tar in shards], "Lhotse Shar")


def _shar_shards(folder: str) -> list[tuple[str, str]]:
    shards = []
    for file in sorted(os.listdir(folder)):
        if not _is_shar_cuts(file):
            continue
        tar = os.path.join(folder, file.replace("cuts.", "recording.", 1).split(".jsonl")[0] + ".tar")
        if not os.path.isfile(tar):
            raise ValueError(f"{os.path.join(folder, file)} has no {tar} beside it. Copy the recordings' tars too.")
        shards.append((os.path.join(folder, file), tar))
    return shards


def _is_shar_cuts(file: str) -> bool:
    return file.startswith("cuts.") and file.endswith((".jsonl.gz", ".jsonl"))


# ---- which form a folder has ----


def folder_forms(name: str) -> dict[str, str]:
    """The forms of other tools that a folder may have, the first one read -> by which file it is known."""
    if not os.path.isdir(name):
        return {}
    files = sorted(os.listdir(name))
    tables = [file for file in files if file.endswith((".tsv", ".tsv.gz"))]
    cuts, tars = [file for file in files if _is_shar_cuts(file)], [file for file in files if _is_tar(file)]
    signs = {
        "Kaldi": ["wav.scp"] if "wav.scp" in files else [],
        "Lhotse Shar": cuts if tars else [],
        "WebDataset": [] if cuts else tars,
        "Common Voice": tables if CLIPS in files else [],
    }
    return {form: found[0] for form, found in signs.items() if found}


def _is_tar(file: str) -> bool:
    return file.endswith((".tar", ".tar.gz", ".tgz"))


def folder_tars(name: str) -> list[str]:
    return [os.path.join(name, file) for file in sorted(os.listdir(name)) if _is_tar(file)]


def common_voice_table(name: str, split: str | None) -> str:
    """The table of a split in a folder of Common Voice."""
    tables = {file.split(".tsv")[0]: file for file in sorted(os.listdir(name)) if file.endswith((".tsv", ".tsv.gz"))}
    asked = "dev" if split == "validation" and "validation" not in tables else split
    if asked not in tables:
        raise ValueError(
            f"{name} is a folder of Common Voice with the splits {sorted(tables)}; got split={split!r}. Name one, "
            f"or the file: {os.path.join(name, next(iter(tables.values())))}."
        )
    return os.path.join(name, tables[asked])
