"""The one batch every trainer, family and loss shares: K hypotheses for each of B clips.

Axis letters, the same everywhere in the library:

    B  clips in a batch            S  encoder frames (Whisper: 1500)
    K  hypotheses for each clip    V  vocabulary
    T  decoder tokens              D  model width
    M  mel bins                    L  mel frames
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Encoder states of clips, kept from an earlier pass: the encoder hears nothing.
KEPT_STATES = "kept_states"
# How the audio of a clip reaches a model; a batch has exactly one of them.
AUDIO_KEYS = ("input_features", "input_values", KEPT_STATES)
# What may stand beside it, one row for each clip too.
AUDIO_COMPANIONS = ("audio_mask", "audio_tokens", "audio_samples")
# How long each clip is, for the log; no model reads it.
SECONDS = "seconds"
# A row id below zero marks a placeholder: its clip was dropped as a bad row, its `keep` is all False.
PLACEHOLDER_ROW_ID = -1


@dataclass(frozen=True)
class BatchRows:
    """The rows behind a batch, in the batch under the key `rows`.

    It is neither a tensor nor a list nor a mapping, so accelerate, `Trainer` and the data loader pass it on unchanged.

    Attributes:
        rows: B rows with all their columns; an empty one for a placeholder.
    """

    rows: Sequence[Mapping[str, Any]]

    def __repr__(self) -> str:
        return f"BatchRows({len(self.rows)})"


class GroupBatch(Mapping[str, Tensor | BatchRows]):
    """B clips with K hypotheses each, the audio held once per clip.

    It is a `Mapping`, because `Trainer`, accelerate and the data loader move, pin, split and rebuild mappings.

    Keys:
        input_features: (B, M, L) float mel features, or
        input_values: (B, N) float waveform at the model's rate, or
        kept_states: (B, S, D) what the encoder said of the clips before, zeros behind each clip's own (`EncoderCache`).
        audio_mask: optional (B, L) or (B, N), 1 where there is audio; for models that take an encoder mask.
        audio_tokens: optional (B,) long, how many embeddings a clip becomes; for audio language models.
        audio_samples: optional (B,) long, samples of a clip; for models that are told how long it is.
        tokens: (B, K, T + 1) long; prefix, transcript, end token, then padding. The decoder reads
            `tokens[..., :-1]` and predicts `tokens[..., 1:]`.
        keep: (B, K, T) bool, True where the predicted token counts: transcript and end token, never the prefix,
            a prompt or padding. Never derived from token ids: Whisper's padding and end token share one id.
        row_ids: (B,) long, the row of the data set; negative for a placeholder.
        seconds: optional (B,) float, how long each clip is as the model hears it, before padding.
        rows: optional `BatchRows`, the rows themselves; for rewards that read columns.
        Any other tensor that a method needs, one row for each clip, for example `ref_logps` (B, K).

    Raises:
        ValueError: the shapes of `tokens`, `keep`, `row_ids` and the audio do not belong together.
    """

    def __init__(self, data: Mapping[str, Tensor | BatchRows] | None = None, /, **values: Tensor | BatchRows):
        given = {**(data or {}), **values}
        self._rows = {key: value for key, value in given.items() if isinstance(value, BatchRows)}
        self._tensors = {key: value for key, value in given.items() if not isinstance(value, BatchRows)}
        self._check_shapes()

    def _check_shapes(self) -> None:
        audio = [key for key in AUDIO_KEYS if key in self._tensors]
        missing = [key for key in ("tokens", "keep", "row_ids") if key not in self._tensors]
        if len(audio) != 1 or missing:
            raise ValueError(
                f"GroupBatch needs one of {AUDIO_KEYS} and tokens, keep, row_ids; got {sorted(self._tensors)}. "
                "Build batches with SpeechCollator, or pass the missing tensors."
            )
        clips, hypotheses, length = self.tokens.shape
        if self.keep.shape != (clips, hypotheses, length - 1):
            raise ValueError(
                f"keep marks the predicted tokens, so its shape is (B, K, T) for tokens (B, K, T + 1); got keep "
                f"{tuple(self.keep.shape)} for tokens {tuple(self.tokens.shape)}. Leave out the first position."
            )
        if len(self.row_ids) != clips or len(self.audio) != clips:
            raise ValueError(
                f"audio comes once for each clip; got {len(self.audio)} clips of audio and {len(self.row_ids)} row "
                f"ids for {clips} groups of tokens. Do not repeat the audio for each hypothesis."
            )

    def __getitem__(self, key: str) -> Tensor | BatchRows:
        return self._rows[key] if key in self._rows else self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        yield from self._tensors
        yield from self._rows

    def __len__(self) -> int:
        return len(self._tensors) + len(self._rows)

    def __repr__(self) -> str:
        return f"GroupBatch({shapes_in_words(self.items())})"

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Everything but the rows."""
        return self._tensors

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """B rows with all their columns.

        Raises:
            KeyError: the collator put none into the batch; `RolloutCollator` does.
        """
        return self._rows["rows"].rows

    @property
    def audio_key(self) -> str:
        return next(key for key in AUDIO_KEYS if key in self._tensors)

    @property
    def audio(self) -> Tensor:
        """(B, M, L) features, (B, N) waveform or (B, S, D) kept states."""
        return self._tensors[self.audio_key]

    @property
    def audio_mask(self) -> Tensor | None:
        return self._tensors.get("audio_mask")

    @property
    def tokens(self) -> Tensor:
        """(B, K, T + 1)."""
        return self._tensors["tokens"]

    @property
    def keep(self) -> Tensor:
        """(B, K, T)."""
        return self._tensors["keep"]

    @property
    def row_ids(self) -> Tensor:
        """(B,)."""
        return self._tensors["row_ids"]

    @property
    def num_hypotheses(self) -> int:
        """K."""
        return self.tokens.shape[1]

    @property
    def leading(self) -> Tensor:
        """(B,) the first hypothesis of each clip that counts, 0 where none does.

        It has the clip's prefix. One that does not count may have been masked or filled up, and have none.
        """
        return self.keep.any(-1).int().argmax(1)

    @property
    def leading_tokens(self) -> Tensor:
        """(B, T + 1) tokens of the leading hypotheses."""
        return self.tokens[torch.arange(len(self.tokens), device=self.tokens.device), self.leading]

    @property
    def valid(self) -> Tensor:
        """(B,) bool, False for placeholders of dropped rows."""
        return self.row_ids >= 0

    def replace(self, **values: Tensor | BatchRows) -> GroupBatch:
        """The same batch with some values exchanged or added."""
        return GroupBatch({**self, **values})

    def hypothesis(self, k: int) -> GroupBatch:
        """The same clips with only their k-th hypothesis, without its padding to the longest."""
        tokens, keep = self.tokens[:, k : k + 1], self.keep[:, k : k + 1]
        kept = keep.any(0).any(0).nonzero()
        length = int(kept.max()) + 1 if len(kept) else keep.shape[-1]
        return self.replace(tokens=tokens[..., : length + 1], keep=keep[..., :length])

    def without(self, clips: Tensor) -> GroupBatch:
        """The same batch with some clips turned into placeholders: they keep their place, and nothing of them counts.

        Args:
            clips: (B,) bool, True for those to drop.
        """
        dropped = clips.to(self.row_ids.device)
        return self.replace(
            keep=self.keep & ~dropped[:, None, None],
            row_ids=self.row_ids.masked_fill(dropped, PLACEHOLDER_ROW_ID),
        )


