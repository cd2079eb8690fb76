"""The judge of rows: columns, texts, settings and audio headers, before anything is spent.

1. `RowJudge` judges one row: each text is tokenized once, the audio file opened once. What a family of models can take
   comes from its `limits`; a run adds the lengths it wants, its augmentation and the reach of its rollouts.
2. `audiorl.datasets.verdicts.judge_rows` judges a data set: all faults of all rows together, and the clips that are
   left out. A row of a stream is judged as it comes.
3. A clip that is too short or too long to be wanted is left out and counted; that is not a fault of the row. A
   `duration` alone never leaves a clip out: the header has to agree. A `duration` that is no length, or that
   contradicts the header, is a fault; so is a clip whose length nobody knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset

from audiorl.audio import AudioFault, row_audio_seconds
from audiorl.audio.sources import SEGMENT_COLUMNS, is_number, short_repr
from audiorl.datasets.faults import WHOLE_DATASET, BadRowsError, RowFault, SkippedRows
from audiorl.datasets.formats import told_columns
from audiorl.datasets.rows import iterate_batches
from audiorl.datasets.storage import OURS, text_problem, unkept_values, unread_problem
from audiorl.elsewhere import column_of

Tokenize = Callable[[str, Mapping[str, Any]], object]
LastTime = Callable[[str], float | None]
LeastSeconds = Callable[[str], float]
Problem = tuple[str, str]  # what is wrong, and what to do about it
# Rows may carry their audio as bytes, so at most this many are in memory at once.
_ROWS_AT_ONCE = 256
# Times are written in steps of 0.02 s, so the end of a clip may be rounded up.
_TIME_SLACK = 0.02
# A `duration` may be rounded, or count an MP3's padding: it may be off by this many seconds, or by this share.
_DURATION_SLACK, _DURATION_SHARE = 0.1, 0.02


def no_time(text: str) -> None:
    """The latest time in a text without timestamps."""


def any_length(text: str) -> float:
    """The shortest clip for a text, if any clip will do."""
    return 0.0


def any_text(text: str, row: Mapping[str, Any]) -> None:
    """The tokens of a text, if no model judges it."""


# What rows are held against where no model is asked.
UNLIMITED: dict[str, Any] = {"tokenize": any_text, "max_seconds": None}


class ReadTexts(NamedTuple):
    """What is wrong with a row's values, and the tokens of its texts."""

    problems: list[Problem]
    tokens: dict[str, Any]  # column -> what `tokenize` made of it


class Heard(NamedTuple):
    """What is wrong with a row's clip, judged by its header."""

    problems: list[Problem]
    seconds: float | None = None  # None where the header cannot be read
    left_out: bool = False  # of another length than wanted, so that its problems do not matter


