"""A family's calls on sharded weights, in two processes and in one: `python run_sharded.py OUT`.

OUT gets, for each case of `CASES`, what two processes found and what one process with the whole batch found.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from peft import LoraConfig, get_peft_model

from audiorl.batch import GroupBatch
from audiorl.models import head, speech_family
from audiorl.models.forward import is_sharded
from audiorl.testing.case import group_batch
from audiorl.trainers.reference import AdapterOff, FrozenCopy, frozen_copy
from tests.tiny_models import tiny_clips, tiny_whisper
from tests.worlds import in_processes

WORLD = 2
TEXTS = (
    ("the quick brown fox", "the quick", "dog"),
    ("she had your dark suit in greasy wash water", "she had", "all year"),
    ("the lazy dog", "lazy lazy dog dog", "over the"),
    ("all year", "year", "jumps over the lazy dog"),
)
HYPOTHESES, LIMIT, STEPS = 3, 30, 3
CASES = {
    "layers and root": {},
    "tied head beside its embedding": {"tail": True},
    "tied, fused": {"tail": True, "fused": True},
    "head of its own": {"tail": True, "tied": False},
    "head of its own, fused": {"tail": True, "tied": False, "fused": True},
    "frozen encoder, frozen copy": {"frozen": True, "tail": True},
    "adapter": {"adapter": True},
    "checkpointed": {"checkpointed": True},
}


def shard(model: nn.Module, base: nn.Module, tail: bool) -> None:
    """Units as accelerate makes them: layers; embedding and head together where they share a weight; the rest."""
    for layer in [*base.get_encoder().layers, *base.get_decoder().layers]:
        fully_shard(layer)
    if tail:
        embedding, output = base.get_input_embeddings(), base.get_output_embeddings()
        if embedding.weight is output.weight:
            fully_shard([embedding, output], reshard_after_forward=False)
        else:
            fully_shard(embedding)
            fully_shard(output, reshard_after_forward=False)
    fully_shard(model)


class Run:
    """One case in one process: all clips, or, of two processes, every second one."""

    def __init__(self, rank: int | None, tail=False, fused=False, tied=True, frozen=False, adapter=False,
                 checkpointed=False):  # fmt: skip
        self.sharded = rank is not None
        self.rows = list(range(len(TEXTS)))[rank::WORLD] if self.sharded else list(range(len(TEXTS)))
        self.scale = WORLD if self.sharded else 1
        head.use_fused_head = lambda *_: fused
        base, processor = tiny_whisper("english", tie_word_embeddings=tied)
        if not tied:
            base.proj_out.weight = nn.Parameter(base.model.decoder.embed_tokens.weight.detach().clone() * 0.9)
        self.family = speech_family(base, processor)
        self.model: nn.Module = base
        if checkpointed:
            enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        if frozen:
            self.family.freeze_encoder(base)
        if adapter:
            torch.manual_seed(1)
            config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "fc1"], init_lora_weights=False)
            self.model = get_peft_model(base, config)
            self.reference: Any = AdapterOff(self.family, self.model)
        else:
            ref_model = frozen_copy(base)
            self.family.install(ref_model)
            self.reference = FrozenCopy(self.family, ref_model, base)
            if self.sharded:
                shard(ref_model, ref_model, tail)
        self.share = frozen
        if self.sharded:
            shard(self.model, base, tail)
        self.model.train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=3e-3, momentum=0.9)
        clips = tiny_clips(len(TEXTS))
        self.batch = group_batch(self.family, [clips[i] for i in self.rows], [TEXTS[i] for i in self.rows])
        signs = torch.tensor([[1.0, -1.0, 0.5], [2.0, -1.0, -0.5], [-1.0, 1.0, 1.5], [0.5, 2.0, -1.0]])
        self.signs = signs[self.rows]

    def loss(self) -> Tensor:
        """Over the whole batch: processes' shares are averaged, so each is scaled by their number."""
        scores = self.family.score_groups(self.model, self.batch)
        states = scores.states.detach() if self.share else None
        ref = self.reference.token_logps(self.model, self.batch, states)
        margins = ((scores.logps - ref).sum(-1) * self.signs).sum(-1)
        ratios = (scores.logps.sum(-1) * self.signs).sum(-1)
        return self.scale * (nn.functional.softplus(-margins) + 0.1 * ratios).sum() / len(TEXTS)

    def steps(self) -> dict[str, Any]:
        found: dict[str, Any] = {"losses": [], "samples": [], "calls": []}
        for step in range(STEPS):
            # a rollout and an encoding between the steps: their weights are those of this step
            samples, calls = self.sample(seed=step, with_states=step % 2 == 1)
            found["samples"].append(samples)
            found["calls"].append(calls)
            self.optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            found["losses"].append(loss.item() / self.scale)
            if step == 0:
                found["gradients"] = {
                    name: whole(p.grad) for name, p in self.model.named_parameters() if p.grad is not None
                }
            self.optimizer.step()
        found["weights"] = {name: whole(p) for name, p in self.model.named_parameters()}
        found["states"] = self.encode()
        found["beams"] = self.beams()
        return found

    @torch.no_grad()
    def encode(self) -> Tensor:
        return self.family.encode(self.model, self.batch)

    def beams(self) -> list[dict[str, Tensor]]:
        beams = self.family.beam_groups(self.model, self.batch, 2, max_tokens=LIMIT)
        clips = zip(beams.tokens[..., 1:], beams.keep, beams.scores, strict=True)
        return [{"tokens": tokens[0][keep[0]], "scores": scores} for tokens, keep, scores in clips]

    def captured(self) -> str:
        """What is said of an engine that cannot gather weights."""
        self.family.set_engine("captured")
        try:
            self.sample(seed=0, with_states=False)
        except ValueError as error:
            return str(error)
        return ""

    def sample(self, seed: int, with_states: bool) -> tuple[list[dict[str, Tensor]], int]:
        """For each clip its hypotheses without what only fills up the batch; how many tokens the longest drew."""
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.rand((len(TEXTS), HYPOTHESES, LIMIT), generator=generator, dtype=torch.float64)
        states = self.encode() if with_states else None
        samples = self.family.sample_groups(self.model, GroupBatch(self.batch), numbers[self.rows], states)
        clips = []
        for tokens, keep, logps in zip(samples.tokens, samples.keep, samples.logps, strict=True):
            length = int(keep.any(0).nonzero().max()) + 1
            clips.append({"tokens": torch.where(keep, tokens[:, 1:], -1)[:, :length], "logps": logps[:, :length]})
        return clips, int(samples.keep.any((0, 1)).sum())


def whole(tensor: Tensor) -> Tensor:
    value = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return value.detach().clone()


def run_case(rank: int | None, name: str) -> dict[str, Any]:
    run = Run(rank, **CASES[name])
    found: dict[str, Any] = {"rows": run.rows}
    if rank is not None:
        for model in (run.model, getattr(run.reference, "ref_model", run.model)):
            assert all(isinstance(p, DTensor) for p in model.parameters()), "not sharded"
        assert is_sharded(run.model)
        try:
            frozen_copy(run.model)
        except ValueError as error:
            found["copy"] = str(error)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found.update(run.steps())
    if rank is not None:
        found["captured"] = run.captured()
    found["warnings"] = [str(w.message) for w in warned]
    return found


def all_cases(rank: int | None) -> dict[str, dict[str, Any]]:
    return {name: run_case(rank, name) for name in CASES if len(sys.argv) < 3 or name in sys.argv[2:]}


if __name__ == "__main__":
    both = in_processes(WORLD, all_cases)
    torch.save({"two": both, "one": all_cases(None)}, sys.argv[1])
