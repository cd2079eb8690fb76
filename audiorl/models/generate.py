"""Sampling and n-best lists through transformers' `generate`, for families without a step decoder of their own.

`generate` takes one row for each hypothesis and projects the cross-attention of each, so this is slower than an
`AutoregressiveFamily`. The samples follow the same rules. The random generator of `generate` is not used: a logits
processor draws from the noise of the rollout and leaves `generate` one token to choose.
"""

from __future__ import annotations

import contextlib
import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from audiorl.batch import GroupBatch, GroupSamples
from audiorl.models.beam_search import BeamSettings, GroupBeams
from audiorl.models.family import SpeechFamily
from audiorl.models.forward import is_sharded
from audiorl.models.sampling import Sampler, draw, prefix_lengths, started

# What draws tokens by chance.
DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


class GenerateFamily(SpeechFamily):
    """A family that samples by `GenerationMixin.generate`."""

    @abstractmethod
    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        """Tokens that the decoder can read, prefix included."""

    @abstractmethod
    def _generation_inputs(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> dict[str, Any]:
        """Keywords of `generate` beside the prefix: one row for each clip of `batch`, in which clips are repeated."""

    def _sample(
        self,
        base: PreTrainedModel,
        batch: GroupBatch,
        states: Tensor,
        noise: Tensor,
        temperature: float,
        sampler: Sampler | None,
    ) -> GroupSamples:
        _, hypotheses, limit = noise.shape
        found = _Found(batch, hypotheses, limit, self._positions(base, states), self.end_token)
        for prefix, clips in found.equal_prefixes():
            draws = NoiseDraws(noise[clips].flatten(0, 1), temperature, sampler)
            settings = {"max_new_tokens": min(limit, found.length - prefix), "num_beams": 1}
            rows = clips.repeat_interleave(hypotheses)
            self._generate(base, batch, states, rows, prefix, settings, draws)
            found.place(clips, prefix, torch.stack(draws.tokens, -1), torch.stack(draws.logps, -1))
        tokens, keep, finished = found.cut()
        return GroupSamples(tokens, keep, found.logps[..., : keep.shape[-1]], finished)

    def _beam(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, settings: BeamSettings) -> GroupBeams:
        """Plain beam search; one beam is greedy search."""
        if settings.num_beam_groups > 1:
            raise ValueError(
                f"{type(self).__name__} searches through transformers' generate, which has no diverse beams. Leave out "
                "num_beam_groups and diversity_penalty, or use sample_groups."
            )
        beams = settings.num_beams
        found = _Found(batch, beams, settings.max_tokens, self._positions(base, states), self.end_token)
        for prefix, clips in found.equal_prefixes():
            asked = {
                "max_new_tokens": min(settings.max_tokens, found.length - prefix),
                "num_beams": beams,
                "num_return_sequences": beams,
                "length_penalty": settings.length_penalty,
                "early_stopping": settings.early_stopping,
            }
            softer = PolicyAtTemperature(settings.temperature)
            ids = self._generate(base, batch, states, clips, prefix, asked, softer)[:, prefix:]
            found.place(clips, prefix, ids, torch.zeros(ids.shape, device=ids.device))
        tokens, keep, finished = found.cut()
        written = batch.replace(tokens=tokens, keep=keep)
        logps = self._score(base, written, states, settings.temperature).logps
        scores = logps.sum(-1) / keep.sum(-1).clamp(min=1) ** settings.length_penalty
        return GroupBeams(tokens, keep, logps, scores, finished)

    def _generate(
        self,
        base: PreTrainedModel,
        batch: GroupBatch,
        states: Tensor,
        rows: Tensor,
        prefix: int,
        settings: dict[str, Any],
        processor: LogitsProcessor,
    ) -> Tensor:
        """`generate` for the clips `rows` (N,), some of them several times, from their first `prefix` tokens."""
        if is_sharded(base):
            raise ValueError(
                f"{type(self).__name__} samples by generate(), which calls the model more often in some processes "
                "than in others; every call of sharded weights needs all processes. Use DDP."
            )
        repeated = GroupBatch({key: value[rows] for key, value in batch.tensors.items()})
        ids = batch.tokens[rows, 0, :prefix]
        name = "decoder_input_ids" if base.config.is_encoder_decoder else "input_ids"
        config = GenerationConfig(
            do_sample=False,
            eos_token_id=self.end_token,
            pad_token_id=self.end_token,
            # generate puts this token in front of prefixes that begin with another one
            decoder_start_token_id=int(ids[0, 0]),
            **settings,
        )
        with _own_generation_config_aside(base):
            return GenerationMixin.generate(
                base,
                **self._generation_inputs(base, repeated, states[rows]),
                **{name: ids},
                generation_config=config,
                logits_processor=LogitsProcessorList([processor]),
            )


class NoiseDraws(LogitsProcessor):
    """Draws each row's next token from its own noise, and lets no other be chosen.

    Args:
        noise: (N, T) uniform in [0, 1).

    Attributes:
        tokens, logps: for each call (N,) the tokens drawn and their log-probabilities, untruncated.
    """

    def __init__(self, noise: Tensor, temperature: float, sampler: Sampler | None):
        self.noise, self.temperature, self.sampler = noise, temperature, sampler
        self.tokens: list[Tensor] = []
        self.logps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits = scores / self.temperature
        uniform = self.noise[:, len(self.tokens)]
        shaped = logits
        if self.sampler is not None:
            before = torch.stack(self.tokens, -1) if self.tokens else input_ids[:, :0]
            shaped = self.sampler(before, logits)
        token, logps = (x.squeeze(0) for x in draw(shaped[None], uniform[None]))
        if self.sampler is not None:
            logps = logits.log_softmax(-1).gather(-1, token[:, None]).squeeze(-1)
        self.tokens.append(token)
        self.logps.append(logps)
        return torch.full_like(scores, -torch.inf).scatter(-1, token[:, None], 0.0)


class PolicyAtTemperature(LogitsProcessor):
    """Log-probabilities at a temperature, from those at 1 that beam search hands to its processors."""

    def __init__(self, temperature: float):
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return (scores / self.temperature).log_softmax(-1)


class _Found:
    """Collects hypotheses from several calls of `generate`, each for the clips of one prefix length."""

    def __init__(self, batch: GroupBatch, hypotheses: int, limit: int, positions: int, end_token: int):
        self.valid, self.end_token = batch.valid, end_token
        self.prefixes = prefix_lengths(batch)
        # the token that would fill the last position is predicted, never read
        self.length = min(int(self.prefixes.max()) + limit, positions + 1)
        self.tokens = started(batch, self.prefixes, hypotheses, self.length, end_token)
        self.logps = torch.zeros(self.tokens[..., 1:].shape, device=self.tokens.device)
        self.keep = torch.zeros_like(self.logps, dtype=torch.bool)
        self.finished = ~batch.valid[:, None].repeat(1, hypotheses)

    def equal_prefixes(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (prefix length, the clips that have it), without placeholders."""
        for prefix in self.prefixes[self.valid].unique().tolist():
            yield prefix, ((self.prefixes == prefix) & self.valid).nonzero().squeeze(-1)

    def place(self, clips: Tensor, prefix: int, tokens: Tensor, logps: Tensor) -> None:
        """(n*K, T) tokens and their log-probabilities; those after the first end do not count."""
        shape = (len(clips), self.tokens.shape[1], -1)
        tokens, logps = tokens.view(shape), logps.view(shape)
        ends = tokens == self.end_token
        counts = ends.cumsum(-1) - ends.long() == 0
        stop = prefix + tokens.shape[-1]
        self.tokens[clips, :, prefix:stop] = torch.where(counts, tokens, self.end_token)
        self.logps[clips, :, prefix - 1 : stop - 1] = torch.where(counts, logps, 0.0)
        self.keep[clips, :, prefix - 1 : stop - 1] = counts
        self.finished[clips] = ends.any(-1)

    def cut(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, keep and finished, as long as the longest hypothesis."""
        used = self.keep.any(1).any(0).nonzero()
        stop = max(int(used.max()) + 1 if len(used) else 0, int(self.prefixes.min()))
        return self.tokens[..., : stop + 1], self.keep[..., :stop], self.finished


@contextlib.contextmanager
def _own_generation_config_aside(base: PreTrainedModel) -> Iterator[None]:
    """Put the checkpoint's generation config aside for a while.

    It may suppress or force tokens. `generate` would read such settings from it, and what is sampled would not be what
    is scored.
    """
    own = base.generation_config
    base.generation_config = GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = own


@contextlib.contextmanager
def one_transcript_each(
    base: PreTrainedModel, generation: Mapping[str, Any], *, room: int | None, **ids: int
) -> Iterator[dict[str, Any]]:
    """Let `generate` search as the checkpoint's generation config says, but for one transcript of each clip.

    For a while the model's generation config is a copy that

    * has the caller's settings, so that none stands beside another that means the same;
    * asks for the best sequence alone, as plain ids, whatever the config asks for;
    * draws nothing, unless the caller asks for `do_sample`: what a model says of a clip is the same each time;
    * has the ids, and the length, that the config lacks: an old checkpoint, or one without generation_config.json,
      would not end, or be cut after 20 tokens.

    Another config handed to `generate` would not do: what it leaves out is taken from the model's own.

    Args:
        generation: settings of a `GenerationConfig`; anything else is handed back.
        room: how many tokens may be written where nobody says; None leaves that to the caller.
        ids: of tokens, by their names in a generation config; the family's.

    Yields:
        What of `generation` is for `generate` itself, such as `logits_processor`.
    """
    own = base.generation_config
    settings = GenerationConfig() if own is None else copy.deepcopy(own)
    others = {name: value for name, value in generation.items() if not hasattr(settings, name)}
    settings.update(**{name: value for name, value in generation.items() if name not in others})
    for name in ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions"):
        setattr(settings, name, False)
    settings.output_hidden_states = False
    settings.num_return_sequences = 1
    if not generation.get("do_sample"):
        settings.do_sample = False
        for name in DRAWING:
            setattr(settings, name, None)
    for name, value in ids.items():
        if getattr(settings, name, None) is None:
            setattr(settings, name, value)
    if settings.pad_token_id is None:
        settings.pad_token_id = ids.get("eos_token_id")
    if generation.get("max_new_tokens") is not None:
        settings.max_length = None  # which is the config's, and gives way
    elif generation.get("max_length") is not None:
        settings.max_new_tokens = None
    if settings.max_length is None and settings.max_new_tokens is None:
        settings.max_new_tokens = room
    base.generation_config = settings
    try:
        yield others
    finally:
        base.generation_config = own
