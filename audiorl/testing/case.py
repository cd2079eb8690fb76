"""What the conformance suite needs to know of a family, and what its checks share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from audiorl.batch import AUDIO_COMPANIONS, GroupBatch, pad_tokens
from audiorl.models import SpeechFamily, disable_dropout, speech_family


@dataclass(frozen=True)
class FamilyCase:
    """One model of one family, small enough for float32 to be compared at 1e-5.

    Attributes:
        name: shown in the tests' names.
        build: makes the model (in evaluation mode, with dropout above zero where it knows dropout) and its
            processor; the same weights each time, `speech_family` not called yet.
        clips: B >= 2 different clips at the family's rate.
        texts: for each clip K >= 2 different texts of unequal lengths.
        ordinary: what a user computes with the stock model, without this library: logits, generated ids, ...
        encoder: the module that reads the audio.
        lora_targets: names of linear layers for a LoRA adapter.
        rows: for each clip what its row says of language, task, prompt and hot words.
        checkpointing: whether the model supports gradient checkpointing.
        float64: whether the model computes everything in its weights' precision; False where it has norms in float32.
        prompted: whether the prefix is a request in words, which may share tokens with an answer.
        labels: whether hypotheses are labels: one token each, none of them an end, none empty.
    """

    name: str
    build: Callable[[], tuple[PreTrainedModel, Any]]
    clips: Sequence[np.ndarray]
    texts: Sequence[Sequence[str]]
    ordinary: Callable[[PreTrainedModel, GroupBatch], Sequence[Tensor]]
    encoder: Callable[[PreTrainedModel], nn.Module]
    lora_targets: Sequence[str]
    rows: Sequence[Mapping[str, Any]] = ()
    checkpointing: bool = True
    float64: bool = True
    prompted: bool = False
    labels: bool = False

    def __str__(self) -> str:
        return self.name

    def row(self, clip: int) -> Mapping[str, Any]:
        return self.rows[clip] if self.rows else {}


class Ready(NamedTuple):
    """A family that answers for a model without dropout, and a batch of all clips and texts of the case."""

    family: SpeechFamily
    model: PreTrainedModel
    batch: GroupBatch


def get_ready(case: FamilyCase, dtype: torch.dtype = torch.float32) -> Ready:
    model, processor = case.build()
    model = model.to(dtype)
    family = speech_family(model, processor)
    disable_dropout(model)
    return Ready(family, model, whole_batch(case, family))


def whole_batch(case: FamilyCase, family: SpeechFamily) -> GroupBatch:
    rows = [case.row(i) for i in range(len(case.clips))]
    return group_batch(family, case.clips, case.texts, rows)


def group_batch(
    family: SpeechFamily,
    clips: Sequence[np.ndarray],
    texts: Sequence[Sequence[str]],
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> GroupBatch:
    """B clips with K texts each; `rows` say language, task and prompt."""
    rows = rows or [{}] * len(clips)
    written = [[family.tokenize_row(text, row) for text in group] for group, row in zip(texts, rows, strict=True)]
    tokens, keep = pad_tokens(
        [[text.ids for text in group] for group in written],
        [[text.first_kept for text in group] for group in written],
        family.end_token,
    )
    return GroupBatch(**family.features(list(clips)), tokens=tokens, keep=keep, row_ids=torch.arange(len(clips)))


def single_batches(case: FamilyCase, family: SpeechFamily) -> Iterator[tuple[int, int, GroupBatch]]:
    """Every hypothesis alone with its clip, without a neighbour's padding on either: (b, k, batch)."""
    for b, group in enumerate(case.texts):
        for k, text in enumerate(group):
            yield b, k, group_batch(family, case.clips[b : b + 1], [[text]], [case.row(b)])


def refusal(call: Callable[[], object]) -> str:
    """The ValueError that a call ends with, in words; "" where it does not."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def loss_weights(batch: GroupBatch) -> Tensor:
    """(B, K), all different and of both signs, so that no two hypotheses can be mistaken for one another."""
    count = len(batch.row_ids) * batch.num_hypotheses
    signs = torch.tensor([1.0, -1.0]).repeat(count)[:count]
    return (signs * torch.arange(1, count + 1)).view(len(batch.row_ids), -1)


def weighted_loss(logps: Tensor, weights: Tensor) -> Tensor:
    return (logps.sum(-1) * weights.to(logps.dtype)).sum()


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """What `loss.backward()` leaves at every trainable parameter that takes part."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    """Every parameter's gradient agrees to `tolerance`, relative to its largest entry."""
    assert found.keys() == expected.keys()
    assert expected, "no parameter has a gradient"
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        allowed = tolerance * max(gradient.abs().max().item(), 1e-3 * scale)
        assert (found[name] - gradient).abs().max().item() <= allowed, name


def perturb(model: nn.Module) -> None:
    """Move every parameter a little, in place."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def audio_tensors(batch: GroupBatch) -> dict[str, Tensor]:
    return {name: batch.tensors[name] for name in (batch.audio_key, *AUDIO_COMPANIONS) if name in batch}


def assert_encoded_once(case: FamilyCase, seen: Mapping[str, list[int]]) -> None:
    """One call of the family with B rows; the module may take clips of unequal lengths apart, but none twice."""
    assert seen["family"] == [len(case.clips)] and sum(seen["module"]) == len(case.clips)


@contextlib.contextmanager
def encoded_rows(case: FamilyCase, family: SpeechFamily, model: PreTrainedModel) -> Iterator[dict[str, list[int]]]:
    """Rows of each call of the family's `_encode` and of the encoder module, as they happen."""
    seen: dict[str, list[int]] = {"family": [], "module": []}
    plain_encode = family._encode

    def counted(base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        states = plain_encode(base, batch)
        seen["family"].append(len(states))
        return states

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen["module"].append(len(next(iter([*args, *kwargs.values()]))))

    handle = case.encoder(model).register_forward_pre_hook(before, with_kwargs=True)
    family._encode = counted  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        handle.remove()
        del family._encode
