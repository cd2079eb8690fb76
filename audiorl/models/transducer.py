"""Transducers: Parakeet-RNNT, Parakeet-TDT, Nemotron's streaming models.

One pass over the audio; K hypotheses meet its frames in the joint network only. A hypothesis is scored as a whole,
T = 1: its log-probability is the sum over all alignments (`audiorl.losses.transducer`), whose logits never exist at
once. Sampling draws alignments step by step, and the log-probability of a sample is that of its hypothesis, not of the
alignment.

What differs between drawing and scoring. Drawing follows `generate`: after `max_symbols_per_step` symbols in a frame a
plain transducer goes on by itself, and a step of a TDT model may end beyond the audio, or be a blank of no frame, which
then takes one. The likelihood, that of the losses these models are trained with, counts no such alignment. Of a trained
model they are rare; their mass is missing from the likelihoods of a clip, which then add up to less than one.

The prediction network is an LSTM: an adapter sits in its output layer, in its embedding, and in the joint network
beside the encoder; PEFT has none for the LSTM itself, which full fine-tuning trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch, GroupSamples, GroupScores, kept_texts
from audiorl.losses.transducer import Moves, TransducerScores, transducer_scores
from audiorl.models.beam_search import BeamSettings, GroupBeams
from audiorl.models.ctc import CTCText
from audiorl.models.ctc_search import as_hypotheses, only_valid, packed, said_symbols, samples_for
from audiorl.models.family import TokenizedText
from audiorl.models.fast_conformer import FastConformerAudio
from audiorl.models.forward import base_model, is_sharded, run_inside
from audiorl.models.sampling import Sampler, check_finite
from audiorl.models.transducer_search import (
    Drawn,
    Limits,
    TransducerSteps,
    best_transcripts,
    most_probable,
    walk,
)
from audiorl.text.languages import language_code


class TransducerFamily(FastConformerAudio):
    """A fast conformer, an LSTM that reads what was written, and a joint network: `ParakeetForRNNT`, `ParakeetForTDT`.

    Attributes:
        durations: frames that a step may take, of a TDT model; None for a plain transducer.
        most: symbols written in a frame by sampling, and by greedy decoding of a plain transducer.
    """

    causal = False
    token_level = False
    decodes_states = True
    unquantised = ("encoder_projector", "decoder_projector", "head")

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.init_audio(processor.feature_extractor, config.encoder_config, causal=self.causal)
        self.durations = tuple(config.durations) if hasattr(config, "durations") else None
        Moves.of(self.durations)
        self.most = config.max_symbols_per_step
        self.end_token, self.vocab_size = config.blank_token_id, config.vocab_size
        self.transcripts = CTCText(
            processor.tokenizer, config.blank_token_id, config.vocab_size, own_blank=processor.blank_token_id
        )

    # ---- data ----

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        """A row's language is not read: the model writes the one it hears."""
        self._check_task(task)
        if prompt:
            raise ValueError("a transducer has no place for a prompt. Leave the column out.")
        return self.transcripts.tokenize(text)

    def _check_task(self, task: str | None) -> None:
        if task not in (None, "transcribe"):
            raise ValueError(
                f"a transducer writes what is said: its only task is 'transcribe', not {task!r}. Leave the task out."
            )

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return kept_texts(batch_tokens, keep, self.transcripts.decode)

    def least_seconds(self, text: str) -> float:
        """Longer than nothing only where each symbol of a TDT model takes a frame."""
        frames = min(self.durations or (0,)) * len(self.transcripts.ids(text))
        return samples_for(self.frames_in, frames + 1) / self.sampling_rate if frames else 0.0

    def noise_length(self, batch: GroupBatch, max_tokens: int) -> int:
        """A number for each step, two with durations; the audio is the limit, whatever `max_tokens` says."""
        assert batch.audio_mask is not None, "features makes one"
        frames = int(self._frames_of_audio(torch.tensor(batch.audio_mask.shape[-1])))
        return frames * self.most * self._draws

    def decoder_calls(self, batch: GroupBatch) -> int:
        """A call for each frame, and for each symbol of the longest hypothesis."""
        _, lengths = said_symbols(batch.tokens, batch.keep)
        return int((self._frames(batch)[:, None] + lengths).max())

    @property
    def _draws(self) -> int:
        return 1 if self.durations is None else 2

    # ---- weights ----

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).encoder.parameters())

    def _frames(self, batch: GroupBatch) -> Tensor:
        """(B,) long, each clip's own frames."""
        assert batch.audio_mask is not None, "features makes one"
        return self._frames_of_audio(batch.audio_mask.sum(-1))

    def _heard(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        """(B, S, D) states -> (B, S, J) what the joint network reads."""
        return base.encoder_projector(states)

    def _start(self, batch: GroupBatch) -> Tensor:
        """(B,) the token before the transcript."""
        return torch.full_like(batch.row_ids, self.end_token)

    def _likelihoods(
        self,
        base: PreTrainedModel,
        batch: GroupBatch,
        heard: Tensor,
        symbols: Tensor,
        lengths: Tensor,
        temperature: float,
    ) -> TransducerScores:
        """Of (B, K, U) symbols, `lengths` (B, K) of which count."""
        inside = torch.arange(symbols.shape[-1], device=symbols.device) < lengths[..., None]
        read = nn.functional.pad(torch.where(inside, symbols, self.end_token), (1, 0), value=self.end_token)
        texts = base.decoder(read.flatten(0, 1)).unflatten(0, read.shape[:2])

        def joint(audio: Tensor, text: Tensor) -> Tensor:
            return base.joint(decoder_hidden_states=text, encoder_hidden_states=audio)

        return transducer_scores(
            joint,
            heard,
            texts,
            self._frames(batch),
            symbols,
            lengths,
            symbols=self.vocab_size,
            blank=self.end_token,
            durations=self.durations,
            temperature=temperature,
            max_symbols=self.most,
            parameters=[parameter for parameter in base.joint.parameters() if parameter.requires_grad],
        )

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        """Score hypotheses as a whole.

        Entropy and mean logit are means over the nodes that alignments of a hypothesis visit, without gradient.
        `is_top1` tells whether a hypothesis is that of greedy decoding.
        """
        symbols, lengths = said_symbols(batch.tokens, batch.keep)
        keep = batch.keep.any(-1, keepdim=True)
        found = self._likelihoods(base, batch, self._heard(base, batch, states), symbols, lengths, temperature)
        logps, entropy, mean_logits = (torch.where(keep, values[..., None], 0.0) for values in found[:3])
        return GroupScores(logps, entropy, mean_logits, found.is_top1[..., None] & keep, keep, states)

    def _steps(self, base: PreTrainedModel, heard: Tensor, temperature: float) -> TransducerSteps:
        return TransducerSteps(base, heard, self.durations, temperature)

    def _sample(
        self,
        base: PreTrainedModel,
        batch: GroupBatch,
        states: Tensor,
        noise: Tensor,
        temperature: float,
        sampler: Sampler | None,
    ) -> GroupSamples:
        if sampler is not None:
            raise ValueError(
                "A transducer draws symbols and blanks for audio frames, and a sampler (top-k, top-p, min-p, "
                "repetition) works on tokens. Leave it out."
            )
        clips, hypotheses, _ = noise.shape
        heard, frames = self._heard(base, batch, states), torch.where(batch.valid, self._frames(batch), 0)
        each = torch.arange(clips, device=heard.device).repeat_interleave(hypotheses)
        choose = Drawn(noise.flatten(0, 1), self.most, self._draws)
        limits = Limits(self.most, self.most * frames[each], self.most * heard.shape[1])
        symbols, counts = walk(self._steps(base, heard, temperature), each, frames[each], choose, limits)
        symbols, counts = symbols.unflatten(0, (clips, hypotheses)), counts.view(clips, hypotheses)
        tokens, keep = as_hypotheses(symbols, counts, self.end_token)
        tokens[..., 0] = self._start(batch)[:, None]
        logps = self._likelihoods(base, batch, heard, symbols, counts, temperature).logps
        logps = torch.where(batch.valid[:, None], logps, 0.0)[..., None]
        return GroupSamples(tokens, keep & batch.valid[:, None, None], logps, torch.ones_like(counts, dtype=torch.bool))

    def _beam(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, settings: BeamSettings) -> GroupBeams:
        """A beam search over frames; what is left is ranked by its likelihood.

        If it finds fewer than K hypotheses, the remaining places have no kept token and a score of -inf.
        """
        if settings.num_beam_groups > 1 or settings.early_stopping is not False:
            raise ValueError(
                "The beam search of a transducer goes through the audio once and has no groups of beams; got "
                f"num_beam_groups={settings.num_beam_groups}, early_stopping={settings.early_stopping!r}. Leave both "
                "out."
            )
        if is_sharded(base):
            raise ValueError(
                "The beam search of a transducer calls its networks as often as its clips need, but weights spread "
                "over processes need as many calls in every process. Search with the model in one piece (without "
                "FSDP), or sample."
            )
        heard, frames = self._heard(base, batch, states), self._frames(batch)
        steps = self._steps(base, heard, settings.temperature)
        counted = torch.where(batch.valid, frames, 0).tolist()
        found = best_transcripts(steps, counted, settings.num_beams, settings.max_tokens - 1, self.most)
        symbols, counts, there = packed(found, settings.num_beams, self.end_token, heard.device)
        symbols, counts = only_valid(symbols, counts, batch.valid, self.end_token)
        logps = self._likelihoods(base, batch, heard, symbols, counts, settings.temperature).logps
        # the search finds nothing where logits are NaN, but saying nothing is then NaN likely
        check_finite(torch.where(batch.valid[:, None], logps, 0.0)[..., None], batch)
        scores = torch.where(there, logps / (counts + 1) ** settings.length_penalty, -torch.inf)
        scores, order = torch.where(batch.valid[:, None], scores, 0.0).sort(dim=-1, descending=True, stable=True)
        kept = (there & batch.valid[:, None]).gather(-1, order)
        tokens, keep = as_hypotheses(symbols, counts, self.end_token)
        tokens[..., 0] = self._start(batch)[:, None]
        tokens, keep = (x.gather(1, order[..., None].expand_as(x)) for x in (tokens, keep))
        logps = torch.where(kept, logps.gather(-1, order), 0.0)[..., None]
        return GroupBeams(tokens, keep & kept[..., None], logps, scores, torch.ones_like(kept))

    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        max_new_tokens: int | None = None,
        num_beams: int = 1,
        **generation: Any,
    ) -> list[str]:
        """Decode as the model's `generate` does, or the best of a beam search.

        Args:
            max_new_tokens: symbols of a transcript, at most; None for what the audio holds.
            num_beams: width of the beam search; 1 for greedy decoding.

        Raises:
            ValueError: any other setting of a generation, or a task that is not to transcribe.
        """
        if generation:
            raise ValueError(f"A transducer decodes without {sorted(generation)}. Leave them out, or use num_beams.")
        batch = self._clips_alone(model, audio, languages, tasks)
        symbols = max_new_tokens if max_new_tokens is not None else self.noise_length(batch, 0)
        if num_beams > 1:
            found = self.beam_groups(model, batch, num_beams, max_tokens=symbols + 1, length_penalty=0.0)
            return [texts[0] for texts in self.text(found.tokens, found.keep)]

        def greedy(base: PreTrainedModel) -> tuple[Tensor, Tensor]:
            heard, frames = self._heard(base, batch, self._states(base, batch)), self._frames(batch)
            # what generate() counts: the last mel frame, which is padding, and the start
            steps = self.most * self._frames_of_audio(batch.tensors["audio_mask"].sum(-1) + 1) - 1
            in_frame = self.most if self.durations is None else int(steps.max()) + 1
            each = torch.arange(len(heard), device=heard.device)
            limits = Limits(in_frame, steps, symbols)
            return walk(self._steps(base, heard, 1.0), each, frames, most_probable, limits)

        with torch.no_grad():
            best, counts = run_inside(model, greedy)
        tokens, keep = as_hypotheses(best[:, None], counts[:, None], self.end_token)
        return [texts[0] for texts in self.text(tokens, keep)]

    def _clips_alone(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        languages: Sequence[str | None] | None,
        tasks: Sequence[str | None] | None,
    ) -> GroupBatch:
        """A batch of clips with one empty hypothesis each, of the rows' languages and tasks."""
        device = base_model(model).device
        count = len(next(iter(audio.values())))
        rows = zip(languages or [None] * count, tasks or [None] * count, strict=True)
        tokens = torch.tensor([[self.tokenize("", language=name, task=task).ids] for name, task in rows], device=device)
        return GroupBatch(
            {name: tensor.to(device) for name, tensor in audio.items()},
            tokens=tokens,
            keep=torch.zeros_like(tokens[..., 1:], dtype=torch.bool),
            row_ids=torch.arange(count, device=device),
        )


