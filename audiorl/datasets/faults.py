"""Rows that cannot be used: all faults in one error message, or skipped rows in a file."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# A fault of the whole data set, a missing column for example, belongs to no row: no row id is below zero.
WHOLE_DATASET = -1
_SHOWN = 20
# What differs between two faults of one kind: quoted names and numbers.
_PARTICULARS = re.compile(r"0x[0-9a-f]+|'[^']*'|\"[^\"]*\"|\b\d+(?:\.\d+)?(?:e[+-]?\d+)?\b")


@dataclass(frozen=True)
class RowFault:
    """Why one row cannot be used.

    Args:
        where: where a person finds the row, for example "pairs.jsonl:12".
        row_id: the row's number, >= 0; `WHOLE_DATASET` when the fault is not one row's.
        problem: what is wrong, without a full stop.
        remedy: what to do about it, a sentence.
    """

    where: str
    row_id: int
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}. {self.remedy}"

    @property
    def kind(self) -> str:
        """The problem without names and numbers, which faults of one kind share."""
        return _PARTICULARS.sub("…", self.problem)


class BadRowsError(ValueError):
    """Rows that cannot be used, all of them in one message.

    Pickling keeps the faults. The worker of a torch `DataLoader` sends its printed traceback instead of the exception;
    this class takes the message from it, and `faults` is then empty.

    Args:
        faults: at least one; or a message, or a traceback that ends in one.
    """

    def __init__(self, faults: Sequence[RowFault] | str):
        self.faults: tuple[RowFault, ...] = () if isinstance(faults, str) else tuple(faults)
        message = self._message_in(faults) if isinstance(faults, str) else describe_faults(self.faults)
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.faults or str(self),)

    @classmethod
    def _message_in(cls, traceback: str) -> str:
        _, found, message = traceback.rpartition(f"\n{cls.__module__}.{cls.__qualname__}: ")
        return message.rstrip("\n") if found else traceback


def describe_faults(faults: Sequence[RowFault]) -> str:
    """Say how many faults there are, show the first 20 grouped by kind, and count each kind."""
    kinds: dict[str, list[RowFault]] = defaultdict(list)
    for fault in faults:
        kinds[fault.kind].append(fault)
    shown = _examples_of_each(kinds)
    rows = len({(fault.where, fault.row_id) for fault in faults if fault.row_id != WHOLE_DATASET})
    lines = [_count(len(faults), "fault") + (f" in {_count(rows, 'row')}:" if rows else ":")]
    lines += [f"  {fault}" for fault in shown]
    if len(faults) > len(shown):
        lines.append(f"  and {len(faults) - len(shown):,} more of the same kinds")
    if len(kinds) < len(faults):
        lines.append("by kind:")
        lines += [f"  {len(same):,} x {kind}" for kind, same in kinds.items()]
    return "\n".join(lines)


def _examples_of_each(kinds: dict[str, list[RowFault]]) -> list[RowFault]:
    """At most 20 faults, in which a frequent kind does not hide the others, in order within a kind."""
    by_turn = sorted((turn, number) for number, same in enumerate(kinds.values()) for turn in range(len(same)))
    groups = list(kinds.values())
    return [groups[number][turn] for number, turn in sorted((n, t) for t, n in by_turn[:_SHOWN])]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class SkippedRows:
    """The file of skipped rows: one JSON line for each, in `skipped_rows.jsonl`.

    Several workers and ranks may write to one file: each line is a single append, which a local file system
    keeps whole. A row that several processes or runs skip has several lines and counts once.

    Args:
        path: the file to append to; it and its folder are made when the first row is skipped.

    Attributes:
        begun: bytes that the file had when this was built: what earlier runs in the folder skipped.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self.begun = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        self._written: set[tuple[str, str, int]] = set()

    def add(self, *faults: RowFault, data: str = "") -> None:
        """Append one line for each row that this process has not written yet, with all its faults given here.

        Args:
            data: which data set the rows are of; written into the line.

        Raises:
            OSError: the file cannot be written.
        """
        rows: dict[tuple[str, str, int], list[RowFault]] = defaultdict(list)
        for fault in faults:
            rows[data, fault.where, fault.row_id].append(fault)
        for row, same in rows.items():
            if row not in self._written:
                self._append(_joined(same), data)
                self._written.add(row)

    def count(self, since: int = 0) -> int:
        """How many different rows the file holds.

        Args:
            since: only in lines behind so many bytes, as `begun`.
        """
        if not os.path.exists(self.path):
            return 0
        with open(self.path, "rb") as file:
            file.seek(since)
            rows = [json.loads(line) for line in file]
        return len({(row.get("data", ""), row["where"], row["row_id"]) for row in rows})

    def _append(self, fault: RowFault, data: str) -> None:
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        told = asdict(fault) if not data else {"data": data, **asdict(fault)}
        line = (json.dumps(told, ensure_ascii=False) + "\n").encode()
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            written = os.write(file, line)
        finally:
            os.close(file)
        if written != len(line):
            raise OSError(
                f"{self.path} took {written} of the {len(line)} bytes of a skipped row, so the disk is full. "
                "Make room, remove the file's last line, and start again."
            )


def _joined(faults: Sequence[RowFault]) -> RowFault:
    first = faults[0]
    problems = "; ".join(fault.problem for fault in faults)
    remedies = " ".join(dict.fromkeys(fault.remedy for fault in faults))
    return RowFault(first.where, first.row_id, problems, remedies)
