"""Preference pairs from plain transcribed audio: the transcript, or a good hypothesis, against a bad one.

`mine_pairs` keeps the pairs in memory; `mine_into` writes them to a folder as they come, which can go on after a kill
and be shared by several processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from datasets import Dataset
from torch import nn

from audiorl.datasets import BadRowsError, SkippedRows, check_rows, speech_rows
from audiorl.datasets.checks import UNLIMITED
from audiorl.datasets.formats import ColumnNames
from audiorl.evaluation.transcription import evaluation_mode
from audiorl.models import SpeechFamily, speech_family
from audiorl.notebook import SHOWN_ROWS, html_table
from audiorl.pairs.folder import MiningFolder, NumberedBatches
from audiorl.pairs.miner import Miner
from audiorl.pairs.records import MinedBatch, MiningSummary, pairs_in_words, rates_in_words
from audiorl.pairs.settings import MiningConfig
from audiorl.terminal import progress_bar


@dataclass(repr=False)
class MinedPairs:
    """What `mine_pairs` found.

    Attributes:
        rows: the columns they came with, and for `chosen` and `rejected` the text, `..._reward`, `..._wer` and
            `..._origin`.
        clips: how many clips texts were made for.
        mean_wer: mean error rate of all hypotheses, a fraction.
        wer: error rate as the generation config decodes, where `measure_wer` or hard cases asked for it.
        untold: whether there were no transcripts, and so there is no error rate.
        labels: with `pseudo_labels` the rows whose best hypothesis earned enough, as `text`.
        hypotheses: for each clip the row with all its `hypotheses` and their `rewards`.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    clips: int = 0
    mean_wer: float = 0.0
    wer: float | None = None
    hypotheses: list[dict[str, Any]] = field(default_factory=list, repr=False)
    labels: list[dict[str, Any]] = field(default_factory=list, repr=False)
    untold: bool = False

    @property
    def mean_margin(self) -> float:
        """Mean reward of chosen less that of rejected; 0 without pairs."""
        margins = [row["chosen_reward"] - row["rejected_reward"] for row in self.rows]
        return sum(margins) / max(len(margins), 1)

    def __repr__(self) -> str:
        return f"MinedPairs({len(self.rows)} pairs, clips={self.clips}, mean_margin={self.mean_margin:.3f})"

    def _repr_html_(self) -> str:
        columns = ("chosen", "chosen_reward", "rejected", "rejected_reward")
        rows = [[row.get(name) for name in columns] for row in self.rows[:SHOWN_ROWS]]
        return html_table(columns, rows, f"{'; '.join(self._told())}. The first {len(rows)}:")

    def __str__(self) -> str:
        return "\n".join(self._told())

    def _told(self) -> list[str]:
        rates = [] if self.untold else rates_in_words(self.mean_wer, self.wer)
        labels = [f"{len(self.labels):,} clips got a pseudo-label"] if self.untold else []
        return [pairs_in_words(len(self.rows), self.clips, self.mean_margin), *rates, *labels]


def mine_pairs(
    model: nn.Module | None,
    processor: Any,
    rows: Any,
    *,
    config: MiningConfig | None = None,
    progress: bool = True,
    family: SpeechFamily | None = None,
    skipped: SkippedRows | None = None,
    columns: ColumnNames | None = None,
    **settings: Any,
) -> MinedPairs:
    """Pair texts for each clip: by default its transcript with the worst of K hypotheses sampled from the model.

    Args:
        model: the model that is going to be tuned, so that the errors are its own; None for synthetic negatives.
        processor: its processor.
        rows: whatever `speech_rows` takes, with `audio` and `text`.
        config: how; None is `MiningConfig(**settings)`.
        progress: show a progress bar, in the first process.
        family: the model's family; None asks `speech_family`.
        skipped: file for rows that cannot be used, which are then left out; None refuses them. Faults that show only
            when a clip is decoded, and those of a stream, are refused when the row is read.
        columns: see `speech_rows`.
        settings: fields of `MiningConfig`, in place of `config`: num_generations=8, temperature=1.0, strategy=...

    Returns:
        Pairs in the order of the rows; the same seed gives the same ones, whatever the batch size, up to rounding.

    Raises:
        BadRowsError: rows without usable audio or text, all of them, before anything is sampled.
        ValueError: a setting that there is not or out of its range, both config and settings, or columns that mining
            writes.
    """
    config = _config(config, settings)
    mined, summary = MinedPairs(), MiningSummary()
    rows = speech_rows(rows, columns=columns, keep_unread=skipped is not None)
    for batch in _batches(model, processor, rows, config, progress, family, skipped, None):
        summary.add(batch)
        mined.rows += [row for clip in batch.clips for row in clip.pair_rows()]
        mined.labels += [row for clip in batch.clips for row in clip.label_rows()]
        mined.hypotheses += [clip.hypothesis_row() for clip in batch.clips]
    mined.untold = config.pseudo_labels
    mined.clips, mined.mean_wer, mined.wer = summary.clips, summary.mean_wer, summary.wer
    return mined


