"""The seam between trainers and models: what a family of speech models has to answer.

Trainers never name a model class. They ask `speech_family(model, processor)` for a family and talk to that. What a
family does without weights (features, tokens, texts, rows) is `FamilyData`; `SpeechFamily` adds what touches weights.
`AutoregressiveFamily` is the base of those that write a hypothesis token by token.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from audiorl.batch import KEPT_STATES, GroupBatch, GroupSamples, GroupScores
from audiorl.models.beam_search import BeamDecoder, BeamSettings, GroupBeams, beam_search
from audiorl.models.family_data import FamilyData, TokenizedText
from audiorl.models.forward import Backbone, base_model, calls_in_step, evaluating, install_speech_call, run_inside
from audiorl.models.head import compare_rows
from audiorl.models.long_clips import transcript_of_chunks
from audiorl.models.sampling import Sampler, check_finite, prefix_lengths, sample_from
from audiorl.text.tasks import TRANSCRIPTION, Labels, Task

if TYPE_CHECKING:
    from audiorl.models.encoder_cache import EncoderCache

__all__ = ["AutoregressiveFamily", "SpeechFamily", "TokenizedText"]


class EnginePrompt(NamedTuple):
    """What an engine beside the library continues for one clip."""

    ids: list[int]  # tokens before the first that is drawn
    states: Tensor  # (S, D) of the encoder; or (L, D), the embedded prompt with the audio in its place


class ServedPart(NamedTuple):
    """The part of a model that an engine runs, and how a checkpoint of it is written."""

    config: PretrainedConfig
    architecture: str  # the class that the engine knows
    prefixes: Mapping[str, str]  # what weights are called here and there, by the beginnings of their names
    positions: int  # tokens of a prompt and its answer
    reads_embeddings: bool  # whether prompts come embedded, or as tokens beside an encoder's states

    def served_name(self, name: str) -> str | None:
        """A weight's name in the checkpoint; None for one of another part."""
        found = (there + name.removeprefix(here) for here, there in self.prefixes.items() if name.startswith(here))
        return next(found, None)