class StreamingTransducerFamily(TransducerFamily):
    """Nemotron's streaming models (`NemotronAsrStreamingForRNNT`), trained with the attention context of a stream.

    Each frame hears its past and a few frames of its chunk's future, as many as the processor says
    (`processor.set_num_lookahead_tokens`), whether it is scored, sampled or transcribed. Audio is decoded offline, in
    one pass: what a stream of chunks would write, but for its edges.
    """

    causal = True

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.encoder_options = {"num_lookahead_tokens": processor.default_num_lookahead_tokens}

    def runs_in_pipeline(self, model: nn.Module) -> bool:
        """A pipeline asks neither for the attention context nor for a language."""
        return False


class PromptedTransducerFamily(StreamingTransducerFamily):
    """Nemotron 3.5 ASR: a streaming transducer that is told the language, or finds it out by itself.

    The number of a row's language among the model's prompts stands before the transcript, behind the vocabulary.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.num_prompts, self.prompts = config.num_prompts, dict(processor.prompt_dictionary)
        self.default_prompt = config.default_prompt_id

    def set_defaults(self, *, language: str | None = None, task: str | None = None) -> None:
        if task is not None:
            self._check_task(task)
        if language is not None:
            self.default_prompt = self._prompt(language)

    def _prompt(self, language: str) -> int:
        """
        Raises:
            ValueError: none of the model's languages.
        """
        names = (language, language_code(language))
        found = next((self.prompts[name] for name in names if name in self.prompts), None)
        if found is None:
            raise ValueError(
                f"the model knows no language {language!r}. Use one of {', '.join(sorted(self.prompts))}, or leave "
                "the language out, and the model finds it."
            )
        return found

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        ids, first_kept = super().tokenize(text, task=task, prompt=prompt)
        number = self.default_prompt if language is None else self._prompt(language)
        return TokenizedText([self.vocab_size + number, *ids[1:]], first_kept)

    def _start(self, batch: GroupBatch) -> Tensor:
        return batch.leading_tokens[:, 0]

    def _heard(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        numbers = batch.leading_tokens[:, 0] - self.vocab_size
        # a placeholder has none
        numbers = torch.where(numbers >= 0, numbers, self.default_prompt)
        prompts = nn.functional.one_hot(numbers, self.num_prompts).to(states.dtype)
        prompts = prompts[:, None].expand(-1, states.shape[1], -1)
        return base.encoder_projector(base.prompt_projector(torch.cat([states, prompts], -1)))
