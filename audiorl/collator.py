"""From rows to a `GroupBatch`. Each clip is decoded, and its features computed, once, in the loader's workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from audiorl.audio import AudioFault, load_row_audio
from audiorl.augment import Augmentation
from audiorl.batch import PLACEHOLDER_ROW_ID, GroupBatch, pad_tokens
from audiorl.datasets import BadRowsError, RowFault, RowJudge, SkippedRows
from audiorl.datasets.checks import Problem, faults_of, lost_audio, too_short
from audiorl.datasets.storage import unread_problem
from audiorl.models import SpeechFamily, TokenizedText
from audiorl.models.encoder_cache import KeptStates
from audiorl.text.history import drawn_history
from audiorl.text.keywords import HOTWORDS_COLUMN, changed_hotwords, read_hotwords

# Where a row says what is said in its clip.
_SAID = ("text", "chosen", "completion")


class UsableRow(NamedTuple):
    """A row with all that a batch needs of it."""

    row: Mapping[str, Any]
    clip: np.ndarray | KeptStates  # (samples,) float32 at the family's rate, augmented; or what an encoder said of it
    texts: list[TokenizedText]  # of each text column


class _UnusableError(Exception):
    """A row that cannot be used."""

    def __init__(self, problems: list[Problem]):
        super().__init__(problems)
        self.problems = problems


class RowChanges:
    """What training rows say beside clip and text, changed anew in each epoch.

    Args:
        seed: the changes of a row are drawn from (seed, epoch, row).
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # workers that run already hear of it too

    def set_epoch(self, epoch: int) -> None:
        """Say which pass over the rows begins, >= 0."""
        self._epoch.fill_(epoch)

    def draws(self, row: Mapping[str, Any], *kind: int) -> np.random.Generator:
        """The numbers for a row in this epoch; those of different kinds have nothing to do with each other."""
        return np.random.default_rng([self.seed, int(self._epoch), row["row_id"], *kind])


