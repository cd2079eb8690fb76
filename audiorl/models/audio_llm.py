"""Audio language models: an audio tower whose output stands among a prompt's tokens, and a decoder-only model behind.

`tokens` of a batch hold the prompt with one placeholder for the audio; where the model is run, the placeholder gives
way to the clip's audio embeddings. The tower runs once for each clip, the prompt is read once for each clip, and the K
answers are continuations of it (`shared_prefix.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from audiorl.batch import GroupBatch, GroupScores
from audiorl.models.autoregressive import AutoregressiveFamily
from audiorl.models.forward import base_model
from audiorl.models.grouped_attention import cache_argument
from audiorl.models.head import at_least_float32, score_tokens
from audiorl.models.prompted_answers import PromptedAnswers
from audiorl.models.sampling import prefix_lengths
from audiorl.models.shared_prefix import PrefixDecoder, group_mask, group_positions

# What processors call the mask of mel frames.
MASK_NAMES = ("input_features_mask", "feature_attention_mask")


class AudioLLMFamily(PromptedAnswers, AutoregressiveFamily):
    """A stock model with `get_audio_features`, a language model and a head.

    Shares by continuation: one tower pass and one prompt pass for each clip; exact.

    Adapters without `target_modules` go into the language model, the audio tower is left alone.

    On 8-bit and 4-bit bases tower and projector stay whole. In bfloat16 that costs Qwen2-Audio and GLM-ASR, which have
    0.64 billion weights there, 0.9 GB more than 4 bits. Rounding them would touch every answer: 4 bits moved the states
    of a trained whisper-tiny's encoder, which these towers are made like, by 18 % of their norm, 8 bits by 3 %.
    """

    adapter_targets = "decoder-linear"
    unquantised = (".*audio_tower", ".*projector", "lm_head")

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.extractor = getattr(processor, "audio_processor", None) or processor.feature_extractor
        self.sampling_rate = self.extractor.sampling_rate
        self.init_prompts(processor, config.get_text_config().max_position_embeddings)

    def install(self, model: nn.Module) -> None:
        super().install(model)
        # the one implementation beside the slow one that takes a mask of what sees what
        self._masked_part(base_model(model)).set_attn_implementation("sdpa")

    def _masked_part(self, base: PreTrainedModel) -> PreTrainedModel:
        """What is given masks that say what sees what: the language model, and here the audio tower with it."""
        return base

    # ---- data ----

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`input_features` (B, M, L), `audio_mask` (B, L), and `audio_tokens` (B,), the embeddings of each clip."""
        # one by one: next to the padding of a longer neighbour the last frames of a spectrogram are others
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
        return pad_sequence(list(embeddings.split(batch["audio_tokens"].tolist())), batch_first=True)

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
        for ids, length, audio, count in zip(
            batch.tokens[:, 0], prefix_lengths(batch).tolist(), states, batch["audio_tokens"].tolist(), strict=True
        ):
            written = self._embed(base, ids[:length])
            found = (ids[:length] == self.audio_token_id).nonzero().flatten().tolist()
            place = found[0] if found else length  # the row that stands in for a dropped one has no prompt
            rows.append(torch.cat([written[:place], audio[:count].to(written.dtype), written[place + 1 :]]))
        lengths = torch.tensor([len(row) for row in rows], device=states.device)
        return pad_sequence(rows, batch_first=True), lengths

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

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
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
        hidden = self._continue(base, prefix, lengths, targets[..., :-1])
        scores = score_tokens(hidden, base.get_output_embeddings(), targets, keep, states, temperature)
        return _in_place(scores, batch.keep, starts)

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
            logits = at_least_float32(base.get_output_embeddings()(hidden))
            return logits if temperature == 1.0 else logits / temperature

        return PrefixDecoder(
            lambda *given: self._read(base, *given),
            predict,
            lambda tokens: self._embed(base, tokens).to(prefix.dtype),
            prefix,
            lengths,
            prefix_lengths(batch),
            DynamicCache(config=base.config.get_text_config()),
        )

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
        rows = len(audio["input_features"])
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
            prefix, lengths = self._prefixes(base, batch, self._encode(base, batch))
            # generate wants the padding in front
            left = torch.stack([row.roll(len(row) - int(n), 0) for row, n in zip(prefix, lengths, strict=True)])
            places = torch.arange(prefix.shape[1], device=prefix.device)
            mask = (places >= prefix.shape[1] - lengths[:, None]).long()
            ids = base.generate(inputs_embeds=left, attention_mask=mask, **generation)
        return [self._decode(row) for row in ids.tolist()]


def _in_place(scores: GroupScores, keep: Tensor, starts: Tensor) -> GroupScores:
    """(B, K, C) values of the tokens behind each prefix -> (B, K, T), where `keep` has them."""
    count = scores.logps.shape[-1]
    places = torch.arange(keep.shape[-1], device=keep.device) - (starts[:, None] - 1)  # (B, T)
    index = places.clamp(0, count - 1)[:, None].expand(-1, keep.shape[1], -1)

    def place(values: Tensor) -> Tensor:
        return torch.where(keep, values.gather(-1, index), torch.zeros((), dtype=values.dtype, device=values.device))

    named = {name: place(getattr(scores, name)) for name in ("logps", "entropy", "mean_logits", "is_top1")}
    return GroupScores(**named, keep=keep, states=scores.states)
