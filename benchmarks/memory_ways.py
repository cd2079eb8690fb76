"""What memory.py measures: one ORPO step, five ways and a fair sixth; greedy decoding; the largest batch."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from scoring_ways import Agreement, ScoringTask, Setting, build_batch, build_model, group_family
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration

from audiorl.batch import GroupBatch
from audiorl.losses import OddsRatioObjective, pair_scores
from audiorl.models.sampling import rollout_noise

BETA, RANK = 0.1, 16
ADAPTED = r".*decoder.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


class MemoryRow(NamedTuple):
    """One line of the table."""

    key: str
    way: str  # "project", "forwards" or "groups"
    checkpointing: bool = False
    adapter: bool = False
    eight_bit: bool = False

    @property
    def name(self) -> str:
        return DESCRIPTIONS[self.key]

    @property
    def full(self) -> bool:
        """Whether all weights are trained, so that its gradients can be compared with the others'."""
        return not self.adapter


DESCRIPTIONS = {
    "a": "two full forwards, logits of all positions",
    "a'": "two full forwards, the head of b",
    "b": "groups",
    "c": "b + checkpointing",
    "d": "c + LoRA in the decoder only",
    "e": "d + 8-bit base",
}
MEMORY_ROWS = (
    MemoryRow("a", "project"),
    MemoryRow("a'", "forwards"),
    MemoryRow("b", "groups"),
    MemoryRow("c", "groups", checkpointing=True),
    MemoryRow("d", "groups", checkpointing=True, adapter=True),
    MemoryRow("e", "groups", checkpointing=True, adapter=True, eight_bit=True),
)


class StepFacts(NamedTuple):
    """What a step leaves to be reported beside its peak."""

    loss: float
    weight_bytes: int
    trained: int
    optimizer_bytes: int  # of AdamW: two averages for each trained weight, in its type


def orpo_loss(logps: Tensor, keep: Tensor) -> Tensor:
    """Scalar from (B, 2, T) log-probabilities."""
    pairs = pair_scores(logps, keep, torch.zeros(logps.shape[:2], device=logps.device))
    return OddsRatioObjective(beta=BETA)(pairs).total()


def project_loss(model: nn.Module, batch: GroupBatch) -> Tensor:
    """ORPO as one writes it on top of a stock model, and as the project batch-opt-rlhf-asr has it.

    A forward for each transcript with `labels`, all hidden states asked for, logits of every position; the
    cross-entropy of the chosen one is the model's own, and a second log-softmax gives the log-probabilities.
    """
    outputs, columns = [], []
    for k in range(2):
        labels = batch.tokens[:, k, 1:].masked_fill(~batch.keep[:, k], -100)
        out = model(
            input_features=batch.audio,
            decoder_input_ids=batch.tokens[:, k, :-1],
            labels=labels,
            output_hidden_states=True,
            use_cache=False,
        )
        outputs.append(out)
        logps = out.logits.float().log_softmax(-1).gather(-1, batch.tokens[:, k, 1:, None]).squeeze(-1)
        columns.append(torch.where(batch.keep[:, k], logps, 0.0))
    pairs = pair_scores(
        torch.stack(columns, 1), batch.keep, torch.zeros(len(batch.row_ids), 2, device=batch.keep.device)
    )
    odds = OddsRatioObjective(beta=BETA, nll_weight=0)(pairs).total()
    return outputs[0].loss + odds


