"""Audio language models: an audio tower whose output stands among a prompt's tokens, and a decoder-only model behind.

`tokens` of a batch hold the prompt with one placeholder for the audio. When the model runs, the clip's audio embeddings
take the place of the placeholder. The tower runs once for each clip, the prompt is read once for each clip, and the K
answers are continuations of it. A row is laid out as

    [prefix of L tokens, padded to the longest | continuation 1 | ... | continuation K], each of C tokens

In every continuation, positions continue from the length of its prefix. A mask of stock attention lets a continuation
see only its clip's prefix and its own past, so it has the same numbers as a forward pass of its own.
"""

from __future__ import annotations

import copy
import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from audiorl.batch import GroupBatch, GroupScores, kept_texts
from audiorl.models.family import AutoregressiveFamily, EnginePrompt, ServedPart, SpeechFamily, TokenizedText
from audiorl.models.family_data import check_ids, special_ids
from audiorl.models.forward import base_model, run_inside
from audiorl.models.generate import one_transcript_each
from audiorl.models.grouped_attention import cache_argument
from audiorl.models.head import scaled_logits, score_tokens
from audiorl.models.sampling import prefix_lengths

# What processors call the mask of mel frames.
MASK_NAMES = ("input_features_mask", "feature_attention_mask")
# Tokens of an answer where neither the caller nor the generation config sets a limit.
MOST_WRITTEN = 1024
# Prompts whose tokens are kept; rows may bring any number of different ones.
MOST_PREFIXES = 1024
# (embeddings (B, n, D), positions (B, n), mask (B, 1, n, keys), cache) -> hidden states (B, n, D)
ReadEmbeddings = Callable[[Tensor, Tensor, Tensor, DynamicCache | None], Tensor]


