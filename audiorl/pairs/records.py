"""What was mined of one clip, the rows made of it, the sums over many clips, and their export with audio inside."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from datasets import Audio, Dataset

from audiorl.datasets import speech_rows
from audiorl.datasets.storage import OURS
from audiorl.pairs.settings import TRANSCRIPT, Pair

# Columns that mining writes; rows must not bring them.
PAIR_COLUMNS = (
    *(f"{side}{suffix}" for side in ("chosen", "rejected") for suffix in ("", "_reward", "_wer", "_origin")),
    "rejected_failures",
)
HYPOTHESIS_COLUMNS = (
    "hypotheses",
    "rewards",
    "reward_parts",
    "wers",
    "copies",
    "origins",
    "transcript_reward",
    "decoded",
)


@dataclass
class MinedClip:
    """One clip's texts, place 0 the transcript, and the pairs that a strategy made of them."""

    row_id: int
    row: dict[str, Any]  # the columns it came with
    texts: list[str]  # (K + 1,), equal ones once
    origins: list[str]  # (K + 1,) where each comes from: transcript, sample@1, beam@1, or a kind of corruption
    copies: list[int]  # (K + 1,) how often it was found; 0 for the transcript
    wers: list[float | None]  # (K + 1,) fractions; None where there is no transcript
    rewards: list[float | None]  # (K + 1,) None where no reward scored the text
    parts: dict[str, list[float | None]]  # each reward by its name, (K + 1,)
    pairs: list[Pair] = field(default_factory=list)
    failures: list[list[str]] = field(default_factory=list)  # (K + 1,) what each fails in, where that was asked for
    label: int | None = None  # place of the hypothesis that stands for the transcript, where that was asked for
    decoded: str | None = None  # what the model says as its generation config tells it to, where it was asked

    def pair_rows(self) -> list[dict[str, Any]]:
        """The row with `chosen`, `rejected` and their rewards, error rates and origins; one for each pair."""
        rows = []
        for pair in self.pairs:
            row = dict(self.row)
            for side, place in zip(("chosen", "rejected"), pair, strict=True):
                row[side] = self.texts[place]
                row[f"{side}_reward"] = self.rewards[place]
                row[f"{side}_wer"] = self.wers[place]
                row[f"{side}_origin"] = self.origins[place]
            if self.failures:
                row["rejected_failures"] = self.failures[pair[1]]
            rows.append(row)
        return rows

    def label_rows(self) -> list[dict[str, Any]]:
        """The row with its pseudo-label as `text` and `text_reward`; none where no hypothesis earned enough."""
        if self.label is None:
            return []
        kept = {"true_text" if name == "text" else name: value for name, value in self.row.items()}
        return [{**kept, "text": self.texts[self.label], "text_reward": self.rewards[self.label]}]

    def hypothesis_row(self) -> dict[str, Any]:
        """The row with all its hypotheses and their rewards."""
        row = {
            **self.row,
            "hypotheses": self.texts[1:],
            "rewards": self.rewards[1:],
            "wers": self.wers[1:],
            "copies": self.copies[1:],
            "origins": self.origins[1:],
            "transcript_reward": self.rewards[TRANSCRIPT],
        }
        if self.parts:
            row["reward_parts"] = {name: values[1:] for name, values in self.parts.items()}
        return row if self.decoded is None else {**row, "decoded": self.decoded}

    def margins(self) -> list[float]:
        """Reward of chosen less reward of rejected, > 0, of each pair."""
        found = [(self.rewards[chosen], self.rewards[rejected]) for chosen, rejected in self.pairs]
        return [chosen - rejected for chosen, rejected in found if chosen is not None and rejected is not None]


@dataclass
class MinedBatch:
    """What came of some clips that were mined together."""

    clips: list[MinedClip] = field(default_factory=list)
    errors: int = 0  # of all that were decoded as the generation config says, those left out afterwards too
    words: int = 0  # of their transcripts
    left_out: Counter[str] = field(default_factory=Counter)  # clips, by the reason

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "clips": [vars(clip) for clip in self.clips]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MinedBatch:
        clips = [
            MinedClip(**{**clip, "pairs": [(chosen, rejected) for chosen, rejected in clip["pairs"]]})
            for clip in values["clips"]
        ]
        return cls(clips, values["errors"], values["words"], Counter(values["left_out"]))


