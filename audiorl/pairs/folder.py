"""A folder that pairs are mined into: kept through kills and full disks, shared by processes, closed to other runs.

    pairs.jsonl         one line for each pair                          } written at the end, each at once
    hypotheses.jsonl    one line for each clip, with all its rewards    }
    pseudo_labels.jsonl one line for each clip that got one, if asked   }
    summary.json        sums; it is there exactly when the two are whole
    audio/              clips that came as bytes and not as files
    parts/              while it is mined: settings.json and, for each process, one line for each batch that is done

The settings are written with the first batch: a run that failed before it had mined anything leaves a folder that other
settings may use.

A batch is written as one line, so it is there as a whole or not at all: a line without its end is cut off when the run
goes on, and mined again. Batches have numbers that do not depend on the process, so a run may go on with another number
of processes, and a merged file has the rows in the order of the source. Processes on several machines need one folder
that all of them see.

Rows in numbered batches that are the same whoever takes them: the ground for shards and for going on after a kill.

Batch n holds the same rows in every process of every run, so what is sampled for it is the same to the last bit, and
its number says whether it is done.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from filelock import FileLock, Timeout

from audiorl.audio import audio_suffix
from audiorl.datasets import BadRowsError, iterate_batches, missing_columns, speech_rows
from audiorl.datasets.checks import check_bounds, drop_outside, outside_seconds, seconds_outside
from audiorl.datasets.storage import FAULTS_COLUMN, unread_problem
from audiorl.pairs.records import MinedBatch, MinedClip, MiningSummary, check_columns, json_text, own_columns
from audiorl.pairs.settings import MiningConfig

Row = dict[str, Any]
OTHER_LANGUAGE = "rows in other languages"
OTHER_LENGTH = "clips outside the seconds asked for"


class NumberedBatches:
    """The rows of a source that filters let through, `config.batch_size` at a time.

    A data set is filtered when this is built, a stream while it is read.

    Attributes:
        left_out: rows that were filtered out so far, by the reason.
        count: how many batches there are; of a stream None until `take` has come to its end.
        clips: how many rows are in them; None of a stream.

    Raises:
        BadRowsError: a column is missing.
        ValueError: bounds that make no sense, columns that mining writes, or nothing is left.
    """

    def __init__(self, rows: Any, config: MiningConfig):
        check_bounds(config.min_audio_seconds, config.max_audio_seconds)
        self.config = config
        self.left_out: Counter[str] = Counter()
        self.count: int | None = None
        self.clips: int | None = None
        self.rows = speech_rows(rows)
        names = self.rows.column_names
        if names is not None:
            check_columns(names, "The rows")
            languages = ("language",) if config.languages else ()
            texts = () if config.pseudo_labels else ("text",)
            faults = missing_columns(names, ("audio", *texts, *languages, *(config.other_transcripts or ())))
            if faults:
                raise BadRowsError(faults)
        if isinstance(self.rows, Dataset):
            self.rows = self._filtered(self.rows)
            self.clips = len(self.rows)
            self.count = -(-self.clips // config.batch_size)

    def take(self, rank: int = 0, world: int = 1, done: Collection[int] = ()) -> Iterator[tuple[int, list[Row]]]:
        """The batches of one process of several that are not done, with their numbers, in order."""
        if isinstance(self.rows, Dataset):
            for number in self._numbers(rank, world, done):
                yield number, [self.rows[place] for place in self._places(number)]
            return
        # nothing may be counted twice where a stream is read twice
        self.left_out.clear()
        number = -1
        for number, rows in enumerate(iterate_batches(self._wanted(), self.config.batch_size)):
            if number % world == rank and number not in done:
                yield number, rows
        self.count = number + 1

    def own_clips(self, rank: int, world: int, done: Collection[int]) -> int:
        """How many rows of a data set `take` would give."""
        return sum(len(self._places(number)) for number in self._numbers(rank, world, done))

    def own_rows(self, rank: int, world: int, done: Collection[int]) -> Dataset:
        """The rows of a data set that `take` would give."""
        numbers = self._numbers(rank, world, done)
        return self.rows.select([place for number in numbers for place in self._places(number)])

    def _numbers(self, rank: int, world: int, done: Collection[int]) -> list[int]:
        return [number for number in range(rank, self.count or 0, world) if number not in done]

    def _places(self, number: int) -> range:
        size = self.config.batch_size
        return range(number * size, min((number + 1) * size, len(self.rows)))

    def _filtered(self, rows: Dataset) -> Dataset:
        bounds = (self.config.min_audio_seconds, self.config.max_audio_seconds)
        if self.config.languages:
            told = rows.select_columns([name for name in ("language", FAULTS_COLUMN) if name in rows.column_names])
            kept = [
                place
                for place, row in enumerate(told)
                if row["language"] in self.config.languages or unread_problem(row)  # which its check reports
            ]
            self._leave_out(OTHER_LANGUAGE, len(rows) - len(kept))
            rows = rows.select(kept)
        if bounds != (None, None):
            inside = drop_outside(rows, outside_seconds(rows, *bounds))
            self._leave_out(OTHER_LENGTH, len(rows) - len(inside))
            rows = inside
        if len(rows) == 0:
            raise ValueError(
                f"No row is left to mine: {dict(self.left_out)}. Change languages, min_audio_seconds or "
                "max_audio_seconds; a duration column is in seconds."
            )
        return rows

    def _wanted(self) -> Iterator[Row]:
        low, high = self.config.min_audio_seconds, self.config.max_audio_seconds
        for row in self.rows:
            if self.config.languages and row.get("language") not in self.config.languages:
                self._leave_out(OTHER_LANGUAGE, 1)
                continue
            if (low, high) != (None, None) and seconds_outside(row, low, high) is not None:
                self._leave_out(OTHER_LENGTH, 1)
                continue
            yield row

    def _leave_out(self, reason: str, count: int) -> None:
        if count:
            self.left_out[reason] += count


LABELS = "pseudo_labels.jsonl"
PAIRS, HYPOTHESES, SUMMARY = "pairs.jsonl", "hypotheses.jsonl", "summary.json"
# Begins the names of settings that are digests of files; folders of earlier versions have none.
CONTENT = "content of "
_PARTS, _SETTINGS = "parts", "settings.json"
_BATCH = re.compile(rb'\{"batch": (\d+),')
_CLIPS_OF_A_FOLDER = 1000


class _Place(NamedTuple):
    """Where a batch is written."""

    file: str
    start: int
    length: int


class MiningFolder:
    """Open it with `with`; it is this process's alone until the block ends.

    Args:
        path: the folder; made if it is not there.
        settings: what the rows depend on, as JSON; a run goes on only under the same. That the source still holds the
            same rows is the caller's promise.
        rank, world: which process of how many this is; default RANK and WORLD_SIZE of the environment, else the only
            one.

    Attributes:
        done: numbers of the batches that are written.
        summary: of the whole run where it is finished, else None.

    Raises:
        ValueError: (on entering) another run writes to the folder or wrote it with other settings, or it holds files of
            these names that no run of this kind wrote.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        rank: int | None = None,
        world: int | None = None,
    ):
        self.path = os.fspath(path)
        self.settings = json.loads(json_text(dict(settings), "settings"))
        self.rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        self.world = int(os.environ.get("WORLD_SIZE", "1")) if world is None else world
        self.done: frozenset[int] = frozenset()
        self.summary: MiningSummary | None = None
        self._parts = os.path.join(self.path, _PARTS)
        self._own = os.path.join(self._parts, f"{self.rank:05d}.jsonl")
        self._file = -1
        self._end = 0
        self._begun = False  # whether a batch of this process has been written under its settings
        self._open = ExitStack()

    def __repr__(self) -> str:
        return f"MiningFolder({self.path!r})"

    def __enter__(self) -> MiningFolder:
        os.makedirs(self._parts, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(f"{self._own}.lock", blocking=False))
            except Timeout as error:
                raise ValueError(
                    f"Another run is writing to {self.path} as process {self.rank}. Wait until it ends, or choose "
                    "another output_dir."
                ) from error
            self._sweep()
            self._check_settings()
            if os.path.exists(os.path.join(self.path, SUMMARY)):
                with open(os.path.join(self.path, SUMMARY), encoding="utf-8") as file:
                    self.summary = MiningSummary.from_json(json.load(file))
            else:
                self._file = os.open(self._own, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                stack.callback(os.close, self._file)
                self._cut_torn_line()
                self.done = frozenset(self._written())
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    # ---- while it is mined ----

    def check(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Refuse rows that could not be written, before anything is spent on them.

        Raises:
            ValueError: a column that cannot be written as JSON.
        """
        for row in rows:
            json_text({name: value for name, value in own_columns(row).items() if name != "audio"}, row["where"])

    def append(self, number: int, batch: MinedBatch) -> None:
        """Write one batch, to the disk and not only to the system's memory.

        Raises:
            OSError: it cannot be written; the folder is as it was before.
        """
        for clip in batch.clips:
            clip.row = {**clip.row, "audio": self._kept_audio(clip)}
        line = json_text({"batch": number, **batch.to_json()}, f"batch {number}").encode() + b"\n"
        if self._begun:
            self._write(line)
            return
        with FileLock(os.path.join(self._parts, f"{_SETTINGS}.lock")):
            self._check_settings(write=True)
            self._write(line)
        self._begun = True

    def _write(self, line: bytes) -> None:
        try:
            start = 0
            while start < len(line):
                start += os.write(self._file, line[start:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise self._unwritable(self._own, error) from error
        self._end += len(line)

    def finish(self, count: int, left_out: Counter[str]) -> MiningSummary | None:
        """Merge all parts, if this process is the last of the run.

        Args:
            count: batches of the whole source.
            left_out: rows that were filtered out before they came into batches, of the whole source.

        Returns:
            The sums over all of it; None where batches of other processes are still missing, or another has merged.
        """
        with FileLock(os.path.join(self._parts, "merge.lock")):
            written = self._written() if not os.path.exists(os.path.join(self.path, SUMMARY)) else {}
            if not count or any(number not in written for number in range(count)):
                return None
            self.summary = self._merge([written[number] for number in range(count)], left_out)
        return self.summary

    def _kept_audio(self, clip: MinedClip) -> str:
        """The path of a clip, from this folder on where it was written here."""
        entry = clip.row["audio"]
        content, path = entry["bytes"], entry["path"] or ""
        if content is None:
            return path if "://" in path else os.path.abspath(path)
        suffix = os.path.splitext(path)[1] or audio_suffix(content) or ".audio"
        name = f"audio/{clip.row_id // _CLIPS_OF_A_FOLDER:06d}/{clip.row_id}{suffix}"
        file = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        self._replace(file, [content])
        return name

    def _cut_torn_line(self) -> None:
        """Remove an unfinished last line of a killed process."""
        size = os.fstat(self._file).st_size
        with open(self._own, "rb") as file:
            for line in file:
                self._end += len(line) if line.endswith(b"\n") else 0
        if self._end < size:
            os.ftruncate(self._file, self._end)

    def _written(self) -> dict[int, _Place]:
        """Where each batch of all processes is; a last line that is still being written is none."""
        places: dict[int, _Place] = {}
        for name in sorted(os.listdir(self._parts)):
            if not name.endswith(".jsonl"):
                continue
            path, start = os.path.join(self._parts, name), 0
            with open(path, "rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    found = _BATCH.match(line)
                    if found is None:
                        raise ValueError(
                            f"{path} is damaged at byte {start}: this is not a line of a mining run. Remove the line "
                            "and start again; its clips are then mined once more."
                        )
                    places.setdefault(int(found[1]), _Place(path, start, len(line)))
                    start += len(line)
        return places

    # ---- at the end ----

    def _merge(self, places: list[_Place], left_out: Counter[str]) -> MiningSummary:
        summary = MiningSummary(left_out=Counter(left_out))
        self._replace(os.path.join(self.path, PAIRS), _lines(places, MinedClip.pair_rows))
        self._replace(os.path.join(self.path, HYPOTHESES), _lines(places, lambda clip: [clip.hypothesis_row()]))
        if self.settings.get("pseudo_labels"):
            self._replace(os.path.join(self.path, LABELS), _lines(places, MinedClip.label_rows))
        for batch in _batches(places):
            summary.add(batch)
        told = json.dumps(summary.to_json(), indent=2, ensure_ascii=False) + "\n"
        self._replace(os.path.join(self.path, SUMMARY), [told.encode()])
        for name in {place.file for place in places}:
            os.remove(name)
        for stray in Path(self.path, "audio").rglob("*.tmp"):
            stray.unlink(missing_ok=True)
        return summary

    def _replace(self, path: str, parts: Iterable[bytes]) -> None:
        """Write a whole file or nothing."""
        staged = f"{path}.{self.rank}.tmp"
        try:
            try:
                with open(staged, "wb") as file:
                    file.writelines(parts)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(staged, path)
            except OSError:
                if os.path.exists(staged):
                    os.remove(staged)
                raise
        except OSError as error:
            raise self._unwritable(path, error) from error

    def _unwritable(self, path: str, error: OSError) -> OSError:
        return OSError(
            f"{path} could not be written ({error.strerror}). What was mined before is kept as it is: make room and "
            "start the same command again, which goes on from there."
        )

    def _check_settings(self, *, write: bool = False) -> None:
        """Refuse a folder that holds what other settings made, or somebody else's files; `write` begins one."""
        path = os.path.join(self._parts, _SETTINGS)
        before = self._settings_before(path)
        if before is None and not self._written():
            others = [name for name in (PAIRS, HYPOTHESES, SUMMARY) if os.path.exists(os.path.join(self.path, name))]
            if others:
                raise ValueError(
                    f"{self.path} holds {others} that no mining run wrote there. Choose another output_dir, or move "
                    "them."
                )
        changed = [] if before is None else _changes(before, self.settings)
        if changed and (self._written() or os.path.exists(os.path.join(self.path, SUMMARY))):
            raise ValueError(
                f"{self.path} was begun with other settings: {'; '.join(changed)}. Go on with those, or choose another "
                "output_dir."
            )
        if write and (changed or before is None):
            self._replace(path, [json.dumps(self.settings, indent=2).encode()])

    def _settings_before(self, path: str) -> dict[str, Any] | None:
        """Settings of the run that began the folder, None where none did."""
        if not os.path.exists(path):
            return None
        with open(path, encoding="utf-8") as file:
            try:
                return dict(json.load(file))
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{path} is damaged ({error}), so the settings of the rows in this folder are unknown. "
                    "Choose another output_dir, or remove this one."
                ) from error

    def _sweep(self) -> None:
        """Remove what killed processes with this number left beside files; that of clips goes when all is merged."""
        for folder in (self.path, self._parts):
            for name in os.listdir(folder):
                if name.endswith(f".{self.rank}.tmp"):
                    os.remove(os.path.join(folder, name))


def _batches(places: Iterable[_Place]) -> Iterable[MinedBatch]:
    """Batches read one by one."""
    files: dict[str, Any] = {}
    with ExitStack() as stack:
        for place in places:
            if place.file not in files:
                files[place.file] = stack.enter_context(open(place.file, "rb"))
            files[place.file].seek(place.start)
            yield MinedBatch.from_json(json.loads(files[place.file].read(place.length)))


def _lines(places: Iterable[_Place], rows_of: Any) -> Iterable[bytes]:
    for batch in _batches(places):
        for clip in batch.clips:
            for row in rows_of(clip):
                yield json_text(row, "mined rows").encode() + b"\n"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs' settings, a few words for each."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    files = [name for name in names if name.startswith(CONTENT) and name in before and name in now]
    return [f"{name.removeprefix(CONTENT)} has other content than then" for name in files] + [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names if not name.startswith(CONTENT)
    ]