def audio_alone(audio: Mapping[str, Tensor]) -> GroupBatch:
    """A batch of clips for code that reads the audio only; its hypotheses do not count."""
    clips = len(next(audio[key] for key in AUDIO_KEYS if key in audio))
    tokens = torch.zeros((clips, 1, 2), dtype=torch.long)
    return GroupBatch(audio, tokens=tokens, keep=tokens[..., 1:].bool(), row_ids=torch.arange(clips))


class GroupScores(NamedTuple):
    """What a model says of a `GroupBatch`; every field is (B, K, T) and zero where `keep` is False.

    A family that scores a hypothesis as a whole (CTC, a classifier) has T = 1 here.
    """

    logps: Tensor  # log-probability of each token in nats, under the policy's temperature
    entropy: Tensor  # entropy of the next-token distribution in nats; with gradient where the family offers one
    mean_logits: Tensor  # mean logit over the vocabulary, no gradient; for TRL's `logits/*` metrics
    is_top1: Tensor  # bool, whether the token is the most probable one
    keep: Tensor  # bool, which entries count; the batch's own `keep` unless T = 1
    states: Tensor  # what `encode` returned, to be shared with another model
    # mean log-probability over the vocabulary, with gradient; None from a family without distributions over tokens
    mean_logps: Tensor | None = None

    def __repr__(self) -> str:
        return f"GroupScores({shapes_in_words(self._asdict().items())})"

    def select_hypotheses(self, which: slice) -> GroupScores:
        """The scores of some of the K hypotheses; the states stay, since they belong to clips."""
        parts = {name: value for name, value in self._asdict().items() if name != "states" and value is not None}
        return self._replace(**{name: value[:, which] for name, value in parts.items()})