class SpeechFamily(FamilyData):
    """What trainers, collators and rollouts ask of a model.

    `model` arguments may be wrapped (DDP, FSDP, PEFT): whatever touches weights runs inside the wrapped model's one
    `forward` (see `run_inside`), so that the wrappers' hooks fire.

    Attributes:
        sampling_rate, max_seconds, min_seconds, mel_bins, end_token: see `FamilyData`.
        token_level: whether hypotheses are drawn and scored token by token; where not (CTC), T = 1 in `GroupScores`,
            samplers do not apply and no number of tokens limits a sample.
        has_distributions: whether the tokens that are scored come from distributions over the vocabulary, so that
            labels can be smoothed and two models' distributions compared; default `token_level`.
        unadaptable: last parts of the names of linear layers whose weight the model reads without calling them, here
            or elsewhere: what an adapter adds to them would be missed.
        engines: the ways to run a step of sampling, the default first; `set_engine` chooses one.
        backbone: runs the model's encoder and decoder when hypotheses are scored.
        adapter_targets: the layers of an adapter that names none; see `audiorl.adapters`.
        unquantised: modules that keep full precision on an 8-bit or 4-bit base, the head included, as in
            `llm_int8_skip_modules` of `BitsAndBytesConfig`; used if that is not set. Empty means the head alone.
        decodes_with_prompts: whether `transcribe` takes `prompts`, a question or context for each clip.
        decodes_states: whether `transcribe` asks `_states` for what it reads of the clips, so that it also takes kept
            states; else no `EncoderCache` can be used.
        compiles_backbone: whether `_encode` and `_score` go through `backbone`.
        labels: all answers of a model that gives one of a few labels; None for a model that writes transcripts.
        serves: names of model classes or model types that a family of your own answers for, where it is named by
            `--family`; see `audiorl.models.use_family`.
        task: how answers are measured: error rates of transcripts, or the accuracy of labels.
        rollout_engines: who can sample for trainers, of `audiorl.models.engines.ROLLOUT_ENGINES`.
        encoder_cache: keeps the encoder's states of clips on disk, an `EncoderCache`; None encodes them anew.
    """

    token_level: bool = True
    unadaptable: Sequence[str] = ()
    unquantised: Sequence[str] = ()
    engines: Sequence[str] = ("dynamic",)
    compiles_backbone = False
    adapter_targets = "all-linear"
    decodes_with_prompts = False
    decodes_states = False
    labels: Sequence[str] | None = None
    serves: Sequence[str] = ()
    rollout_engines: Sequence[str] = ("native",)
    encoder_cache: EncoderCache | None = None

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.engine = self.engines[0]
        self.backbone = Backbone()

    def __repr__(self) -> str:
        names = ("sampling_rate", "min_seconds", "max_seconds", "mel_bins", "engine")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @property
    def task(self) -> Task:
        return TRANSCRIPTION if self.labels is None else Labels(self.labels)

    def runs_in_pipeline(self, model: nn.Module) -> bool:
        """Whether a pipeline of transformers, which sends audio alone, runs the model as it was trained.

        By default it runs encoder-decoders, except those that are asked through a chat template.
        """
        decodes = getattr(base_model(model).config, "is_encoder_decoder", False)
        return bool(decodes) and getattr(self.processor, "chat_template", None) is None

    def check_same_answers(self, model: nn.Module, ref_model: nn.Module) -> None:
        """Check that the log-probabilities of two models are about the same answers.

        Raises:
            ValueError: the models have vocabularies of different sizes, or different labels.
        """
        ours, theirs = (
            getattr(base_model(known).config.get_text_config(), "vocab_size", None) for known in (model, ref_model)
        )
        if ours != theirs:
            raise ValueError(
                f"ref_model has a vocabulary of {theirs}, the policy one of {ours}, so their log-probabilities "
                "cannot be compared. Pass a ref_model with the policy's own tokenizer, or none."
            )

    @property
    def has_distributions(self) -> bool:
        return self.token_level

    def set_engine(self, engine: str) -> None:
        """Choose how steps of sampling and beam search run; the samples stay the same.

        Raises:
            ValueError: this family does not know the engine.
        """
        if engine not in self.engines:
            raise ValueError(
                f"{type(self).__name__} has no engine {engine!r}; it has {list(self.engines)}. Choose one of them."
            )
        self.engine = engine

    def noise_length(self, batch: GroupBatch, max_tokens: int) -> int:
        """How many random numbers `sample_groups` takes for a hypothesis of at most `max_tokens` tokens.

        By default one for each token. A family that draws something else overrides this: CTC draws a symbol for each
        audio frame, so the audio is the limit.
        """
        return max_tokens

    def decoder_calls(self, batch: GroupBatch) -> int:
        """How often a rollout of hypotheses like those of `batch` calls the decoder, one call after another.

        0 where everything follows from one pass, as in CTC.
        """
        return 0

    def positions(self, model: nn.Module, states: Tensor) -> int | None:
        """How many tokens of a hypothesis the model can read, its prefix included; None where nothing limits them.

        Args:
            states: what `encode` returned for the clips.
        """
        return None

    def served_part(self, base: PreTrainedModel) -> ServedPart:
        """What an engine of `rollout_engines` other than native runs."""
        raise ValueError(f"{type(self).__name__} is sampled by the library alone. Use rollout_engine='native'.")

    def engine_prompts(self, model: nn.Module, batch: GroupBatch, states: Tensor) -> list[EnginePrompt]:
        """What such an engine continues, one for each clip."""
        raise ValueError(f"{type(self).__name__} is sampled by the library alone. Use rollout_engine='native'.")

    # ---- weights: through the one forward ----

    @abstractmethod
    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        """Audio -> states with B rows, inside the forward."""

    @abstractmethod
    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        """Log-probabilities of all hypotheses given `states`, inside the forward."""

    @abstractmethod
    def _sample(
        self,
        base: PreTrainedModel,
        batch: GroupBatch,
        states: Tensor,
        noise: Tensor,
        temperature: float,
        sampler: Sampler | None,
    ) -> GroupSamples:
        """K hypotheses for each clip given `states`, inside the forward; ValueError for a sampler it cannot apply."""

    def _rows(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        """(N, ...) what the head reads of each kept token, clip by clip and hypothesis by hypothesis."""
        raise ValueError(self.without_distributions())

    def _project(self, base: PreTrainedModel, rows: Tensor) -> Tensor:
        """(N, ...) of `_rows` -> (N, V) logits."""
        raise ValueError(self.without_distributions())

    def without_distributions(self) -> str:
        return (
            f"{type(self).__name__} has no distribution over tokens to compare with another model's. Learn the other "
            "model's transcripts instead (DistillationConfig.transcripts_only)."
        )

    def _beam(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, settings: BeamSettings) -> GroupBeams:
        """The best hypotheses of each clip given `states`, inside the forward."""
        raise ValueError(
            f"{type(self).__name__} has no beam search. Use sample_groups, or a family that writes token by token."
        )

    @abstractmethod
    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        **generation: Any,
    ) -> list[str]:
        """Decode clips as the checkpoint's generation config says; the policy's sampling is `sample_groups`."""

    def transcribe_chunks(
        self, model: nn.Module, clip: np.ndarray, *, chunk_seconds: float, overlap_seconds: float, **asked: Any
    ) -> str:
        """The transcript of a clip of any length, heard in chunks that overlap; see `audiorl.models.long_clips`.

        Args:
            clip: (samples,) at `sampling_rate`.
            chunk_seconds, overlap_seconds: see `LongForm`.
            asked: keywords of `transcribe` for one clip.
        """
        device = base_model(model).device

        def transcribe(part: np.ndarray) -> str:
            audio = {name: tensor.to(device) for name, tensor in self.features([part]).items()}
            return self.transcribe(model, audio, **asked)[0]

        return transcript_of_chunks(transcribe, clip, self.sampling_rate, chunk_seconds, overlap_seconds)

    def transcribe_long(
        self, model: nn.Module, clip: np.ndarray, *, chunk_seconds: float, overlap_seconds: float, **asked: Any
    ) -> str:
        """The same in the way that is the model's own; by default `transcribe_chunks`."""
        return self.transcribe_chunks(
            model, clip, chunk_seconds=chunk_seconds, overlap_seconds=overlap_seconds, **asked
        )

    @abstractmethod
    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Every parameter that `encode` reads."""

    def encoder_is_frozen(self, model: nn.Module) -> bool:
        """True if nothing in the encoder is trained: then its states are the same for every policy."""
        return not any(parameter.requires_grad for parameter in self.encoder_parameters(model))

    def freeze_encoder(self, model: nn.Module) -> None:
        for parameter in self.encoder_parameters(model):
            parameter.requires_grad_(False)

    def install(self, model: nn.Module) -> None:
        """Let `model` answer this family's calls; ordinary calls stay as they were."""
        install_speech_call(base_model(model))

    def compile_backbone(self, **options: Any) -> None:
        """Score every model through `torch.compile` from here on.

        Args:
            options: of `torch.compile`: `backend`, `mode`, `fullgraph`.

        Raises:
            ValueError: this family's models cannot be compiled.
        """
        if not self.compiles_backbone:
            raise ValueError(
                f"{type(self).__name__} cannot compile its model apart from the head. Leave torch_compile off."
            )
        self.backbone.compile(**options)

    def _states(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        """Kept states where the batch brings them, or else what the encoder says, inside the forward."""
        return batch.audio.to(base.dtype) if batch.audio_key == KEPT_STATES else self._encode(base, batch)

    def encode(self, model: nn.Module, batch: GroupBatch) -> Tensor:
        """Encoder states, one row for each clip."""
        return run_inside(model, lambda base: self._states(base, batch))

    def score_groups(
        self, model: nn.Module, batch: GroupBatch, states: Tensor | None = None, *, temperature: float = 1.0
    ) -> GroupScores:
        """Score K hypotheses of B clips with one encoder pass over B clips, or none when `states` are given.

        Args:
            states: what `encode` or another `score_groups` returned for the same batch.
            temperature: > 0; logits are divided by it.
        """

        def score(base: PreTrainedModel) -> GroupScores:
            return self._score(base, batch, self._states(base, batch) if states is None else states, temperature)

        return run_inside(model, score)

    @torch.no_grad()
    def token_rows(self, model: nn.Module, batch: GroupBatch, states: Tensor | None = None) -> Tensor:
        """(N, ...) what the head reads of each kept token, from one encoder pass; see `token_logits`. No graph.

        Raises:
            ValueError: the family has no distributions over tokens.
        """
        return run_inside(
            model, lambda base: self._rows(base, batch, self._states(base, batch) if states is None else states)
        )

    @torch.no_grad()
    def token_logits(self, model: nn.Module, rows: Tensor) -> Tensor:
        """(N, V) logits of some of the rows of `token_rows`; (tokens, V) need not exist at once. No graph."""
        return run_inside(model, lambda base: self._project(base, rows))

    def compare_tokens(
        self,
        model: nn.Module,
        batch: GroupBatch,
        compare: Callable[[Tensor, slice], Tensor],
        states: Tensor | None = None,
        *,
        chunk: int = 256,
    ) -> Tensor:
        """What a function makes of each kept token's logits, with gradient; only some tokens' logits exist at once.

        They are computed again in the backward pass, so that memory does not grow with tokens x V.

        Args:
            compare: (logits (n, V), which of the N kept tokens they are) -> (n, M); pure, as it is called twice.
            states: what `encode` returned for the same batch.
            chunk: > 0, tokens at once.

        Returns:
            (N, M) for the N kept tokens, clip by clip and hypothesis by hypothesis.

        Raises:
            ValueError: the family has no distributions over tokens.
        """

        def compared(base: PreTrainedModel) -> Tensor:
            rows = self._rows(base, batch, self._states(base, batch) if states is None else states)
            return compare_rows(rows, lambda some: self._project(base, some), compare, chunk)

        return run_inside(model, compared)

    @torch.no_grad()
    def sample_groups(
        self,
        model: nn.Module,
        batch: GroupBatch,
        noise: Tensor,
        states: Tensor | None = None,
        *,
        temperature: float = 1.0,
        sampler: Sampler | None = None,
    ) -> GroupSamples:
        """Sample K hypotheses for each of B clips from one encoder pass over B clips.

        Args:
            batch: the clips; the prefix of the first hypothesis of each is what sampling starts from.
            noise: (B, K, T) uniform in [0, 1), one number for each token that may be sampled. It is the only source of
                randomness; its shape sets K and the length limit T. `noise_length` gives T if a family draws something
                else than tokens.
            temperature: > 0; logits are divided by it.
            sampler: top-k, top-p, min-p and repetition control; None draws from the policy as it is.

        Returns:
            Samples; those of placeholders (`batch.valid` is False) have no kept token and count as finished.
            Log-probabilities are those of the policy at this temperature, untruncated: what `score_groups` gives for
            these tokens, with a sampler and without.

        Raises:
            ValueError: a sampler for a family that does not draw token by token.
            DivergedModelError: the model's probabilities are not finite; a `FloatingPointError` with the rows.
        """

        def sample(base: PreTrainedModel) -> GroupSamples:
            known = self._states(base, batch) if states is None else states
            return self._sample(base, batch, known, noise, temperature, sampler)

        samples = run_inside(model, sample)
        check_finite(samples.logps, batch)
        return samples

    @torch.no_grad()
    def beam_groups(
        self,
        model: nn.Module,
        batch: GroupBatch,
        num_beams: int,
        states: Tensor | None = None,
        *,
        max_tokens: int,
        num_beam_groups: int = 1,
        diversity_penalty: float = 0.0,
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
        temperature: float = 1.0,
    ) -> GroupBeams:
        """The K = `num_beams` best hypotheses of each of B clips from one encoder pass over B clips.

        Args:
            batch: the clips; the prefix of the first hypothesis of each is what the search starts from.
            max_tokens: T, tokens of a hypothesis behind its prefix, the end token included.
            num_beam_groups, diversity_penalty: above 1 and above 0 for diverse beams.
            length_penalty, early_stopping, temperature: see `BeamSettings`.

        Returns:
            Hypotheses, best first, with the scores they are ranked by and log-probabilities as of `score_groups`.

        Raises:
            ValueError: a setting out of its range, or a family without beam search.
            DivergedModelError: the model's probabilities are not finite.
        """
        settings = BeamSettings(
            num_beams, max_tokens, num_beam_groups, diversity_penalty, length_penalty, early_stopping, temperature
        )

        def search(base: PreTrainedModel) -> GroupBeams:
            return self._beam(base, batch, self._states(base, batch) if states is None else states, settings)

        beams = run_inside(model, search)
        check_finite(beams.logps, batch)
        return beams


class AutoregressiveFamily(SpeechFamily):
    """A family whose decoder predicts the next token of K hypotheses for each clip.

    It samples and searches by one decoder, which a subclass builds.
    """

    def decoder_calls(self, batch: GroupBatch) -> int:
        """Each token is drawn by a call; the prefix is read in the first."""
        return int((batch.keep.shape[-1] + 1 - prefix_lengths(batch)).max())

    @abstractmethod
    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        """Tokens that the decoder can read, prefix included."""

    def positions(self, model: nn.Module, states: Tensor) -> int | None:
        return self._positions(base_model(model), states)

    @abstractmethod
    def _decoder(
        self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, hypotheses: int, room: int, temperature: float
    ) -> BeamDecoder:
        """A decoder that has read nothing yet, for at most `room` tokens of each hypothesis of the batch's clips."""

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
        decoder = self._decoder(base, batch, states, hypotheses, self._room(base, batch, states, limit), temperature)
        room = self._positions(base, states)
        with evaluating(base), calls_in_step(base, decoder) as call:
            return sample_from(call, batch, noise, end_token=self.end_token, max_tokens=room, sampler=sampler)

    def _beam(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, settings: BeamSettings) -> GroupBeams:
        room = self._room(base, batch, states, settings.max_tokens)
        decoder = self._decoder(base, batch, states, settings.num_beams, room, settings.temperature)
        positions = self._positions(base, states)
        with evaluating(base), calls_in_step(base, decoder) as call:
            return beam_search(call, batch, settings, end_token=self.end_token, max_tokens=positions)

    def _room(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, limit: int) -> int:
        return min(int(prefix_lengths(batch).max()) + limit, self._positions(base, states))