@dataclass
class MiningSummary:
    """Sums over clips.

    Attributes:
        clips: that texts were made for.
        pairs: made of them.
        hypotheses: all of them, equal ones as often as they were found.
        wer_sum, margin_sum: over hypotheses, over pairs.
        errors, words: of clips decoded as the generation config says; 0 words where none was.
        left_out: rows that were not mined, by the reason.
        untold: hypotheses of clips without a transcript, which have no error rate.
        labels: clips that got a pseudo-label.
    """

    clips: int = 0
    pairs: int = 0
    hypotheses: int = 0
    wer_sum: float = 0.0
    margin_sum: float = 0.0
    errors: int = 0
    words: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    untold: int = 0
    labels: int = 0

    def add(self, batch: MinedBatch) -> None:
        self.errors += batch.errors
        self.words += batch.words
        self.left_out.update(batch.left_out)
        for clip in batch.clips:
            self.clips += 1
            self.pairs += len(clip.pairs)
            self.hypotheses += sum(clip.copies)
            self.labels += clip.label is not None
            for rate, copies in zip(clip.wers, clip.copies, strict=True):
                if rate is None:
                    self.untold += copies
                else:
                    self.wer_sum += rate * copies
            self.margin_sum += sum(clip.margins())

    @property
    def mean_wer(self) -> float:
        """Mean error rate of the hypotheses, a fraction."""
        return self.wer_sum / max(self.hypotheses - self.untold, 1)

    @property
    def mean_margin(self) -> float:
        return self.margin_sum / max(self.pairs, 1)

    @property
    def wer(self) -> float | None:
        """Error rate of all clips decoded as the generation config says; None where it was not measured."""
        return self.errors / self.words if self.words else None

    def to_json(self) -> dict[str, Any]:
        shown = {"mean_wer": self.mean_wer, "mean_margin": self.mean_margin, "wer": self.wer}
        return {**asdict(self), "left_out": dict(sorted(self.left_out.items())), **shown}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MiningSummary:
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{**known, "left_out": Counter(values["left_out"])})

    def __str__(self) -> str:
        rate = None if self.untold == self.hypotheses > 0 else self.mean_wer
        lines = [pairs_in_words(self.pairs, self.clips, self.mean_margin), *rates_in_words(rate, self.wer)]
        if self.untold:
            lines.append(f"{self.labels:,} clips got a pseudo-label")
        lines += [f"left out: {count:,} {reason}" for reason, count in sorted(self.left_out.items())]
        return "\n".join(lines)


def pairs_in_words(pairs: int, clips: int, margin: float) -> str:
    """How many pairs were mined, and how far apart their texts are; with millions of them still below 80 columns."""
    return f"{pairs:,} pairs from {clips:,} clips ({pairs / max(clips, 1):.2f} a clip), mean margin {margin:.3f}"


def rates_in_words(hypotheses: float | None, decoded: float | None) -> list[str]:
    """A line for each error rate that is known: the mean of the hypotheses, and of all clips decoded."""
    lines = [] if hypotheses is None else [f"WER of the hypotheses: {hypotheses:.1%}"]
    return (
        lines
        if decoded is None
        else [*lines, f"WER before tuning, decoded as the generation config says: {decoded:.2%}"]
    )


def check_columns(names: Iterable[str], where: str) -> None:
    """Refuse columns that mining writes.

    Raises:
        ValueError: such columns.
    """
    clash = sorted({*PAIR_COLUMNS, *HYPOTHESIS_COLUMNS} & set(names))
    if clash:
        raise ValueError(
            f"{where}: the columns {clash} would be overwritten by what is mined. Rename or remove them; rows that "
            "have chosen and rejected are pairs already."
        )


def own_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without its number and place."""
    return {name: value for name, value in row.items() if name not in OURS}


def json_text(value: Any, where: str) -> str:
    """One line of JSON.

    Raises:
        ValueError: something in it cannot be written as JSON; the message names the column.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # half of a surrogate pair has no form in UTF-8
        return text
    except (TypeError, ValueError, RecursionError) as error:
        bad = [name for name, part in value.items() if not _is_json(part)] if isinstance(value, dict) else []
        raise ValueError(
            f"{where}: the column{'s' * (len(bad) > 1)} {bad} cannot be written as JSON ({error}). Remove them with "
            "remove_columns, or turn them into numbers, texts or lists."
        ) from error


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def as_dataset(json_lines: str | os.PathLike[str]) -> Dataset:
    """`pairs.jsonl` or `hypotheses.jsonl` as a `Dataset` with an Audio column, for `push_to_hub` for example.

    Raises:
        ValueError: the file has no rows.
    """
    rows = speech_rows(json_lines)
    rows = rows.remove_columns([name for name in OURS if name in rows.column_names])
    return rows.cast_column("audio", Audio())


def save_dataset(json_lines: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Dataset:
    """Write a folder that `speech_rows` and `datasets.load_from_disk` read; an older one is replaced when it is whole.

    Raises:
        OSError: it cannot be written; nothing is left of it then.
    """
    rows = as_dataset(json_lines)
    staged = f"{os.fspath(folder)}.tmp"
    shutil.rmtree(staged, ignore_errors=True)
    try:
        rows.save_to_disk(staged)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise OSError(
            f"{os.fspath(folder)} could not be written ({error}). {os.fspath(json_lines)} is whole: make room and "
            "start the same command again."
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staged, folder)
    return rows