def mine_into(
    folder: MiningFolder,
    model: nn.Module | None,
    processor: Any,
    rows: Any,
    *,
    config: MiningConfig | None = None,
    progress: bool = True,
    family: SpeechFamily | None = None,
    skipped: SkippedRows | None = None,
    columns: ColumnNames | None = None,
    **settings: Any,
) -> MiningSummary | None:
    """Mine this process's share of the batches that the folder does not have yet; the last process merges them.

    Memory does not grow with the rows but for the number of each batch, and what the source itself holds.

    Args:
        folder: open (`with MiningFolder(...) as folder`).
        model, processor, rows, config, progress, family, skipped, columns, settings: see `mine_pairs`. A stream is read
            as a whole by every process, which passes over the others' batches.

    Returns:
        The sums over all rows; None in the processes that end before others of the run do.

    Raises:
        OSError: the disk is full; what was mined before is kept.
    """
    if folder.summary is not None:
        return folder.summary
    config = _config(config, settings)
    source = NumberedBatches(speech_rows(rows, columns=columns, keep_unread=skipped is not None), config)
    for _ in _batches(model, processor, source, config, progress, family, skipped, folder):
        pass
    return folder.finish(source.count or 0, source.left_out)


def _config(config: MiningConfig | None, settings: dict[str, Any]) -> MiningConfig:
    if config is not None and settings:
        raise ValueError(f"Both config and its fields {sorted(settings)} were given. Pass one of the two.")
    known = [each.name for each in fields(MiningConfig)]
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(known)}."
            raise ValueError(f"Mining has no setting {name!r}. {meant} Change its name, or leave it out.")
    return config or MiningConfig(**settings)


def _batches(
    model: nn.Module | None,
    processor: Any,
    rows: Any,
    config: MiningConfig,
    progress: bool,
    family: SpeechFamily | None,
    skipped: SkippedRows | None,
    folder: MiningFolder | None,
) -> Iterator[MinedBatch]:
    """This process's batches, mined and, where there is a folder, written."""
    if model is not None and config.source != "synthetic":
        family = family or speech_family(model, processor)
        family.set_defaults(language=config.language)
    miner = Miner(model, family, config, skipped)
    source = rows if isinstance(rows, NumberedBatches) else NumberedBatches(rows, config)
    share = (0, 1, frozenset[int]()) if folder is None else (folder.rank, folder.world, folder.done)
    if skipped is None and isinstance(source.rows, Dataset):
        _refuse_bad_rows(source.own_rows(*share), miner.family, config, progress)
    if miner.model is not None and miner.family is not None and miner.family.encoder_cache is not None:
        own = source.own_rows(*share) if isinstance(source.rows, Dataset) else source.rows
        miner.family.encoder_cache.fill(
            miner.model, miner.family, own, miner.decode, processes=share[1], progress=progress
        )
    with _bar(source, share, progress) as bar, _evaluated(miner.model):
        for number, some in source.take(*share):
            if folder is not None:
                folder.check(some)
            batch = miner(some)
            if folder is not None:
                folder.append(number, batch)
            bar.update(len(some))
            yield batch
    if not source.count:
        raise ValueError(
            f"No row came out of the source{f': {dict(source.left_out)} were left out' if source.left_out else ''}. "
            "Check the split and the filters."
        )


def _refuse_bad_rows(rows: Dataset, family: SpeechFamily | None, config: MiningConfig, progress: bool) -> None:
    """All faults at once, before anything is sampled."""
    limits = UNLIMITED if family is None else family.limits._asdict()
    texts = () if config.pseudo_labels else ("text",)
    faults = check_rows(
        rows, **limits, text_columns=texts, distinct=False, silence=config.allow_silence, progress=progress
    )
    if faults:
        raise BadRowsError(faults)


def _bar(source: NumberedBatches, share: tuple[int, int, Any], progress: bool) -> Any:
    """Clips and clips per second of this process; what earlier runs did counts as done."""
    rank, world, _ = share
    total, initial = None, 0
    if isinstance(source.rows, Dataset):
        total = source.own_clips(rank, world, ())
        initial = total - source.own_clips(*share)
    return progress_bar(
        desc="Mining pairs",
        unit="clip",
        total=total,
        initial=initial,
        progress=progress and int(os.environ.get("RANK", "0")) == 0,
    )


@contextmanager
def _evaluated(model: nn.Module | None) -> Iterator[None]:
    if model is None:
        yield
        return
    with evaluation_mode(model):
        yield