@dataclass(frozen=True, kw_only=True)
class RowJudge:
    """The rules for a row, and the judgement of one.

    Args:
        text_columns: columns that have to hold text.
        tokenize: (text, row) -> anything; raises ValueError("what. what to do") for a text the model cannot
            take. Where it returns tokens (with `ids`), `distinct` compares them too. It is called from one thread.
        max_seconds: longest clip the model takes; None for no limit.
        distinct: whether the texts of a row have to differ, and still do as the model's tokens.
        last_time: text -> the latest time it mentions, in seconds, or None; called from several threads.
        min_seconds: shortest clip the model takes.
        least_seconds: text -> the shortest clip that can say it, in seconds; called from several threads.
        silence: whether a text may be empty: nothing is said in its clip.
        flag_columns: columns that have to hold true or false.
        setting_columns: columns that hold text or nothing, which the model reads beside the transcript.
        max_tokens: tokens of a text, without its prefix, that rollouts can reach; None for no limit.
        growth: >= 1, how many times as long augmentation may make a clip, which has to fit then, too; None where clips
            keep their length.
        wanted: shortest and longest clip that is wanted, in seconds, both inclusive; None for no bound.
        text_optional: whether a text may be missing, as nobody reads it; its tokens are then those of an empty one.
    """

    text_columns: Sequence[str]
    tokenize: Tokenize
    max_seconds: float | None
    distinct: bool
    last_time: LastTime = no_time
    min_seconds: float = 0.0
    least_seconds: LeastSeconds = any_length
    silence: bool = False
    flag_columns: Sequence[str] = ()
    setting_columns: Sequence[str] = ("language", "task")
    max_tokens: int | None = None
    growth: float | None = None
    wanted: tuple[float | None, float | None] = (None, None)
    text_optional: bool = False

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Columns that no row can do without."""
        texts = () if self.text_optional else self.text_columns
        return ("audio", *texts, *self.flag_columns)

    @classmethod
    def of(cls, limits: Any, **settings: Any) -> RowJudge:
        """The judge for a family of models.

        Args:
            limits: its `limits`; None where no model is asked.
            settings: the other arguments.
        """
        return cls(**(UNLIMITED if limits is None else limits._asdict()), **settings)

    def __call__(self, row: Mapping[str, Any]) -> list[RowFault]:
        """The faults of one row, with the audio judged by its header."""
        return faults_of(row, self.missing(row) + self.read(row).problems + self.listen(row).problems)

    def missing(self, row: Mapping[str, Any]) -> list[Problem]:
        """Columns that the row lacks."""
        found = missing_columns(list(row), self.needed_columns)
        return [(fault.problem, fault.remedy) for fault in found]

    def read(self, row: Mapping[str, Any]) -> ReadTexts:
        """Judge a row's values and tokenize its texts; to be called from one thread."""
        if unread := unread_problem(row):
            return ReadTexts([unread], {})
        kept_none = {fault.column: (fault.problem, fault.remedy) for fault in unkept_values(row)}
        named = ("audio", *self.text_columns, *self.setting_columns)
        problems = [problem for column, problem in kept_none.items() if column not in named]
        settings = setting_problems(row, self.setting_columns)
        problems += settings
        tokens: dict[str, Any] = {}
        for name in self.text_columns if self.text_optional else self._present(row):
            problem = kept_none.get(name) or self._problem_of_text(name, row, tokens, tokenized=not settings)
            if problem is not None:
                problems.append(problem)
        problems += [problem for name in self.flag_columns if (problem := flag_problem(name, row))]
        if self.distinct:
            problems += self._too_similar(row, tokens)
        if not problems and self.max_tokens is not None:
            problems += _beyond_reach(tokens, self.max_tokens)
        return ReadTexts(problems, tokens)

    def listen(self, row: Mapping[str, Any]) -> Heard:
        """Judge a row's clip by its header, and what the row says about it."""
        if (lost := lost_audio(row)) or "audio" not in row or unread_problem(row):
            return Heard(lost)
        try:
            seconds = row_audio_seconds(row)
        except AudioFault as fault:
            return Heard(self.unheard(row, fault))
        if self.wanted != (None, None) and _lies_outside(row, seconds, *self.wanted):
            return Heard([], seconds, left_out=True)
        return Heard(self.heard(row, seconds), seconds)

    def unheard(self, row: Mapping[str, Any], fault: AudioFault) -> list[Problem]:
        """What is wrong with a row whose audio cannot be read."""
        wrong = duration_problem(row.get("duration"), None)
        return [(fault.problem, fault.remedy)] + ([wrong] if wrong else [])

    def heard(self, row: Mapping[str, Any], seconds: float) -> list[Problem]:
        """Judge a clip of this many seconds, and what the row says about it."""
        texts = [(name, row[name]) for name in self._present(row) if isinstance(row[name], str)]
        found = [
            self._length_problem(seconds),
            duration_problem(row.get("duration"), seconds),
            *(self._time_problem(name, text, seconds) for name, text in texts),
            *(self._speed_problem(name, text, seconds) for name, text in texts),
            *([] if self.growth is None else self._growth_problems(texts, seconds, self.growth)),
        ]
        return [problem for problem in found if problem is not None]

    def _present(self, row: Mapping[str, Any]) -> list[str]:
        return [name for name in self.text_columns if name in row]

    def _problem_of_text(
        self, name: str, row: Mapping[str, Any], tokens: dict[str, Any], *, tokenized: bool
    ) -> Problem | None:
        if self.text_optional and row.get(name) is None:
            return self._token_problem(name, {**row, name: ""}, tokens) if tokenized else None
        problem = self._text_problem(name, row)
        if problem is None and row[name] is not None and tokenized:
            problem = self._token_problem(name, row, tokens)
        return problem

    def _text_problem(self, name: str, row: Mapping[str, Any]) -> Problem | None:
        text = row[name]
        if text is None:
            # where a file misspells a column in some rows only, these rows have None in the right one
            spare = [key for key, value in row.items() if value is not None and key not in (*OURS, *self.text_columns)]
            near = get_close_matches(name, spare, n=1)
            remedy = f"Rename {near[0]!r} to {name!r}." if near else "Add it, or remove the row."
            return f"{name} is missing", remedy
        if not isinstance(text, str):
            return (
                f"{name} is {short_repr(text)} ({type(text).__name__}), not text",
                "Give a string, or remove the row.",
            )
        if not text.strip() and not (self.silence and text == ""):
            return (
                f"{name} is empty",
                "Give the words that are said, set allow_silence if nothing is said, or remove the row.",
            )
        return text_problem(name, text)

    def _token_problem(self, name: str, row: Mapping[str, Any], tokens: dict[str, Any]) -> Problem | None:
        try:
            tokens[name] = self.tokenize(row[name], row)
        except ValueError as error:
            problem, _, remedy = str(error).partition(". ")
            remedy = remedy or "Change the text, or remove the row"
            return f"{name}: {problem.removesuffix('.')}", remedy.removesuffix(".") + "."
        return None

    def _too_similar(self, row: Mapping[str, Any], tokens: Mapping[str, Any]) -> list[Problem]:
        """Refuse a comparison of equal texts, or of texts with equal tokens: its loss would have no gradient."""
        together = " and ".join(self.text_columns)
        texts = [row[name].strip() for name in self._present(row) if isinstance(row[name], str)]
        words = [text for text in texts if text or self.silence]
        if len(set(words)) < len(words):
            remedy = "A comparison needs texts that differ; change one, or remove the row."
            return [(f"{together} are the same text", remedy)]
        ids = [tuple(found.ids) for found in tokens.values() if getattr(found, "ids", None) is not None]
        if len(set(ids)) < len(ids):
            remedy = (
                "They differ only in case, spaces or signs that the model does not know; change one, or remove the row."
            )
            return [(f"{together} become the same tokens", remedy)]
        return []

    def _length_problem(self, seconds: float) -> Problem | None:
        if seconds < self.min_seconds:
            problem = f"the clip is {1000 * seconds:.1f} ms long, the model needs {1000 * self.min_seconds:g} ms"
            return problem, "Pad the clip with silence, or remove the row."
        if self.max_seconds is None or seconds <= self.max_seconds:
            return None
        return f"the clip is {_shown(seconds)} s long, the model hears {self.max_seconds:g} s", TOO_LONG_REMEDY.format(
            self.max_seconds
        )

    def _time_problem(self, name: str, text: str, seconds: float) -> Problem | None:
        """Refuse a text with a timestamp after the end of its clip."""
        last = self.last_time(text)
        if last is None or last <= seconds + _TIME_SLACK:
            return None
        problem = f"{name} has a timestamp at {last:.2f} s, the clip ends at {_shown(seconds)} s"
        return problem, "Correct the timestamps, which count from the start of the clip, or remove the row."

    def _speed_problem(self, name: str, text: str, seconds: float) -> Problem | None:
        """Refuse a text that is too long for its clip."""
        least = self.least_seconds(text)
        return too_short(name, seconds, least) if least > seconds else None

    def _growth_problems(
        self, texts: Sequence[tuple[str, str]], seconds: float, growth: float
    ) -> Iterator[Problem | None]:
        """Refuse clips that outgrow the model's window when slowed down, and texts with timestamps, which other speeds
        make wrong.
        """
        for name, text in texts:
            if self.last_time(text) is not None:
                remedy = "Leave speed out of the augmentation, or timestamps out of the texts."
                yield f"{name} has timestamps, which other speeds make wrong", remedy
        limit = self.max_seconds
        # what fills the window exactly when slowed fits; the product may be off in its last digit
        if limit is not None and seconds <= limit and seconds * growth > limit * (1 + 1e-12):
            yield (
                f"the clip is {_shown(seconds)} s long, up to {_shown(seconds * growth)} s slowed; the model hears "
                f"{limit:g} s",
                'Cut the clip, slow it less, or set too_long to "unaugmented" in the augmentation.',
            )


