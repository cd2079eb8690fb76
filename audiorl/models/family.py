"""The seam between trainers and models: what a family of speech models has to answer.

Trainers never name a model class. They ask `speech_family(model, processor)` for a family and talk to that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoProcessor, PreTrainedModel

from audiorl.batch import GroupBatch, GroupSamples, GroupScores
from audiorl.models.beam_search import BeamSettings, GroupBeams
from audiorl.models.compiling import Backbone
from audiorl.models.hotwords import read_prompt
from audiorl.models.sampler import Sampler
from audiorl.models.speech_call import base_model, install_speech_call, run_inside


class TokenizedText(NamedTuple):
    """A transcript as one family's tokens."""

    ids: list[int]  # prefix, transcript, end token
    first_kept: int  # position of the first token that counts: the length of the prefix


class SpeechFamily(ABC):
    """What trainers, collators and rollouts ask of a model.

    `model` arguments may be wrapped (DDP, FSDP, PEFT): whatever touches weights runs inside the wrapped model's one
    `forward` (see `run_inside`), so that the wrappers' hooks fire.

    Attributes:
        sampling_rate: Hz at which the model hears.
        max_seconds: the longest clip the model takes; None where there is no limit.
        min_seconds: the shortest clip it takes.
        mel_bins: M of the mel spectrogram among its features; None where the model hears the waveform.
        end_token: id of the token that ends a hypothesis; also used as padding in `tokens`.
        token_level: whether hypotheses are drawn and scored token by token; where not (CTC), T = 1 in `GroupScores`,
            samplers do not apply and no number of tokens limits a sample.
        unadaptable: last parts of the names of linear layers that the model reads by their weight and never calls, so
            that an adapter in them would do nothing.
        engines: how this family can run a step of sampling, the default first; `set_engine` chooses.
        backbone: what scoring runs the model's encoder and decoder with.
        adapter_targets: where an adapter goes that names no layers; see `audiorl.adapters`.
        unquantised: what stays in full precision on an 8-bit or 4-bit base, as `BitsAndBytesConfig` names it in
            `llm_int8_skip_modules`, the head included; used where that is not set. Empty for all but the head.
        decodes_with_prompts: whether `transcribe` takes `prompts`, a question or context for each clip.
        compiles_backbone: whether `_encode` and `_score` do go through `backbone`.
        labels: everything the model can say, where it answers with one of a few labels; accuracy is measured then
            instead of error rates. None where it writes transcripts.
    """

    sampling_rate: int
    max_seconds: float | None = None
    min_seconds: float = 0.0
    mel_bins: int | None = None
    end_token: int
    token_level: bool = True
    unadaptable: Sequence[str] = ()
    unquantised: Sequence[str] = ()
    engines: Sequence[str] = ("dynamic",)
    compiles_backbone = False
    adapter_targets = "all-linear"
    decodes_with_prompts = False
    labels: Sequence[str] | None = None

    def __init__(self, model: nn.Module, processor: Any):
        self.processor = processor
        self.engine = self.engines[0]
        self.backbone = Backbone()

    @classmethod  # noqa: B027
    def require_packages(cls) -> None:
        """Asked before a checkpoint is loaded.

        Raises:
            ImportError: the family needs a package that is not installed.
        """

    @classmethod
    def load_processor(cls, name: str) -> Any:
        """What the family reads audio and text with, from a checkpoint's name or path.

        Raises:
            OSError, ValueError: the checkpoint lacks a part of it.
        """
        return AutoProcessor.from_pretrained(name)

    # ---- data, no weights ----

    @abstractmethod
    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Mono float32 clips at `sampling_rate` -> the audio tensors of a `GroupBatch`, one row for each clip."""

    def spectrograms(self, features: Mapping[str, Tensor], samples: Sequence[int]) -> list[Tensor]:
        """Each clip's own part, without padding, of the mel spectrogram in `features`; needed where `mel_bins` is set.

        Args:
            features: what `features` returned.
            samples: how many samples each clip has.

        Returns:
            B views of (M, frames): what is written to them is written to `features`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} says it has mel_bins, but not where its spectrograms are. Override spectrograms."
        )

    @abstractmethod
    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        """Text -> prefix, transcript, end token; nothing is cut.

        Raises:
            ValueError: an unknown language or task, a prompt the model has no place for, a transcript longer than the
                decoder; the message says what and what to do.
        """

    def tokenize_row(self, text: str, row: Mapping[str, Any]) -> TokenizedText:
        """`tokenize` with what the row says of language, task, prompt and hot words."""
        return self.tokenize(text, language=row.get("language"), task=row.get("task"), prompt=self.row_prompt(row))

    def row_prompt(self, row: Mapping[str, Any]) -> str | None:
        """The row's `prompt` with its `hotwords` written into it; what every reader of rows asks for.

        Raises:
            ValueError: a prompt that is no text, hot words that are no words, or nowhere to write them.
        """
        prompt, hotwords = read_prompt(row)
        return self.prompt_with_hotwords(prompt, hotwords) if hotwords else prompt

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        """A row's prompt, or None, and its hot words (at least one) as one prompt, in the form this model knows.

        Raises:
            ValueError: this model reads no prompt, or has no place for hot words in it.
        """
        raise ValueError(
            "this model has no place for hotwords. Leave the column out; for a reward alone, give it another name"
        )

    def words(self, text: str) -> str:
        """A transcript without marks that are not spoken, such as timestamps: what error rates compare."""
        return text

    def last_time(self, text: str) -> float | None:
        """The latest time that a transcript mentions, in seconds from the start of its clip; None if it has none."""
        return None

    def least_seconds(self, text: str) -> float:
        """The shortest clip that can say a text (CTC writes at most a symbol for each frame); 0 where any can."""
        return 0.0

    def set_defaults(self, *, language: str | None = None, task: str | None = None) -> None:
        """Language and task of rows that name none; None leaves what the processor says.

        Raises:
            ValueError: this checkpoint has no such language or task.
        """
        if language or task:
            raise ValueError(f"{type(self).__name__} has no languages or tasks to choose from. Leave them out.")

    def set_engine(self, engine: str) -> None:
        """How steps of sampling and beam search run from here on; the samples are the same.

        Raises:
            ValueError: this family does not know the engine.
        """
        if engine not in self.engines:
            raise ValueError(
                f"{type(self).__name__} has no engine {engine!r}; it has {list(self.engines)}. Choose one of them."
            )
        self.engine = engine

    @abstractmethod
    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        """`tokens` (B, K, T + 1) and `keep` (B, K, T) -> B lists of K transcripts."""

    def noise_length(self, batch: GroupBatch, max_tokens: int) -> int:
        """How many random numbers `sample_groups` takes for a hypothesis of at most `max_tokens` tokens.

        One for each token here; a family that draws something else (CTC: a symbol for each audio frame, so that the
        audio is the limit) says how many it draws.
        """
        return max_tokens

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

    @abstractmethod
    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Every parameter that `encode` reads."""

    def encoder_is_frozen(self, model: nn.Module) -> bool:
        """True where nothing trainable sits in the encoder, so that its states are the same for every policy."""
        return not any(parameter.requires_grad for parameter in self.encoder_parameters(model))

    def freeze_encoder(self, model: nn.Module) -> None:
        for parameter in self.encoder_parameters(model):
            parameter.requires_grad_(False)

    def install(self, model: nn.Module) -> None:
        """Let `model` answer this family's calls; ordinary calls stay as they were."""
        install_speech_call(base_model(model))

    def compile_backbone(self, **options: Any) -> None:
        """Score through `torch.compile` from here on, with every model this family is asked about.

        Args:
            options: of `torch.compile`: `backend`, `mode`, `fullgraph`.

        Raises:
            ValueError: this family does not run its models in a way that can be compiled.
        """
        if not self.compiles_backbone:
            raise ValueError(
                f"{type(self).__name__} has no backbone that is compiled apart from the head. Leave torch_compile off."
            )
        self.backbone.compile(**options)

    def encode(self, model: nn.Module, batch: GroupBatch) -> Tensor:
        """Encoder states, one row for each clip."""
        return run_inside(model, lambda base: self._encode(base, batch))

    def score_groups(
        self, model: nn.Module, batch: GroupBatch, states: Tensor | None = None, *, temperature: float = 1.0
    ) -> GroupScores:
        """Score K hypotheses of B clips with one encoder pass over B clips, or none when `states` are given.

        Args:
            states: what `encode` or another `score_groups` returned for the same batch.
            temperature: > 0; logits are divided by it.
        """

        def score(base: PreTrainedModel) -> GroupScores:
            return self._score(base, batch, self._encode(base, batch) if states is None else states, temperature)

        return run_inside(model, score)

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
            noise: (B, K, T) uniform in [0, 1), one number for each token that may be sampled: the only source of
                randomness, so K and the length limit T are its shape. `noise_length` says T where a family draws
                something else than tokens.
            temperature: > 0; logits are divided by it.
            sampler: top-k, top-p, min-p and repetition control; None draws from the policy as it is.

        Returns:
            Samples; those of placeholders (`batch.valid` is False) have no kept token and count as finished. Their
            log-probabilities are those of the policy at this temperature, untruncated: what `score_groups` gives for
            these tokens, with a sampler and without.

        Raises:
            ValueError: a sampler for a family that does not draw token by token.
        """

        def sample(base: PreTrainedModel) -> GroupSamples:
            known = self._encode(base, batch) if states is None else states
            return self._sample(base, batch, known, noise, temperature, sampler)

        return run_inside(model, sample)

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
        """
        settings = BeamSettings(
            num_beams, max_tokens, num_beam_groups, diversity_penalty, length_penalty, early_stopping, temperature
        )

        def search(base: PreTrainedModel) -> GroupBeams:
            return self._beam(base, batch, self._encode(base, batch) if states is None else states, settings)

        return run_inside(model, search)