class PromptedAnswers(SpeechFamily):
    """Text as a prompt with a place for the audio, an answer, an end token; `__init__` calls `init_prompts`."""

    decodes_with_prompts = True

    def init_prompts(self, processor: Any, max_tokens: int) -> None:
        """Take tokenizer and marks from the processor.

        Args:
            max_tokens: positions of the language model.
        """
        self.tokenizer = processor.tokenizer
        self.audio_token: str = processor.audio_token
        self.audio_token_id: int = self.tokenizer.convert_tokens_to_ids(self.audio_token)
        self.end_token = self.tokenizer.eos_token_id
        self.max_tokens = max_tokens
        self.default_language: str | None = None
        self._prefixes_known: dict[tuple[str | None, str | None], list[int]] = {}
        # marks of the answer's own format are read before they are dropped
        self._unsaid = {self.end_token, self.audio_token_id, *self.tokenizer.all_special_ids}
        self._special = self._unsaid | special_ids(self.tokenizer)

    def __getstate__(self) -> dict[str, Any]:
        """Without the prefixes made so far, so that a family is the same whatever it has tokenized."""
        return {**self.__dict__, "_prefixes_known": {}}

    @abstractmethod
    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        """Everything before the answer, with one placeholder for the audio.

        Args:
            language: of the row, or the default.
            prompt: the row's own: an instruction, a question, context, hot words; None for the model's own request to
                transcribe.

        Raises:
            ValueError: a language this model does not know, or none where it needs one.
        """

    def prefix_ids(self, language: str | None, prompt: str | None) -> list[int]:
        """`prompt_text` as tokens; a family whose prompts come as tokens overrides this.

        Raises:
            ValueError: as of `prompt_text`.
        """
        return self._ids(self.prompt_text(language, prompt))

    def _request(self, **options: Any) -> str:
        """The processor's own request to transcribe, audio not expanded."""
        silence = np.zeros(self.sampling_rate, dtype=np.float32)
        request = self.processor.apply_transcription_request
        if "tokenize" in inspect.signature(request).parameters:
            (text,) = request(audio=silence, tokenize=False, **options)
            return text
        # older releases of transformers give no text, but tokens in which the audio has all of its places
        if more := (options.get("prompt") or "").count(self.audio_token):
            raise self._wrong_places(1 + more)
        ids = request(audio=silence, **options)["input_ids"][0].tolist()
        audio = ids.count(self.audio_token_id)
        place = ids.index(self.audio_token_id)
        return self.tokenizer.decode([*ids[: place + 1], *ids[place + audio :]])

    def _wrong_places(self, count: int) -> ValueError:
        return ValueError(
            f"the prompt has {count} places for audio, a row has one clip. Leave {self.audio_token} out of the row's "
            "prompt"
        )

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        if task not in (None, "transcribe"):
            raise ValueError(
                f"this model's only task is 'transcribe', not {task!r}; anything else is asked in the prompt. Write it "
                "as the row's prompt, and leave the task out"
            )
        prefix = self._prefix(language or self.default_language, prompt)
        if prefix.count(self.audio_token_id) != 1:
            raise self._wrong_places(prefix.count(self.audio_token_id))
        self._check_marks("text", self._ids(text), self._special)
        ids = [*prefix, *self.answer_ids(text), self.end_token]
        if len(ids) > self.max_tokens:
            raise ValueError(
                f"prompt, text and end make {len(ids)} tokens, the model has {self.max_tokens} positions, some of them "
                "for the audio. Cut the clip and its text into shorter pieces, or shorten prompt and history"
            )
        return TokenizedText(ids, len(prefix))

    def answer_ids(self, text: str) -> list[int]:
        """A transcript as the model writes it, without the end token."""
        return self._ids(text)

    def _check_marks(self, what: str, ids: list[int], marks: set[int]) -> None:
        if found := marks.intersection(ids):
            named = self.tokenizer.convert_ids_to_tokens(sorted(found))
            raise ValueError(f"the {what} contains {named}, which this model reads as marks. Remove them")

    def refuse_marks(self, what: str, text: str) -> None:
        self._check_marks(what, self._ids(text), self._special)

    def _prefix(self, language: str | None, prompt: str | None) -> list[int]:
        """The prompt's tokens; a template is rendered once for each language and prompt, not for each text."""
        known = self._prefixes_known.get((language, prompt))
        if known is None:
            if len(self._prefixes_known) >= MOST_PREFIXES:
                self._prefixes_known.clear()
            self._check_marks("prompt", self._ids(prompt or ""), self._special - {self.audio_token_id})
            known = self._prefixes_known[language, prompt] = self.prefix_ids(language, prompt)
        return known

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def set_defaults(self, *, language: str | None = None, task: str | None = None) -> None:
        if task not in (None, "transcribe"):
            raise ValueError(
                f"{type(self).__name__} has only the task 'transcribe', not {task!r}. Leave it out, and write prompts "
                "into the rows."
            )
        if language:
            self.prefix_ids(language, None)
            self.default_language = language

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return kept_texts(batch_tokens, keep, self._decode)

    def _decode(self, ids: list[int]) -> str:
        said = ids[: ids.index(self.end_token)] if self.end_token in ids else ids
        return self.tokenizer.decode([i for i in said if i not in self._unsaid]).strip()


def request_with_hotwords(request: str, hotwords: Sequence[str]) -> str:
    """A request, and on the next line a sentence that names the hot words.

    The sentence is ours, for models whose authors publish no form for hot words.
    """
    return f"{request}\nThese words may occur: {', '.join(hotwords)}."


def request_with_history(request: str, history: str) -> str:
    """A request, and on the next line what was said before the clip.

    The words are ours, for models whose authors publish no form for it.
    """
    return f"{request}\nJust before, this was said: {history}"


def context_with_history(context: str | None, history: str) -> str:
    """Free context, or None, and what was said before the clip on a line of its own."""
    return "\n".join([*([context] if context else []), history])


