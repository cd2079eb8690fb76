"""Encoder-decoder speech models whose decoder takes positions: what Whisper, Moonshine and Canary share.

The K hypotheses of a clip lie side by side on the decoder's token axis, (B, K*T); grouped attention keeps them apart
and cross-attention reads the clip's states once (`grouped_attention.py`). `PlainText` at the end is the text of models
that take neither a prompt nor timestamps.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from audiorl.batch import GroupBatch, GroupScores, kept_texts
from audiorl.models.family import AutoregressiveFamily, TokenizedText
from audiorl.models.family_data import check_vocabulary, special_ids
from audiorl.models.forward import base_model, call_module
from audiorl.models.grouped_attention import (
    ENGINES,
    GroupedDecoder,
    cache_argument,
    ignored_mask,
    use_grouped_attention,
)
from audiorl.models.head import scaled_logits, score_tokens


class EncoderDecoderFamily(AutoregressiveFamily):
    """A stock model with `get_encoder`, `get_decoder` and a head; the decoder takes `position_ids`."""

    engines = ENGINES
    # whether the decoder does more with the states than to make keys and values of them
    works_on_states = False

    def install(self, model: nn.Module) -> None:
        super().install(model)
        use_grouped_attention(base_model(model))

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).get_encoder().parameters())

    def _audio_seen(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor | None:
        """(B, S) bool, which states the decoder may look at; None for all of them."""
        return None

    def _decode(
        self,
        base: PreTrainedModel,
        states: Tensor,
        audio_seen: Tensor | None,
        tokens: Tensor,
        positions: Tensor,
        cache: Cache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(B, K, T) tokens at (B, K, T) positions -> (B, K, T, D)."""
        clips, hypotheses, length = tokens.shape
        # a cache grows with every token, which compiled code would have to follow
        decode = self.backbone.decoder if cache is None else call_module
        if self.works_on_states and cache is not None and cache.is_updated.get(0, False):
            # keys and values of the audio are in the cache: all else would be computed again for nothing
            states, audio_seen = states[:, :1], None if audio_seen is None else audio_seen[:, None, None]
        masks: dict[str, Any] = {} if audio_seen is None else {"encoder_attention_mask": audio_seen}
        decoder = base.get_decoder()
        out = decode(
            decoder,
            input_ids=tokens.reshape(clips, hypotheses * length),
            position_ids=positions.reshape(clips, hypotheses * length),
            attention_mask=ignored_mask(tokens.device) if mask is None else mask,
            encoder_hidden_states=states,
            use_cache=cache is not None,
            group_size=hypotheses,
            **cache_argument(decoder, cache),
            **masks,
        )
        return out.last_hidden_state.unflatten(1, (hypotheses, length))

    def _hidden(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        """(B, K, T, D) what the decoder makes of the hypotheses."""
        inputs = batch.tokens[..., :-1]
        positions = torch.arange(inputs.shape[-1], device=inputs.device).expand_as(inputs)
        return self._decode(base, states, self._audio_seen(base, batch, states), inputs, positions)

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        hidden, head = self._hidden(base, batch, states), base.get_output_embeddings()
        return score_tokens(hidden, head, batch.tokens[..., 1:], batch.keep, states, temperature)

    def _rows(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        return self._hidden(base, batch, states)[batch.keep]

    def _project(self, base: PreTrainedModel, rows: Tensor) -> Tensor:
        return base.get_output_embeddings()(rows)

    def _decoder(
        self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, hypotheses: int, room: int, temperature: float
    ) -> GroupedDecoder:
        head = base.get_output_embeddings()
        audio_seen = self._audio_seen(base, batch, states)

        def predict(tokens: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
            hidden = self._decode(base, states, audio_seen, tokens, positions, cache, mask)
            return scaled_logits(head(hidden[:, :, -1]), temperature)

        layers = len(base.get_decoder().layers)
        return GroupedDecoder(predict, layers=layers, hypotheses=hypotheses, room=room, engine=self.engine)


class PlainText:
    """start token, transcript, end token: no language, no task.

    Args:
        tokenizer: the checkpoint's.
        start, end: ids of the token the decoder begins with and of the one that ends a transcript.
        max_tokens: positions of the decoder.
    """

    def __init__(self, tokenizer: Any, *, start: int, end: int, max_tokens: int):
        self.tokenizer, self.start, self.end, self.max_tokens = tokenizer, start, end, max_tokens
        self._special = {start, end, *special_ids(tokenizer)}
        if tokenizer.eos_token_id not in (None, end):
            raise ValueError(
                f"The processor belongs to another checkpoint: its transcripts end with token {tokenizer.eos_token_id} "
                f"({tokenizer.eos_token!r}), the model's with {end}. Load the processor of the model's own checkpoint."
            )

    def tokenize(self, text: str, *, task: str | None = None, prompt: str | None = None) -> TokenizedText:
        """See `SpeechFamily.tokenize`."""
        if task not in (None, "transcribe"):
            raise ValueError(f"this model's only task is 'transcribe', not {task!r}. Remove the row's task, or the row")
        if prompt:
            raise ValueError("this model's decoder takes no prompt. Remove the row's prompt")
        return self.behind([self.start], text)

    def behind(self, prefix: list[int], text: str) -> TokenizedText:
        """A prefix, the transcript and the end token.

        Raises:
            ValueError: the transcript holds marks or is longer than the decoder.
        """
        transcript = self.tokenizer(text, add_special_tokens=False).input_ids
        if self.tokenizer.unk_token_id in transcript:
            raise ValueError(
                "the transcript has characters that this model's vocabulary lacks. Replace them, or remove the row"
            )
        if found := self._special.intersection(transcript):
            marks = self.tokenizer.convert_ids_to_tokens(sorted(found))
            raise ValueError(f"the transcript contains {marks}, which this model reads as marks. Remove them")
        ids = [*prefix, *transcript, self.end]
        # the decoder reads all but the last token
        if len(ids) > self.max_tokens + 1:
            raise ValueError(
                f"the transcript makes {len(ids)} tokens with its start and end, the decoder has {self.max_tokens} "
                "positions. Cut the clip and its transcript into shorter pieces"
            )
        return TokenizedText(ids, len(prefix))

    def search_ids(self, prefix: int = 1) -> dict[str, int]:
        """What a generation config lacks where it is old or missing: the ids, and the room behind a prefix."""
        return {
            "room": self.max_tokens - prefix,
            "decoder_start_token_id": self.start,
            "eos_token_id": self.end,
        }

    def decode(self, ids: list[int]) -> str:
        """A transcript without marks, from ids that may hold the start, the end and what follows it."""
        said = ids[1:] if ids[:1] == [self.start] else ids
        said = said[: said.index(self.end)] if self.end in said else said
        said = [i for i in said if i not in self._special]
        return self.tokenizer.decode(said, clean_up_tokenization_spaces=False).strip()


class PlainTranscripts:
    """The text side of a family that uses `PlainText`; a row's `language` changes nothing."""

    end_token: int

    def init_text(self, tokenizer: Any, config: Any, max_tokens: int) -> None:
        """Set `plain_text` and `end_token`; see `PlainText`."""
        check_vocabulary(tokenizer, config.vocab_size)
        # where a config names no start token, generate() takes this one, too
        start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
        end = config.eos_token_id
        self.plain_text = PlainText(tokenizer, start=start, end=end, max_tokens=max_tokens)
        self.end_token = end

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        return self.plain_text.tokenize(text, task=task, prompt=prompt)

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return kept_texts(batch_tokens, keep, self.plain_text.decode)


def with_fewer_layers(model: PreTrainedModel, encoder_layers: int, decoder_layers: int) -> PreTrainedModel:
    """A smaller model from a larger one's layers, spread evenly, first and last among them: a student to begin with.

    Args:
        model: an encoder-decoder whose config has `encoder_layers` and `decoder_layers`; it stays as it is.
        encoder_layers, decoder_layers: how many to keep, 1 ... all.

    Returns:
        A model of the same class, with copies of the weights.

    Raises:
        ValueError: more layers than there are, none, or a model of another kind.

    Source: Gandhi et al. 2023 (Distil-Whisper), arXiv:2311.00430, section 4.1, which keeps all of the encoder.
    """
    config = copy.deepcopy(model.config)
    kept = {}
    for part, count in (("encoder", encoder_layers), ("decoder", decoder_layers)):
        there = getattr(config, f"{part}_layers", None)
        if there is None or not 1 <= count <= there:
            has = f"{there} {part} layers" if there else f"no {part}_layers in its config"
            raise ValueError(
                f"{count} {part} layers were asked for, and this model has {has}. Ask for 1 to all of them."
            )
        kept[part] = [round(place * (there - 1) / max(count - 1, 1)) for place in range(count)]
        setattr(config, f"{part}_layers", count)
    if hasattr(config, "num_hidden_layers"):
        config.num_hidden_layers = encoder_layers
    student = type(model)(config).to(model.dtype)
    own = model.state_dict()

    def name_in_model(name: str) -> str:
        return re.sub(
            r"(encoder|decoder)\.layers\.(\d+)", lambda m: f"{m[1]}.layers.{kept[m[1]][int(m[2])]}", name, count=1
        )

    student.load_state_dict({name: own[name_in_model(name)] for name in student.state_dict()})
    student.generation_config = copy.deepcopy(model.generation_config)
    return student.eval()