def _beyond_reach(tokens: Mapping[str, Any], most: int) -> list[Problem]:
    """Texts that are longer than any rollout."""
    lengths = {name: len(found.ids) - found.first_kept for name, found in tokens.items()}
    return [
        (f"{name} has {length} tokens, rollouts stop after {most}", "Raise max_completion_length, or cut the clip.")
        for name, length in lengths.items()
        if length > most
    ]


def lost_audio(row: Mapping[str, Any]) -> list[Problem]:
    """Why a row's audio entry could not be kept; empty if it was."""
    return [(fault.problem, fault.remedy) for fault in unkept_values(row) if fault.column == "audio"]


TOO_LONG_REMEDY = (
    "Leave such clips out and count them with max_audio_seconds (--max_audio_seconds {0:g}), skip all bad rows with "
    'on_bad_rows="skip" (--on_bad_rows skip, where the command trains or mines), cut the clip and its texts (audiorl '
    "segment), or evaluate it in parts (--long_form auto)."
)


class OutsideSeconds(NamedTuple):
    """The rows of a data set whose clips are too short or too long, by their place in it."""

    shorter: list[int]
    longer: list[int]

    def describe(self, rows: int, min_seconds: float | None, max_seconds: float | None) -> str:
        """One line: how many of `rows` were left out, and why."""
        parts = [
            f"{len(places):,} {word} than {bound:g} s"
            for places, word, bound in ((self.shorter, "shorter", min_seconds), (self.longer, "longer", max_seconds))
            if places and bound is not None
        ]
        return f"{len(self.shorter) + len(self.longer):,} of {rows:,} clips left out: {', '.join(parts)}"

    def add(self, place: int, seconds: float, min_seconds: float | None) -> None:
        """Note a row that lies outside."""
        (self.shorter if min_seconds is not None and seconds < min_seconds else self.longer).append(place)