class AudioLLMFamily(PromptedAnswers, AutoregressiveFamily):
    """A stock model with `get_audio_features`, a language model and a head.

    The K answers of a clip share one pass of the tower and one of the prompt; their scores are exact.

    Adapters without `target_modules` go into the language model; the audio tower is left alone.

    On 8-bit and 4-bit bases, tower and projector keep full precision. In bfloat16 that costs Qwen2-Audio and GLM-ASR,
    which have 0.64 billion weights there, 0.9 GB more than 4 bits would. Rounding them would change every answer: 4
    bits moved the states of a trained whisper-tiny's encoder, which is built like these towers, by 18 % of their norm,
    and 8 bits by 3 %.
    """

    decodes_states = True
    adapter_targets = "decoder-linear"
    unquantised = (".*audio_tower", ".*projector", "lm_head")

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.extractor = getattr(processor, "audio_processor", None) or processor.feature_extractor
        self.sampling_rate = self.extractor.sampling_rate
        self.init_prompts(processor, config.get_text_config().max_position_embeddings)
        check_ids(base_model(model), {"audio_token_id": self.audio_token_id})

    def install(self, model: nn.Module) -> None:
        super().install(model)
        # beside the slow "eager" one, only this implementation takes a mask of what sees what
        self._masked_part(base_model(model)).set_attn_implementation("sdpa")

    def _masked_part(self, base: PreTrainedModel) -> PreTrainedModel:
        """The part that gets masks of what sees what: the language model, and here the audio tower with it."""
        return base

    # ---- data ----

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`input_features` (B, M, L), `audio_mask` (B, L), and `audio_tokens` (B,), the embeddings of each clip."""
        # one by one: padding beside a longer clip would change the last frames of a spectrogram
        heard = [self._hear(clip) for clip in clips]
        frames = [made["input_features"][0].mT for made in heard]
        masks = [next(made[name] for name in MASK_NAMES if name in made)[0] for made in heard]
        return {
            "input_features": pad_sequence(frames, batch_first=True).mT,
            "audio_mask": pad_sequence(masks, batch_first=True).long(),
            "audio_tokens": torch.tensor([int((made["input_ids"] == self.audio_token_id).sum()) for made in heard]),
        }

    def _hear(self, clip: np.ndarray) -> Mapping[str, Tensor]:
        """One clip as the processor makes it: `input_features` (1, M, L), their mask and `input_ids`."""
        asked = {"text": [self.audio_token], "sampling_rate": self.sampling_rate, "return_tensors": "pt"}
        return self.processor(audio=[clip], **asked)

    # ---- weights ----

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        inner = base_model(model).model
        return [*inner.audio_tower.parameters(), *inner.multi_modal_projector.parameters()]

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        """(B, S, D) audio embeddings, zero behind each clip's own."""
        embeddings = self._audio_embeddings(base, batch)
        return pad_sequence(list(embeddings.split(batch.tensors["audio_tokens"].tolist())), batch_first=True)

    def _audio_embeddings(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        """(sum of `audio_tokens`, D), clip after clip."""
        audio = batch.audio.to(base.dtype)
        return base.get_audio_features(audio, batch.audio_mask, return_dict=True).pooler_output

    def _embed(self, base: PreTrainedModel, ids: Tensor) -> Tensor:
        # a model that never reads its placeholder may have no embedding for it
        return base.get_input_embeddings()(ids.masked_fill(ids == self.audio_token_id, self.end_token))

    def _prefixes(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of the clips' prefixes with their audio in place (B, L, D), padded on the right, and lengths (B,).

        The K hypotheses of a clip have one prefix.
        """
        rows = []
        for b, (ids, length, audio, count) in enumerate(
            zip(
                batch.leading_tokens,
                prefix_lengths(batch).tolist(),
                states,
                batch.tensors["audio_tokens"].tolist(),
                strict=True,
            )
        ):
            prefix = self._filled(ids[:length], batch, b)
            written = self._embed(base, prefix)
            found = (prefix == self.audio_token_id).nonzero().flatten().tolist()
            place = found[0] if found else len(prefix)  # a placeholder of a dropped row has no prompt
            rows.append(torch.cat([written[:place], audio[:count].to(written.dtype), written[place + 1 :]]))
        lengths = torch.tensor([len(row) for row in rows], device=states.device)
        return pad_sequence(rows, batch_first=True), lengths

    def _filled(self, prefix: Tensor, batch: GroupBatch, b: int) -> Tensor:
        """(L,) ids of a prefix, with what only the clip tells of it written in; as they are by default."""
        return prefix

    def _read(
        self, base: PreTrainedModel, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache | None
    ) -> Tensor:
        decoder = base.get_decoder()
        out = decoder(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=mask,
            use_cache=cache is not None,
            **cache_argument(decoder, cache),
        )
        return out.last_hidden_state

    def _hidden(
        self, base: PreTrainedModel, batch: GroupBatch, states: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What predicts the C tokens behind each prefix: (B, K, C, D) states, tokens, which count, and (B,) starts."""
        prefix, lengths = self._prefixes(base, batch, states)
        starts, hypotheses = prefix_lengths(batch), batch.num_hypotheses
        kept = batch.keep.any(1) * torch.arange(1, batch.keep.shape[-1] + 1, device=starts.device)  # (B, T)
        count = max(1, int((kept.amax(1) - (starts - 1)).max()))
        # (B, C) places among `tokens` of the C tokens that are predicted, and whether they are there
        places = starts[:, None] + torch.arange(count, device=starts.device)
        inside = places < batch.tokens.shape[-1]
        places = places.clamp(max=batch.tokens.shape[-1] - 1)
        targets = batch.tokens.gather(-1, places[:, None].expand(-1, hypotheses, -1))
        keep = batch.keep.gather(-1, (places - 1)[:, None].expand(-1, hypotheses, -1)) & inside[:, None]
        return self._continue(base, prefix, lengths, targets[..., :-1]), targets, keep, starts

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        hidden, targets, keep, starts = self._hidden(base, batch, states)
        scores = score_tokens(hidden, base.get_output_embeddings(), targets, keep, states, temperature)
        return _in_place(scores, batch.keep, starts)

    def _rows(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        hidden, _, keep, _ = self._hidden(base, batch, states)
        return hidden[keep]

    def _project(self, base: PreTrainedModel, rows: Tensor) -> Tensor:
        return base.get_output_embeddings()(rows)

    def _continue(self, base: PreTrainedModel, prefix: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """(B, K, C - 1) tokens -> (B, K, C, D) hidden states, which predict what follows the prefix and each token."""
        clips, hypotheses, count = tokens.shape
        longest = prefix.shape[1]
        embeddings = torch.cat([prefix, self._embed(base, tokens.flatten(1)).to(prefix.dtype)], 1)
        positions = group_positions(lengths, longest, hypotheses, count)
        hidden = self._read(base, embeddings, positions, group_mask(lengths, longest, hypotheses, count), None)
        last = hidden[torch.arange(clips, device=hidden.device), lengths - 1]
        behind = hidden[:, longest:].unflatten(1, (hypotheses, count))
        return torch.cat([last[:, None, None].expand(-1, hypotheses, -1, -1), behind], 2)

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return self.max_tokens - states.shape[1]

    def _decoder(
        self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, hypotheses: int, room: int, temperature: float
    ) -> PrefixDecoder:
        prefix, lengths = self._prefixes(base, batch, states)

        def predict(hidden: Tensor) -> Tensor:
            return scaled_logits(base.get_output_embeddings()(hidden), temperature)

        return PrefixDecoder(
            lambda *given: self._read(base, *given),
            predict,
            lambda tokens: self._embed(base, tokens).to(prefix.dtype),
            prefix,
            lengths,
            prefix_lengths(batch),
            DynamicCache(config=base.config.get_text_config()),
        )

    def served_part(self, base: PreTrainedModel) -> ServedPart:
        """The language model alone: the audio stands among the embeddings of its prompt."""
        config = copy.deepcopy(base.config.get_text_config())
        config.tie_word_embeddings = False  # the head is written too
        names = {id(module): name for name, module in base.named_modules()}
        head = base.get_output_embeddings()
        return ServedPart(
            config,
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type],
            {f"{names[id(base.get_decoder())]}.": "model.", f"{names[id(head)]}.": "lm_head."},
            self.max_tokens,
            True,
        )

    def engine_prompts(self, model: nn.Module, batch: GroupBatch, states: Tensor) -> list[EnginePrompt]:
        prefix, lengths = run_inside(model, lambda base: self._prefixes(base, batch, states))
        rows = zip(batch.leading_tokens.tolist(), prefix_lengths(batch).tolist(), prefix, lengths.tolist(), strict=True)
        return [EnginePrompt(ids[:start], own[:length]) for ids, start, own, length in rows]

    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        prompts: Sequence[str | None] | None = None,
        **generation: Any,
    ) -> list[str]:
        """Greedy or beam search by transformers' `generate`, each clip behind its own prompt."""
        base = base_model(model)
        rows = len(next(iter(audio.values())))
        asked = [
            self.tokenize("", language=language, task=task, prompt=prompt)
            for language, task, prompt in zip(
                *(given or [None] * rows for given in (languages, tasks, prompts)), strict=True
            )
        ]
        longest = max(len(text.ids) for text in asked)
        tokens = torch.full((rows, 1, longest), self.end_token)
        keep = torch.zeros((rows, 1, longest - 1), dtype=torch.bool)
        for b, text in enumerate(asked):
            tokens[b, 0, : len(text.ids)] = torch.tensor(text.ids)
            keep[b, 0, text.first_kept - 1] = True
        batch = GroupBatch(
            **audio, tokens=tokens.to(base.device), keep=keep.to(base.device), row_ids=torch.arange(rows)
        )
        with torch.no_grad():
            prefix, lengths = self._prefixes(base, batch, self._states(base, batch))
            # generate wants the padding in front
            left = torch.stack([row.roll(len(row) - int(n), 0) for row, n in zip(prefix, lengths, strict=True)])
            places = torch.arange(prefix.shape[1], device=prefix.device)
            mask = (places >= prefix.shape[1] - lengths[:, None]).long()
            room = min(MOST_WRITTEN, self.max_tokens - left.shape[1])
            with one_transcript_each(base, generation, room=room, eos_token_id=self.end_token) as others:
                ids = self._generate(base, inputs_embeds=left, attention_mask=mask, **others)
        return [self._decode(row) for row in ids.tolist()]

    def _generate(self, base: PreTrainedModel, **given: Any) -> Tensor:
        """Token ids that transformers writes behind embeddings."""
        return base.generate(**given)


def _in_place(scores: GroupScores, keep: Tensor, starts: Tensor) -> GroupScores:
    """(B, K, C) values of the tokens behind each prefix -> (B, K, T), where `keep` has them."""
    count = scores.logps.shape[-1]
    places = torch.arange(keep.shape[-1], device=keep.device) - (starts[:, None] - 1)  # (B, T)
    index = places.clamp(0, count - 1)[:, None].expand(-1, keep.shape[1], -1)

    def place(values: Tensor) -> Tensor:
        return torch.where(keep, values.gather(-1, index), torch.zeros((), dtype=values.dtype, device=values.device))

    names = ("logps", "entropy", "mean_logits", "is_top1", "mean_logps")
    named = {name: place(getattr(scores, name)) for name in names}
    return GroupScores(**named, keep=keep, states=scores.states)


# ---- K continuations of one prefix ----


def prefix_positions(lengths: Tensor, longest: int) -> Tensor:
    """(B, L): 0, 1, 2, ..., also in the padding."""
    return torch.arange(longest, device=lengths.device).expand(len(lengths), -1)


def prefix_mask(lengths: Tensor, longest: int) -> Tensor:
    """(B, 1, L, L) bool: causal, without the keys of the padding. Padding sees itself, since a softmax over nothing is
    NaN."""
    places = torch.arange(longest, device=lengths.device)
    causal = places[:, None] >= places
    heard = (places < lengths[:, None])[:, None] | torch.eye(longest, dtype=torch.bool, device=lengths.device)
    return (causal & heard)[:, None]


def group_positions(lengths: Tensor, longest: int, hypotheses: int, tokens: int) -> Tensor:
    """(B, L + K*C) positions of a whole row."""
    behind = lengths[:, None, None] + torch.arange(tokens, device=lengths.device)
    return torch.cat([prefix_positions(lengths, longest), behind.expand(-1, hypotheses, -1).flatten(1)], 1)


def group_mask(lengths: Tensor, longest: int, hypotheses: int, tokens: int) -> Tensor:
    """(B, 1, L + K*C, L + K*C) bool, True where a query sees a key.

    Args:
        lengths: (B,) tokens of each prefix.
        longest: L.
        hypotheses, tokens: K and C.
    """
    total = longest + hypotheses * tokens
    mask = torch.zeros((len(lengths), total, total), dtype=torch.bool, device=lengths.device)
    mask[:, :longest, :longest] = prefix_mask(lengths, longest)[:, 0]
    mask[:, longest:, :longest] = (torch.arange(longest, device=lengths.device) < lengths[:, None])[:, None]
    own_past = torch.ones((tokens, tokens), dtype=torch.bool, device=lengths.device).tril()
    mask[:, longest:, longest:] = torch.block_diag(*[own_past] * hypotheses).bool()
    return mask[:, None]


class PrefixDecoder:
    """Continues K hypotheses of each clip token by token, for `sample_from` and `beam_search`.

    The prefixes are read when the decoder is built, once for each clip. Every step appends K tokens to the cache, and a
    mask keeps the continuations apart; the prefix's keys and values are held once.

    Args:
        read: runs the language model; see `ReadEmbeddings`.
        predict: hidden states (..., D) -> logits (..., V).
        embed: token ids -> embeddings.
        prefix: (B, L, D) embeddings, padded on the right.
        lengths: (B,) tokens of each prefix.
        starts: (B,) position among the batch's `tokens` at which a clip's continuation begins.
        cache: an empty cache of the language model.
    """

    def __init__(
        self,
        read: ReadEmbeddings,
        predict: Callable[[Tensor], Tensor],
        embed: Callable[[Tensor], Tensor],
        prefix: Tensor,
        lengths: Tensor,
        starts: Tensor,
        cache: DynamicCache,
    ):
        self._read, self._predict, self._embed = read, predict, embed
        self._lengths, self._starts, self._longest, self._cache = lengths, starts, prefix.shape[1], cache
        self._written: list[int] = []  # positions among `tokens` that were appended to the cache
        hidden = read(
            prefix, prefix_positions(lengths, self._longest), prefix_mask(lengths, self._longest), self._cache
        )
        last = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
        self._first_logits = predict(last)  # (B, V)

    def __call__(self, tokens: Tensor, start: int) -> Tensor:
        """(B, K, n) tokens, the first of them at position `start` -> (B, K, V) logits of the token that follows.

        The result is meaningless, and not used, for clips whose prefix goes on behind these tokens.
        """
        _, hypotheses, count = tokens.shape
        first = self._first_logits[:, None].expand(-1, hypotheses, -1)
        place = start + count - 1
        if not bool((place >= self._starts).any()):
            return first
        assert count == 1, "continuations grow token by token"
        logits = self._step(tokens.squeeze(-1), place)
        return torch.where((self._starts == place + 1)[:, None, None], first, logits)

    def _step(self, tokens: Tensor, place: int) -> Tensor:
        hypotheses = tokens.shape[1]
        self._written.append(place)
        positions = (self._lengths + place - self._starts).clamp(min=0)[:, None].expand(-1, hypotheses)
        hidden = self._read(self._embed(tokens), positions, self._mask(hypotheses), self._cache)
        return self._predict(hidden)

    def _mask(self, hypotheses: int) -> Tensor:
        """(B, 1, K, L + steps*K): the prefix, and of every step so far the hypothesis' own token."""
        device = self._lengths.device
        prefix = torch.arange(self._longest, device=device) < self._lengths[:, None]  # (B, L)
        # a step that falls into a clip's prefix has written what this clip must not see
        own = torch.tensor(self._written, device=device) >= self._starts[:, None]  # (B, steps)
        own[:, -1] = True  # a query sees itself at least
        same = torch.eye(hypotheses, dtype=torch.bool, device=device)
        steps = (own[:, None, :, None] & same[:, None, :]).flatten(2)  # (B, K, steps*K)
        return torch.cat([prefix[:, None].expand(-1, hypotheses, -1), steps], -1)[:, None]

    def reorder(self, parents: Tensor) -> None:
        """Hypothesis k of clip b goes on from what `parents[b, k]` has read; (B, K) long."""
        hypotheses = parents.shape[1]
        for layer in self._cache.layers:
            for states in (layer.keys, layer.values):
                grown = states[:, :, self._longest :].unflatten(2, (-1, hypotheses))  # (B, H, steps, K, d)
                grown.copy_(grown.take_along_dim(parents[:, None, None, :, None], 3))