class GroupSamples(NamedTuple):
    """K sampled hypotheses for each clip."""

    tokens: Tensor  # (B, K, T + 1) long, prefix and end token included, padded on the right
    keep: Tensor  # (B, K, T) bool, the sampled tokens
    logps: Tensor  # (B, K, T) log-probability of each sampled token, zero where keep is False; (B, K, 1) of the whole
    # hypothesis from a family that scores it as one
    finished: Tensor  # (B, K) bool, False where the length limit cut the hypothesis
    engine_logps: Tensor | None = (
        None  # (B, K, T) as an engine beside the library saw them; None where it sampled itself
    )

    def __repr__(self) -> str:
        return f"GroupSamples({shapes_in_words((n, v) for n, v in self._asdict().items() if v is not None)})"


def shapes_in_words(values: Iterable[tuple[str, Any]]) -> str:
    """`tokens=(2, 3, 5), keep=(2, 3, 4)`: names with shapes, without the numbers."""
    return ", ".join(f"{name}={tuple(v.shape) if isinstance(v, Tensor) else v!r}" for name, v in values)


def kept_texts(tokens: Tensor, keep: Tensor, decode: Callable[[list[int]], str]) -> list[list[str]]:
    """`tokens` (B, K, T + 1) and `keep` (B, K, T) -> B lists of K texts, of the ids that count."""
    return [
        [decode(ids[counts].tolist()) for ids, counts in zip(group, kept, strict=True)]
        for group, kept in zip(tokens[..., 1:], keep, strict=True)
    ]


def pad_to(values: Tensor, size: int, fill: float = 0) -> Tensor:
    """`values` (..., n) made (..., size) by `fill` on the right; n <= size."""
    return nn.functional.pad(values, (0, size - values.shape[-1]), value=fill)


def pad_tokens(sequences: list[list[list[int]]], first_kept: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Pack B lists of K token lists into `tokens` (B, K, T + 1) and `keep` (B, K, T).

    Args:
        sequences: for each clip K token lists, prefix and end token included.
        first_kept: for each of them the position of the first token that counts (the length of its prefix).
        pad: the id written behind the end; `keep`, not this id, says what is padding.
    """
    clips, hypotheses = len(sequences), len(sequences[0])
    longest = max(len(ids) for group in sequences for ids in group)
    tokens = torch.full((clips, hypotheses, longest), pad, dtype=torch.long)
    keep = torch.zeros((clips, hypotheses, longest - 1), dtype=torch.bool)
    for b, group in enumerate(sequences):
        for k, ids in enumerate(group):
            tokens[b, k, : len(ids)] = torch.tensor(ids)
            keep[b, k, first_kept[b][k] - 1 : len(ids) - 1] = True
    return tokens, keep