def judge_row(row: Mapping[str, Any], **settings: Any) -> list[RowFault]:
    """The faults of one row, with the audio judged by its header; settings as in `check_rows`."""
    return RowJudge(**settings)(row)


def setting_problems(row: Mapping[str, Any], columns: Sequence[str] = ("language", "task")) -> list[Problem]:
    """What is wrong with the columns that the model reads besides the transcript. Each is text or nothing."""
    lost = {fault.column: (fault.problem, fault.remedy) for fault in unkept_values(row)}
    problems = []
    for name in columns:
        value = row.get(name)
        if name in lost:
            problems.append(lost[name])
        elif value is not None and not isinstance(value, str):
            remedy = "Give its name as a string, or null to use the setting for all rows."
            problems.append((f"{name} is {short_repr(value)} ({type(value).__name__}), not text", remedy))
        elif value is not None and (problem := text_problem(name, value)):
            problems.append(problem)
    return problems


def flag_problem(name: str, row: Mapping[str, Any]) -> Problem | None:
    """What is wrong with a column that has to hold true or false; a missing column is told elsewhere."""
    value = row.get(name, True)
    if isinstance(value, bool) or (is_number(value) and value in (0, 1)):
        return None
    return f"{name} is {short_repr(value)} ({type(value).__name__}), not true or false", "Give true or false."


def duration_problem(duration: Any, seconds: float | None) -> Problem | None:
    """Refuse a `duration` that is not a length, or that contradicts the audio.

    Args:
        duration: the row's.
        seconds: what the audio's header says; None where it says nothing.
    """
    if duration is None:
        return None
    remedy = "Give the clip's seconds as a number above 0, or leave the column out."
    if not is_number(duration):
        return f"duration is {short_repr(duration)} ({type(duration).__name__}), not seconds", remedy
    if duration <= 0:
        return f"duration is {duration:g} s, which no clip lasts", remedy
    if seconds is None or agrees(duration, seconds):
        return None
    return (
        f"duration says {duration:g} s, the audio is {_shown(seconds)} s long",
        "Correct the column, or leave it out; for a segment of a longer file, give its start in a column offset.",
    )


def agrees(duration: float, seconds: float) -> bool:
    """Whether a stated length is the audio's, apart from rounding; a whole number may be off by less than one."""
    off = abs(duration - seconds)
    return off <= max(_DURATION_SLACK, _DURATION_SHARE * seconds) or (duration == round(duration) and off < 1)