class OrpoTask(ScoringTask):
    """One ORPO step, one way; see measuring.Task."""

    def __init__(self, row: MemoryRow, setting: Setting):
        self.row = row
        super().__init__(row, setting)

    def build(self, row: MemoryRow) -> nn.Module:
        model = super().build(row) if not row.eight_bit else eight_bit_model(self.setting)
        if row.adapter:
            # PEFT's task classes insist on text inputs, hence no task_type
            adapter = LoraConfig(r=RANK, target_modules=ADAPTED)
            group_family(model, self.setting.shape)
            model = get_peft_model(model, adapter)
        return model

    def step_loss(self) -> Tensor:
        if self.row.way == "project":
            return project_loss(self.model, self.batch)
        return orpo_loss(self.score().float(), self.batch.keep)

    def check(self, gradients: Path) -> None:
        """As for scoring; an adapter has no such gradients, and its first step is to be seen by the measurement."""
        if self.row.full:
            super().check(gradients)
        else:
            self.to_precision()

    def finish(self) -> StepFacts:
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        return StepFacts(
            loss=super().finish(),
            weight_bytes=sum(weight.nbytes for weight in self.model.parameters()),
            trained=sum(weight.numel() for weight in trained),
            optimizer_bytes=2 * sum(weight.nbytes for weight in trained),
        )


def prepare_step(row: MemoryRow, setting: Setting, gradients: Path | None) -> OrpoTask:
    """A task whose float32 step has been written to `gradients`; None leaves that out."""
    task = OrpoTask(row, setting)
    if gradients is None:
        task.to_precision()
    else:
        task.check(gradients)
    return task


def eight_bit_model(setting: Setting) -> WhisperForConditionalGeneration:
    """The same random weights, loaded in 8 bits as a user loads a checkpoint."""
    dtype = torch.bfloat16 if setting.precision == "bfloat16" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        build_model(setting.shape).save_pretrained(folder)
        return WhisperForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=BitsAndBytesConfig(load_in_8bit=True),
            device_map={"": setting.device},
        ).train()


# ---- inference ----


class InferenceTask:
    """Greedy decoding of clips, `tokens` tokens each, with the encoder's states and both caches held."""

    def __init__(self, setting: Setting):
        model = build_model(setting.shape).to(setting.device).eval()
        self.family = group_family(model, setting.shape)
        self.family.end_token = -1  # nothing ends early, so that every model decodes as much
        self.model = model.to(torch.bfloat16) if setting.precision == "bfloat16" else model
        # placeholders are not decoded
        batch = build_batch(setting._replace(hypotheses=1)).replace(row_ids=torch.arange(setting.clips))
        self.batch = GroupBatch({name: value.to(setting.device) for name, value in batch.items()})
        if setting.precision == "bfloat16":
            self.batch = self.batch.replace(input_features=self.batch.audio.to(torch.bfloat16))
        self.noise = rollout_noise(
            range(setting.clips), seed=0, step=0, num_generations=1, max_tokens=setting.tokens
        ).to(setting.device)

    def run(self) -> None:
        self.family.sample_groups(self.model, self.batch, self.noise, temperature=1e-3)

    def finish(self) -> int:
        return sum(weight.nbytes for weight in self.model.parameters())


# ---- the largest batch (CUDA) ----


class LargestBatchTask:
    """How many clips fit a step, AdamW's state held; `run` tries, in a process of its own."""

    def __init__(self, row: MemoryRow, setting: Setting, most: int):
        self.task = OrpoTask(row, setting._replace(clips=1))
        self.task.to_precision()
        self.most, self.found = most, 0
        self.optimizer = torch.optim.AdamW([w for w in self.task.model.parameters() if w.requires_grad], lr=0.0)
        self.task.run()
        self.optimizer.step()
        self.task.finish()

    def run(self) -> None:
        self.found = largest(self._fits, self.most)

    def _fits(self, clips: int) -> bool:
        self.task.set_batch(self.task.setting._replace(clips=clips))
        try:
            self.task.run()
            return True
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            self.task.loss = None
            self.task.model.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()

    def finish(self) -> int:
        return self.found


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, where everything below one that fits does too; 0 if none does."""
    below, above = 0, 1
    while above <= most and fits(above):
        below, above = above, 2 * above
    above = min(above, most + 1)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


__all__ = ["MEMORY_ROWS", "Agreement", "InferenceTask", "LargestBatchTask", "MemoryRow", "OrpoTask", "StepFacts"]
