"""Rows of other tools in JSON: NeMo manifest, lhotse cuts, ms-swift, LLaMA-Factory; their keys tell them apart.

Every reader, those of `tables`, `kaldi` and `tars` too, gives rows with our column names and the place of each. Text
may be UTF-8, UTF-16 or UTF-32, with any line ends, also behind gzip (`formats.read_text`). What resembles a form
without being one is refused with its name.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from audiorl.audio.sources import is_number
from audiorl.datasets.faults import BadRowsError, RowFault
from audiorl.datasets.formats import JsonRows

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
    problem = cut_problem(row)
    if problem is None:
        return {"audio": row["recording"]["sources"][0]["source"], **cut_columns(row, whole=False)}
    if problem.startswith("this is"):
        raise FormFault(problem, "Make cuts of recordings and supervisions: lhotse cut simple -r RECS -s SUPS CUTS.")
    if problem == _NO_RECORDING:
        raise FormFault(problem, "Features alone are no sound: make cuts with recordings.")
    audio, plain = _by_lhotse(row, problem)
    return {"audio": audio, **cut_columns(plain, whole=True)}


def cut_problem(row: Row) -> str | None:
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


def cut_columns(row: Row, *, whole: bool) -> dict[str, Any]:
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
    return JsonRows(from_working_folder(rows, os.path.dirname(name)) if form.from_here else rows, found.places, unread)


def _refuse(form: Form) -> dict[str, Any]:
    raise FormFault(
        "the row's keys differ from those of the rows before it", f"Keep to the form of {form.name}, or to ours."
    )


def from_working_folder(rows: list[dict[str, Any]], folder: str) -> list[dict[str, Any]]:
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