class HistoryChanges(RowChanges):
    """Histories of training rows, left out or read from hypotheses; see `drawn_history`.

    Args:
        dropout, hypotheses: 0 to 1.
    """

    def __init__(self, dropout: float, hypotheses: float, seed: int):
        super().__init__(seed)
        self.dropout = dropout
        self.hypotheses = hypotheses

    def __call__(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with the history that it has in this epoch."""
        return drawn_history(row, dropout=self.dropout, hypotheses=self.hypotheses, rng=self.draws(row, 1))


class HotwordChanges(RowChanges):
    """Hot words of training rows, left out and mixed with those of other rows.

    Args:
        dropout, distractors: see `changed_hotwords`.

    Attributes:
        pool: hot words of all rows.
    """

    def __init__(self, dropout: float, distractors: int, seed: int):
        super().__init__(seed)
        self.dropout = dropout
        self.distractors = distractors
        self.pool: list[str] = []

    def __call__(self, row: Mapping[str, Any], distractors: int | None = None) -> Mapping[str, Any]:
        """The row with other hot words.

        Args:
            distractors: how many are added at most; None for all.
        """
        words = changed_hotwords(
            read_hotwords(row.get(HOTWORDS_COLUMN)),
            self.pool,
            next((row[name] for name in _SAID if isinstance(row.get(name), str)), None),
            dropout=self.dropout,
            distractors=self.distractors if distractors is None else distractors,
            rng=self.draws(row),
        )
        return {**row, HOTWORDS_COLUMN: words}


def samples_of(clip: np.ndarray | KeptStates) -> int:
    """How long a clip is at the model's rate."""
    return clip.samples if isinstance(clip, KeptStates) else len(clip)


class SpeechCollator:
    """Rows -> `GroupBatch`, with one hypothesis for each text column.

    A row that turns out unusable only now (it came from a stream, or its audio breaks on decoding) is judged by the
    same policy as in the check before training: it stops the run, or it is left out and written to
    `skipped_rows.jsonl`. A batch of which nothing is left holds one placeholder that no loss counts.

    Where the family has an `encoder_cache`, clips are not decoded: their states are read from it.

    Args:
        family: the model's family; holds no weights, so it travels to worker processes.
        text_columns: the columns that become hypotheses 0 ... K-1, e.g. ("chosen", "rejected").
        distinct: whether a row's texts have to differ.
        skipped: where unusable rows are written; None stops at the first batch that has one.
        silence: whether a text may be empty: nothing is said in its clip.
        tensor_columns: numeric columns that travel along, one row for each clip.
        flag_columns: columns of true or false, which travel along as (B,) bool.
        augmentation: makes training clips harder, each before its features, so all hypotheses hear the same clip.

    Raises:
        BadRowsError: an unusable row where `skipped` is None.
        ValueError: masks that do not fit what the model hears.
    """

    max_tokens: int | None = None  # of a text, behind its prefix
    text_optional = False  # whether rows may lack their texts
    history: HistoryChanges | None = None  # of training rows
    hotwords: HotwordChanges | None = None  # of training rows

    def __init__(
        self,
        family: SpeechFamily,
        text_columns: Sequence[str] = ("chosen", "rejected"),
        *,
        distinct: bool = False,
        skipped: SkippedRows | None = None,
        silence: bool = False,
        tensor_columns: Sequence[str] = (),
        flag_columns: Sequence[str] = (),
        augmentation: Augmentation | None = None,
    ):
        self.family = family
        self.text_columns = tuple(text_columns)
        self.distinct = distinct
        self.skipped = skipped
        self.silence = silence
        self.tensor_columns = tuple(tensor_columns)
        self.flag_columns = tuple(flag_columns)
        self.augment_with(augmentation)

    @property
    def judge(self) -> RowJudge:
        """The rules for rows."""
        return RowJudge.of(
            self.family.limits,
            text_columns=self.text_columns,
            distinct=self.distinct,
            silence=self.silence,
            flag_columns=self.flag_columns,
            max_tokens=self.max_tokens,
            growth=None if self.augmentation is None else self.augmentation.growth,
            text_optional=self.text_optional,
        )

    def augment_with(self, augmentation: Augmentation | None) -> None:
        """Augment every clip from now on, or none."""
        if augmentation is not None:
            augmentation.require_fit(self.family.mel_bins)
        self.augmentation = augmentation

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> GroupBatch:
        usable: list[UsableRow] = []
        faults: list[RowFault] = []
        judge, cached = self.judge, self.family.encoder_cache is not None
        for row in rows:
            if not row:  # a place that a stream fills up, see `FilledStream`
                continue
            try:
                usable.append(self._usable(self._in_context(row, judge), judge, cached=cached))
            except _UnusableError as error:
                faults += faults_of(row, error.problems)
        if faults:
            if self.skipped is None:
                raise BadRowsError(faults)
            self.skipped.add(*faults)
        return self._batch(usable) if usable else self._placeholder()

    def decode(self, row: Mapping[str, Any]) -> np.ndarray | None:
        """A row's clip as the encoder is to hear it, if the row can be used; if not, the row's batch says why."""
        try:
            clip = self._usable(row, self.judge, cached=False).clip
        except _UnusableError:
            return None
        assert isinstance(clip, np.ndarray)
        return clip

    def _in_context(self, row: Mapping[str, Any], judge: RowJudge) -> Mapping[str, Any]:
        """The row with history and hot words of this epoch, and as many distractors as its prompt has room for."""
        if (self.history is None and self.hotwords is None) or judge.read(row).problems:
            return row
        if self.history is not None:
            row = self.history(row)
        if self.hotwords is None:
            return row
        for distractors in range(self.hotwords.distractors, 0, -1):
            changed = self.hotwords(row, distractors)
            if not judge.read(changed).problems:
                return changed
        return self.hotwords(row, 0)

    def _usable(self, row: Mapping[str, Any], judge: RowJudge, *, cached: bool) -> UsableRow:
        """Judge a row, tokenize its texts and decode its clip; its file is opened once.

        Args:
            cached: whether the clip's states are read instead.

        Raises:
            _UnusableError: with all that is wrong.
            ValueError: the states of a usable row are not there.
        """
        read = judge.read(row)
        problems = judge.missing(row) + read.problems
        lost = lost_audio(row)
        if lost or "audio" not in row or unread_problem(row):
            raise _UnusableError(problems + lost)

        def refuse(seconds: float) -> None:
            """All that the header shows is said before the clip is decoded."""
            if found := problems + judge.heard(row, seconds):
                raise _UnusableError(found)

        clip: np.ndarray | KeptStates | None = self._kept(row) if cached else None
        try:
            if clip is None:
                clip = load_row_audio(row, self.family.sampling_rate, check=refuse)
        except AudioFault as fault:
            raise _UnusableError(problems + judge.unheard(row, fault)) from fault
        try:
            if isinstance(clip, KeptStates):
                refuse(clip.samples / self.family.sampling_rate)
                self._check_samples(row, clip.samples)
            else:
                clip = self._augmented(row, clip)
        except AudioFault as fault:
            raise _UnusableError([(fault.problem, fault.remedy)]) from fault
        if cached and not isinstance(clip, KeptStates):
            assert self.family.encoder_cache is not None
            raise self.family.encoder_cache.missing(row)
        return UsableRow(row, clip, [read.tokens[name] for name in self.text_columns])

    def _kept(self, row: Mapping[str, Any]) -> KeptStates | None:
        assert self.family.encoder_cache is not None
        return self.family.encoder_cache.find(row)

    def _augmented(self, row: Mapping[str, Any], clip: np.ndarray) -> np.ndarray:
        """The row's decoded clip, augmented; raises AudioFault if the model cannot take it."""
        limit, rate = self.family.max_seconds, self.family.sampling_rate
        seconds = len(clip) / rate
        if limit is not None and seconds > limit:  # a header may promise less than there is
            raise AudioFault(f"the clip decodes to {seconds:.2f} s, the model hears {limit:g} s", "Cut it.")
        if self.augmentation is not None:
            mask = self.family.mel_bins is None
            clip = self.augmentation.clip(clip, rate, row["row_id"], max_seconds=limit, mask=mask)
        self._check_samples(row, len(clip))
        return clip

    def _check_samples(self, row: Mapping[str, Any], samples: int) -> None:
        """Raise AudioFault if a clip of so many samples is too short for the model or for what it is to say."""
        rate = self.family.sampling_rate
        if samples < round(self.family.min_seconds * rate):
            least = f"{1000 * self.family.min_seconds:g} ms"
            raise AudioFault(f"the model gets {1000 * samples / rate:.1f} ms and needs {least}", "Remove the row.")
        for name in self.text_columns:  # a header may promise more than there is, and augmentation may speed a clip up
            if samples < round((needed := self.family.least_seconds(row.get(name) or "")) * rate):
                raise AudioFault(*too_short(name, samples / rate, needed))

    def _features(self, usable: list[UsableRow], row_ids: list[int]) -> dict[str, Tensor]:
        """The family's features, or the kept states; a mel spectrogram is masked as the augmentation says."""
        if kept := [found.clip for found in usable if isinstance(found.clip, KeptStates)]:
            assert self.family.encoder_cache is not None
            return self.family.encoder_cache.join(kept)
        clips = [found.clip for found in usable if isinstance(found.clip, np.ndarray)]
        features = self.family.features(clips)
        if self.augmentation is not None and self.family.mel_bins is not None:
            own = self.family.spectrograms(features, [len(clip) for clip in clips])
            for mel, clip, row_id in zip(own, clips, row_ids, strict=True):
                self.augmentation.mask_spectrogram(mel, len(clip) / self.family.sampling_rate, row_id)
        return features

    def _batch(self, usable: list[UsableRow]) -> GroupBatch:
        tokens, keep = pad_tokens(
            [[text.ids for text in found.texts] for found in usable],
            [[text.first_kept for text in found.texts] for found in usable],
            self.family.end_token,
        )
        extra = {name: torch.tensor([found.row[name] for found in usable]) for name in self.tensor_columns}
        extra |= {name: torch.tensor([bool(found.row[name]) for found in usable]) for name in self.flag_columns}
        row_ids = [found.row["row_id"] for found in usable]
        return GroupBatch(
            **self._features(usable, row_ids),
            tokens=tokens,
            keep=keep,
            row_ids=torch.tensor(row_ids),
            seconds=torch.tensor([samples_of(found.clip) / self.family.sampling_rate for found in usable]),
            **extra,
        )

    def _placeholder(self) -> GroupBatch:
        hypotheses = len(self.text_columns)
        silence = np.zeros(self.family.sampling_rate // 10, dtype=np.float32)
        extra: dict[str, Tensor] = {name: torch.zeros(1, hypotheses) for name in self.tensor_columns}
        extra |= {name: torch.zeros(1, dtype=torch.bool) for name in self.flag_columns}
        return GroupBatch(
            **self.family.features([silence]),
            tokens=torch.full((1, hypotheses, 2), self.family.end_token),
            keep=torch.zeros((1, hypotheses, 1), dtype=torch.bool),
            row_ids=torch.tensor([PLACEHOLDER_ROW_ID]),
            seconds=torch.zeros(1),
            **extra,
        )