def missing_columns(found: Sequence[str], needed: Sequence[str]) -> list[RowFault]:
    """A fault for each needed column that is missing, with the most similar name that exists."""
    own = [name for name in found if name not in OURS]
    missing = [name for name in needed if name not in own]
    spare = [name for name in own if name not in needed]
    meant = {name: theirs for name in needed if name not in own and (theirs := column_of(name, spare))}

    def remedy(name: str) -> str:
        if name in meant:
            return f"Rename {meant[name]!r} to {name!r}, or pass {told_columns(meant)}."
        if own == ["audio"]:
            return (
                "A folder of clips has no texts. Write metadata.csv into it, with the columns file_name "
                f"and {name}, or name a JSON lines file instead."
            )
        transcripts = None if name == "text" else "text" if "text" in own else column_of("text", spare)
        if name not in ("chosen", "rejected") or transcripts is None:
            return f"Add it; the columns are {own}."
        named = "" if transcripts == "text" else f", with {told_columns({**meant, 'text': transcripts})}"
        return (
            f"Add it; the columns are {own}. From transcripts in {transcripts!r} pairs are mined: audiorl pairs, in "
            f"Python audiorl.pairs.mine_pairs(model, processor, rows){named}."
        )

    if missing and (known := _conversations(own, missing)):
        return [RowFault("all rows", WHOLE_DATASET, *known)]
    return [RowFault("all rows", WHOLE_DATASET, f"the column {name!r} is missing", remedy(name)) for name in missing]


def _conversations(own: Sequence[str], missing: Sequence[str]) -> Problem | None:
    """Refuse rows that are conversations about clips, and say how to turn them into rows."""
    sound = next((name for name in ("audios", "audio") if name in own), None)
    if "messages" not in own or sound is None:
        return None
    problem = f"these are conversations (messages with {sound}), not rows with {' and '.join(map(repr, missing))}"
    return problem, (
        "Pass the name of their file: files of ms-swift and LLaMA-Factory are read as they are. Or write each as one "
        'row: {"audio": the path, "text": what the assistant says}, without tags such as <audio>, with the user\'s '
        "question in the column prompt."
    )


def drop_bad_rows(rows: Dataset, faults: Sequence[RowFault], skipped: SkippedRows | None, *, data: str = "") -> Dataset:
    """The rows without faults; they keep their numbers and places.

    Args:
        rows: from `speech_rows`.
        faults: from `check_rows`.
        skipped: where the rows that are left out are written; None writes nothing.
        data: what the rows are called there, see `SkippedRows.add`.

    Raises:
        BadRowsError: a fault is the whole data set's, a missing column for example: no row could be kept.
    """
    whole = [fault for fault in faults if fault.row_id == WHOLE_DATASET]
    if whole:
        raise BadRowsError(whole)
    if not faults:
        return rows
    if skipped is not None:
        skipped.add(*faults, data=data)
    bad = {fault.row_id for fault in faults}
    return rows.select([i for i, row_id in enumerate(rows["row_id"]) if row_id not in bad])


def faults_of(row: Mapping[str, Any], problems: Sequence[Problem]) -> list[RowFault]:
    """Problems as faults, with the row's place and number."""
    return [RowFault(row["where"], row["row_id"], problem, remedy) for problem, remedy in problems]


def too_short(name: str, seconds: float, least: float) -> Problem:
    """A clip that is too short for its text, and what to do."""
    problem = f"the clip is {_shown(seconds)} s long, the model needs {_shown(least)} s to write {name}"
    return problem, "Check that audio and text belong together, or remove the row."


def _shown(seconds: float) -> str:
    return f"{math.ceil(100 * seconds) / 100:.2f}"  # rounded up, so that a clip too long shows as the longer one


# ---- clips of a wanted length ----


def check_bounds(min_seconds: float | None, max_seconds: float | None) -> None:
    """Check the bounds that a user set.

    Raises:
        ValueError: no finite numbers, a negative minimum, a maximum of 0 or below, or one below the minimum.
    """
    given = [bound for bound in (min_seconds, max_seconds) if bound is not None]
    known = all(is_number(bound) for bound in given)
    low, high = min_seconds or 0.0, math.inf if max_seconds is None else max_seconds
    if not known or low < 0 or high <= 0 or low > high:
        raise ValueError(
            f"min_audio_seconds and max_audio_seconds are seconds with 0 <= min <= max and max > 0; got "
            f"{min_seconds!r} and {max_seconds!r}. Leave a bound out where there is none."
        )


def clip_seconds(row: Mapping[str, Any]) -> float | None:
    """Length of a row's clip: its `duration`, or else from the audio's header; None if neither tells."""
    duration = row.get("duration")
    if is_number(duration) and duration > 0:
        return float(duration)
    if row.get("audio") is None:
        return None
    try:
        return row_audio_seconds(row)
    except AudioFault:
        return None


