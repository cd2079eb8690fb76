"""The ways of sampling that rollout.py compares, on one set of random weights and data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from counting import Shape, Sharing, forward_flops
from scoring_ways import build_model, group_family
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, WhisperForConditionalGeneration

from audiorl.batch import GroupBatch
from audiorl.models import disable_dropout
from audiorl.models.sampling import rollout_noise

END, START = 0, 1
PREFIX_TOKENS = 2  # the start and "no timestamps", as Whisper's generate writes it for an English-only checkpoint
NEVER = 20.0  # how far the end token's logit is pushed down; the others stay as they are
# way -> (is the audio encoded K times, are keys and values projected K times)
SHARED = {"groups": (False, False), "generate": (False, True), "whisper": (True, True)}


def no_timestamps(shape: Shape) -> int:
    """The last token: Whisper's generate takes all behind it for timestamps and cuts hypotheses there."""
    return shape.vocabulary - 1


class Setting(NamedTuple):
    """What all ways of one comparison share."""

    shape: Shape
    clips: int
    hypotheses: int
    tokens: int
    device: str
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "float32" else torch.bfloat16


def endless_model(setting: Setting) -> WhisperForConditionalGeneration:
    """Random weights that never draw the end token, so that all hypotheses of all ways are equally long.

    One direction of the decoder's states is constant, large, and read by the end token alone.
    """
    model = build_model(setting.shape).eval()
    embedding, norm = model.get_input_embeddings().weight.data, model.get_decoder().layer_norm
    norm.weight.data[0], norm.bias.data[0] = 0.0, 1.0
    embedding[:, 0] = 0.0
    embedding[END, 0] = -NEVER
    disable_dropout(model)
    model.generation_config = GenerationConfig(
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
        decoder_start_token_id=START,
        no_timestamps_token_id=no_timestamps(setting.shape),
        is_multilingual=False,
        return_timestamps=False,
    )
    return model.to(setting.device, setting.dtype)


def prefix_batch(setting: Setting) -> GroupBatch:
    """Random audio, and the prefix that sampling starts from."""
    generator = torch.Generator().manual_seed(1)
    shape, clips = setting.shape, setting.clips
    tokens = torch.tensor([START, no_timestamps(shape), END]).repeat(clips, 1, 1)
    keep = torch.tensor([False, True]).repeat(clips, 1, 1)
    audio = torch.randn(clips, shape.mel_bins, 2 * shape.positions, generator=generator).to(setting.dtype)
    batch = GroupBatch(input_features=audio, tokens=tokens, keep=keep, row_ids=torch.arange(clips))
    return GroupBatch({key: value.to(setting.device) for key, value in batch.items()})


def settings_of(setting: Setting) -> dict[str, float | int | bool]:
    """Sampling at temperature 1 from all tokens, T of them."""
    return {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "num_return_sequences": setting.hypotheses,
        "max_new_tokens": setting.tokens,
    }


class RolloutTask:
    """One way of sampling, ready to run; see measuring.Task. `finish` gives how many tokens were drawn."""

    def __init__(self, row: str, setting: Setting):
        self.setting = setting
        self.way, _, engine = row.partition(", ")
        self.model = endless_model(setting)
        self.batch = prefix_batch(setting)
        self.step, self.drawn = 0, torch.zeros(0)
        if self.way == "groups":
            self.family = group_family(self.model, setting.shape)
            self.family.set_engine(engine or "dynamic")

    def run(self) -> None:
        self.step += 1
        torch.manual_seed(self.step)
        self.drawn = {"groups": self.groups, "generate": self.generate, "whisper": self.whisper}[self.way]()

    def finish(self) -> int:
        expected = (self.setting.clips * self.setting.hypotheses, self.setting.tokens)
        if self.drawn.shape != expected or bool((self.drawn == END).any()):
            raise RuntimeError(
                f"{self.way} drew tokens of shape {tuple(self.drawn.shape)} instead of {expected}, or an end token "
                "among them; times of unequal work cannot be compared. Look at endless_model."
            )
        return self.drawn.numel()

    def groups(self) -> Tensor:
        """(B*K, T) from `sample_groups`; the noise is drawn here too, and log-probabilities come with it."""
        noise = rollout_noise(
            range(self.setting.clips),
            seed=0,
            step=self.step,
            num_generations=self.setting.hypotheses,
            max_tokens=self.setting.tokens,
        )
        samples = self.family.sample_groups(self.model, self.batch, noise.to(self.setting.device))
        return samples.tokens[..., PREFIX_TOKENS:].flatten(0, 1)

    @torch.no_grad()
    def generate(self) -> Tensor:
        """(B*K, T) from the generate that transformers' models share: the audio encoded once for each clip, its states
        then repeated K times."""
        prefix = self.batch.tokens[:, 0, :PREFIX_TOKENS]
        ids = GenerationMixin.generate(
            self.model, inputs=self.batch.audio, decoder_input_ids=prefix, **settings_of(self.setting)
        )
        return ids[:, PREFIX_TOKENS:]

    @torch.no_grad()
    def whisper(self) -> Tensor:
        """(B*K, T) from Whisper's own generate, which repeats the audio K times; its prefix is ours."""
        ids = self.model.generate(self.batch.audio, **settings_of(self.setting))
        return ids[:, -self.setting.tokens :]


def predicted_flops(row: str, setting: Setting) -> float:
    """Operations of a rollout, a multiplication and an addition counted as two; each token is read once."""
    hypotheses = setting.clips * setting.hypotheses
    encoded, projected = (hypotheses if repeated else setting.clips for repeated in SHARED[row.partition(", ")[0]])
    work = Sharing(encoded, projected, hypotheses, setting.tokens, hypotheses * setting.tokens)
    return sum(forward_flops(setting.shape, work).values())
