"""The four ways of scoring that scoring.py compares, on one set of random weights and data; do they agree?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from counting import Shape
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from audiorl.batch import PLACEHOLDER_ROW_ID, GroupBatch, pad_tokens
from audiorl.models import SpeechFamily, speech_family
from audiorl.models.head import score_tokens
from audiorl.models.whisper_text import END, NO_TIMESTAMPS, START

PREFIX_TOKENS = 4
BETA = 0.1  # of the preference loss
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4


# ---- the four ways ----


def full_forwards(model: WhisperForConditionalGeneration, batch: GroupBatch) -> Tensor:
    """(B, K, T) log-probabilities from K calls with B rows."""
    columns = []
    for k in range(batch.num_hypotheses):
        column = slice(k, k + 1)
        out = model.model(input_features=batch.audio, decoder_input_ids=batch.tokens[:, k, :-1], use_cache=False)
        columns.append(_head(model, out.last_hidden_state, batch.tokens[:, column], batch.keep[:, column], batch.audio))
    return torch.cat(columns, 1)


def audio_repeated(model: WhisperForConditionalGeneration, batch: GroupBatch) -> Tensor:
    """(B, K, T) log-probabilities from one call with B * K rows of audio."""
    audio = batch.audio.repeat_interleave(batch.num_hypotheses, 0)
    out = model.model(input_features=audio, decoder_input_ids=batch.tokens[..., :-1].flatten(0, 1), use_cache=False)
    return _head(model, out.last_hidden_state, batch.tokens, batch.keep, audio)


def states_repeated(model: WhisperForConditionalGeneration, batch: GroupBatch) -> Tensor:
    """(B, K, T) log-probabilities from B rows through the encoder and B * K through the decoder."""
    states = model.model.encoder(batch.audio).last_hidden_state
    out = model.model(
        encoder_outputs=(states.repeat_interleave(batch.num_hypotheses, 0),),
        decoder_input_ids=batch.tokens[..., :-1].flatten(0, 1),
        use_cache=False,
    )
    return _head(model, out.last_hidden_state, batch.tokens, batch.keep, states)


def _head(
    model: WhisperForConditionalGeneration, hidden: Tensor, tokens: Tensor, keep: Tensor, states: Tensor
) -> Tensor:
    hidden = hidden.unflatten(0, tokens.shape[:2])
    return score_tokens(hidden, model.get_output_embeddings(), tokens[..., 1:], keep, states, 1.0).logps


class Row(NamedTuple):
    """One line of the table."""

    way: str
    checkpointing: bool = False

    @property
    def name(self) -> str:
        return self.way + (" + checkpointing" if self.checkpointing else "")


STOCK_WAYS: dict[str, Callable[[WhisperForConditionalGeneration, GroupBatch], Tensor]] = {
    "forwards": full_forwards,
    "audio": audio_repeated,
    "states": states_repeated,
}
ROWS = (*(Row(way) for way in STOCK_WAYS), Row("groups"), Row("groups", checkpointing=True))


# ---- weights and data, made from a seed ----


class Setting(NamedTuple):
    """What all ways of one comparison share."""

    shape: Shape
    clips: int
    hypotheses: int
    tokens: int
    device: str
    precision: str


def build_model(shape: Shape) -> WhisperForConditionalGeneration:
    """Random weights; the same for the same shape."""
    config = WhisperConfig(
        vocab_size=shape.vocabulary,
        num_mel_bins=shape.mel_bins,
        d_model=shape.width,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=shape.feed_forward,
        decoder_ffn_dim=shape.feed_forward,
        max_source_positions=shape.positions,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
        use_cache=False,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    # in training mode, because gradient checkpointing is ignored otherwise; dropout is 0 in this config
    model = WhisperForConditionalGeneration(config).train()
    model.generation_config.is_multilingual = False  # the stand-in of a tokenizer has no languages
    return model


def build_batch(setting: Setting) -> GroupBatch:
    """Random audio; hypotheses of three quarters of the length to all of it, the first of a clip longest."""
    shape, clips, hypotheses = setting.shape, setting.clips, setting.hypotheses
    generator = torch.Generator().manual_seed(1)
    shortest = max(PREFIX_TOKENS + 2, (3 * setting.tokens) // 4)
    lengths = torch.randint(shortest, setting.tokens + 1, (clips, hypotheses), generator=generator)
    lengths[:, 0] = setting.tokens
    sequences = [
        [torch.randint(1, shape.vocabulary, (length + 1,), generator=generator).tolist() for length in row]
        for row in lengths.tolist()
    ]
    tokens, keep = pad_tokens(sequences, [[PREFIX_TOKENS] * hypotheses] * clips, pad=0)
    return GroupBatch(
        input_features=torch.randn(clips, shape.mel_bins, 2 * shape.positions, generator=generator),
        tokens=tokens,
        keep=keep,
        row_ids=torch.full((clips,), PLACEHOLDER_ROW_ID),
    )


def group_family(model: WhisperForConditionalGeneration, shape: Shape) -> SpeechFamily:
    """The family with the least of a processor: no text is read here."""
    no_timestamps = getattr(model.generation_config, "no_timestamps_token_id", 2)
    vocabulary = {START: 1, END: 0, NO_TIMESTAMPS: no_timestamps}
    processor = SimpleNamespace(
        feature_extractor=WhisperFeatureExtractor(shape.mel_bins, chunk_length=shape.positions // 50),
        tokenizer=SimpleNamespace(get_vocab=lambda: vocabulary, all_special_ids=[*vocabulary.values()]),
    )
    return speech_family(model, processor)


def enable_checkpointing(model: WhisperForConditionalGeneration) -> None:
    # newer transformers deprecate the name that older ones know it by
    name = "activation_checkpointing_enable"
    enable = getattr(model, name) if hasattr(model, name) else model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def loss_of(logps: Tensor) -> Tensor:
    """A scalar from (B, K, T) log-probabilities, zero where they do not count.

    K = 2: -log sigmoid(beta * (first - second)), the preference loss with a reference of zero. Other K: minus
    the weighted sum of all log-probabilities with weights 1, 1/2, ..., 1/K. The mean over clips of either.
    """
    sequences = logps.sum(-1)
    if sequences.shape[1] == 2:
        return -nn.functional.logsigmoid(BETA * (sequences[:, 0] - sequences[:, 1])).mean()
    weights = 1 / torch.arange(1, sequences.shape[1] + 1, device=logps.device, dtype=sequences.dtype)
    return -(sequences * weights).sum(1).mean()


class ScoringTask:
    """One way of scoring, ready to step; see measuring.Task."""

    def __init__(self, row: Row, setting: Setting):
        self.setting = setting
        self.model = self.build(row)
        self.set_batch(setting)
        self.loss: Tensor | None = None
        if row.checkpointing:
            enable_checkpointing(self.model)
        if row.way == "groups":
            family = group_family(self.model, setting.shape)
            self.score = lambda: family.score_groups(self.model, self.batch).logps
        elif row.way in STOCK_WAYS:
            self.score = lambda: STOCK_WAYS[row.way](self.model, self.batch)

    def build(self, row: Row) -> nn.Module:
        return build_model(self.setting.shape).to(self.setting.device)

    def set_batch(self, setting: Setting) -> None:
        batch = GroupBatch({key: value.to(setting.device) for key, value in build_batch(setting).items()})
        self.batch = batch.replace(input_features=batch.audio.to(torch.bfloat16)) if self.half else batch

    def step_loss(self) -> Tensor:
        return loss_of(self.score().float())

    def check(self, gradients: Path) -> None:
        """A float32 step whose loss and gradients go to a file; then the precision that is measured."""
        torch.backends.cudnn.allow_tf32 = False
        self.run()
        found = {name: weight.grad for name, weight in self.model.named_parameters() if weight.grad is not None}
        save_file({**found, "loss": torch.tensor(self.finish())}, gradients)
        found.clear()
        self.to_precision()

    def to_precision(self) -> None:
        """Leave float32 for the precision that is measured."""
        self.half = self.setting.precision == "bfloat16"
        self.autocast = self.setting.precision == "autocast"
        if self.half:
            self.model.to(torch.bfloat16)
            self.set_batch(self.setting)

    autocast = half = False

    def run(self) -> None:
        precision = torch.autocast(self.setting.device, torch.bfloat16) if self.autocast else nullcontext()
        with precision:
            self.loss = self.step_loss()
        self.loss.backward()

    def finish(self) -> float:
        assert self.loss is not None
        value = self.loss.item()
        self.loss = None
        self.model.zero_grad(set_to_none=True)
        return value


def prepare(row: Row, setting: Setting, gradients: Path) -> ScoringTask:
    task = ScoringTask(row, setting)
    task.check(gradients)
    return task


# ---- do they agree ----


class Agreement(NamedTuple):
    """How far a way is from K full forwards."""

    loss: float  # |difference| / |loss|
    gradient: float  # the largest over all parameters of max |difference| / max |gradient|
    worst_parameter: str


def agreement(found: Path, expected: Path) -> Agreement:
    """Compare the files that `ScoringTask.check` wrote.

    Raises:
        RuntimeError: the two are not the same computation.
    """
    with safe_open(found, "pt") as ours, safe_open(expected, "pt") as theirs:
        if set(ours.keys()) != set(theirs.keys()):
            odd = sorted(set(ours.keys()) ^ set(theirs.keys()))
            raise RuntimeError(f"Only one of {found.stem} and {expected.stem} gave gradients to {odd}.")
        errors = {}
        for name in theirs.keys():
            ours_now, theirs_now = ours.get_tensor(name), theirs.get_tensor(name)
            errors[name] = ((ours_now - theirs_now).abs().max() / theirs_now.abs().max().clamp(min=1e-30)).item()
    loss = errors.pop("loss")
    worst = max(errors, key=errors.__getitem__)
    if not (loss <= LOSS_TOLERANCE and errors[worst] <= GRADIENT_TOLERANCE):
        raise RuntimeError(
            f"{found.stem} disagrees with {expected.stem}: the loss is off by {loss:.1e} (allowed "
            f"{LOSS_TOLERANCE:.0e}), the gradient of {worst} by {errors[worst]:.1e} (allowed "
            f"{GRADIENT_TOLERANCE:.0e}), relative. One of the ways computes something else; its times mean "
            "nothing until it is mended."
        )
    return Agreement(loss, errors[worst], worst)