def seconds_outside(row: Mapping[str, Any], min_seconds: float | None, max_seconds: float | None) -> float | None:
    """Length of a row's clip if it is outside the bounds; None if it is inside, or if a check has to decide.

    Args:
        row: from `speech_rows`.
        min_seconds, max_seconds: bounds, both inclusive; None for none.
    """
    low, high = min_seconds or 0.0, math.inf if max_seconds is None else max_seconds
    duration = row.get("duration")
    if duration is not None and (duration_problem(duration, None) or low <= duration <= high):
        return None
    try:
        seconds = row_audio_seconds(row)
    except AudioFault:
        return None
    return seconds if _lies_outside(row, seconds, min_seconds, max_seconds) else None


def _lies_outside(row: Mapping[str, Any], seconds: float, min_seconds: float | None, max_seconds: float | None) -> bool:
    """Whether a clip of this many seconds is left out, by its header and by the row's `duration`."""
    low, high = min_seconds or 0.0, math.inf if max_seconds is None else max_seconds
    duration = row.get("duration")
    if duration is not None and (duration_problem(duration, None) or low <= duration <= high):
        return False
    return not (low <= seconds <= high or duration_problem(duration, seconds))


def outside_seconds(
    rows: Dataset, min_seconds: float | None, max_seconds: float | None, *, num_threads: int = 8
) -> OutsideSeconds:
    """Find the rows whose clips are shorter than `min_seconds` or longer than `max_seconds`.

    Args:
        rows: from `speech_rows`.
        min_seconds, max_seconds: bounds, both inclusive; None for none.
        num_threads: > 0, audio files opened at once; none where a `duration` lies inside the bounds.
    """
    found = OutsideSeconds([], [])
    for place, seconds in _outside(rows, min_seconds, max_seconds, num_threads):
        found.add(place, seconds, min_seconds)
    return found


def drop_outside(rows: Dataset, outside: OutsideSeconds) -> Dataset:
    """The other rows; they keep their numbers and places."""
    dropped = {*outside.shorter, *outside.longer}
    return rows.select([i for i in range(len(rows)) if i not in dropped]) if dropped else rows


def stream_within_seconds(
    rows: IterableDataset, min_seconds: float | None, max_seconds: float | None, left_out: SkippedRows
) -> IterableDataset:
    """The stream without clips outside the bounds, judged one by one.

    Args:
        rows: from `speech_rows`.
        min_seconds, max_seconds: bounds, both inclusive; None for none.
        left_out: where each row that is left out is written.
    """
    return rows.filter(partial(_is_within, min_seconds=min_seconds, max_seconds=max_seconds, left_out=left_out))


def _is_within(
    row: Mapping[str, Any], min_seconds: float | None, max_seconds: float | None, left_out: SkippedRows
) -> bool:
    seconds = seconds_outside(row, min_seconds, max_seconds)
    if seconds is None:
        return True
    if min_seconds is not None and seconds < min_seconds:
        problem, remedy = (
            f"the clip is {seconds:.2f} s long, shorter than {min_seconds:g} s",
            "Lower min_audio_seconds.",
        )
    else:
        problem, remedy = f"the clip is {seconds:.2f} s long, longer than {max_seconds:g} s", "Raise max_audio_seconds."
    left_out.add(RowFault(row["where"], row["row_id"], problem, remedy))
    return False


def _outside(
    rows: Dataset, min_seconds: float | None, max_seconds: float | None, num_threads: int
) -> Iterator[tuple[int, float]]:
    """Places and seconds of the rows outside. A file is opened only if its `duration` is not inside the bounds."""
    if (min_seconds, max_seconds) == (None, None) or "audio" not in rows.column_names:
        return
    judge = partial(seconds_outside, min_seconds=min_seconds, max_seconds=max_seconds)
    doubtful = list(range(len(rows)))
    if "duration" in rows.column_names:
        low, high = min_seconds or 0.0, math.inf if max_seconds is None else max_seconds
        durations = rows["duration"][:]
        doubtful = [i for i in doubtful if not (is_number(durations[i]) and low <= durations[i] <= high)]
    read = [name for name in ("audio", "channel", "duration", *SEGMENT_COLUMNS) if name in rows.column_names]
    with ThreadPoolExecutor(num_threads) as pool:
        places = iter(doubtful)
        for some in iterate_batches(rows.select(doubtful).select_columns(read), _ROWS_AT_ONCE):
            for seconds in pool.map(judge, some):
                place = next(places)
                if seconds is not None:
                    yield place, seconds
