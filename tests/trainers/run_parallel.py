"""Small DPO runs in several processes.

python run_parallel.py OUT ddp|fsdp      forks two processes, runs all cases of that kind, then each in one process
LAUNCHER run_parallel.py OUT CASE        is one process of those that a launcher started; rank 0 writes
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, is_peft_model
from peft import LoraConfig
from torch.distributed.tensor import DTensor
from transformers import WhisperForConditionalGeneration

from audiorl.trainers.callbacks import StopOnBadNumbers
from audiorl.trainers.dpo import DPOTrainer
from tests.tiny_models import tiny_whisper
from tests.trainers.launching import CONFIGS, launched
from tests.trainers.pair_rows import CHECKPOINTING, PLAIN_STEPS, config, pair_rows
from tests.worlds import in_processes

WORLD, BATCH = 2, 4
# Seven rows: in the last step of an epoch the second process has no row of its own. Four steps.
SHARED = {**PLAIN_STEPS, "num_train_epochs": 2, "loss_type": ["sigmoid", "sft"]}
DDP = {
    "full": {},
    "frozen": {"freeze_encoder": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1},
    "lora": {"adapter": True},
    "checkpointed lora": {"adapter": True, CHECKPOINTING: True},
}
FSDP = {
    "full": {"state": "FULL_STATE_DICT"},
    "sharded files": {"state": "SHARDED_STATE_DICT"},
    "frozen": {"state": "FULL_STATE_DICT", "freeze_encoder": True, "gradient_accumulation_steps": 2,
               "per_device_train_batch_size": 1},
    "checkpointed": {"state": "FULL_STATE_DICT", "freeze_encoder": True, CHECKPOINTING: True},
    "lora": {"state": "SHARDED_STATE_DICT", "adapter": True},
    "precomputed": {"state": "FULL_STATE_DICT", "precompute_ref_log_probs": True},
}  # fmt: skip


class MomentumTrainer(DPOTrainer):
    """With an optimizer that has something to resume, and, unlike Adam, does not turn rounding into steps."""

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[type, dict[str, float]]:
        return torch.optim.SGD, {"lr": args.learning_rate, "momentum": 0.9}


class ShardedTrainer(MomentumTrainer):
    """FSDP2 on a CPU: accelerate shards on accelerators only, so it is told after it has looked for one."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        self.is_fsdp_enabled = True


def build(folder: Any, world: int, kind: type[DPOTrainer], adapter: bool = False, state: str = "", **changes: Any):
    torch.manual_seed(0)  # of the adapter
    model, processor = tiny_whisper()
    if state and kind is ShardedTrainer:
        os.environ["FSDP_STATE_DICT_TYPE"] = state
    batch = changes.pop("per_device_train_batch_size", BATCH // WORLD) * WORLD // world
    settings = {**SHARED, **changes, "per_device_train_batch_size": batch}
    adapters = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "fc1"], init_lora_weights=False) if adapter else None
    return kind(
        model,
        args=config(folder, **settings),
        train_dataset=pair_rows(7),
        processing_class=processor,
        peft_config=adapters,
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def results(trainer: DPOTrainer) -> dict[str, Any]:
    return {
        "weights": {name: whole(p) for name, p in trainer.model.named_parameters()},
        "log": [log for log in trainer.state.log_history if "loss" in log],
    }


def files(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def run_ddp(rank: int, case: str) -> dict[str, Any]:
    """Each process has an output folder of its own, so that what it writes can be told from what others write."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(folder, WORLD, DPOTrainer, **DDP[case], save_strategy="steps", save_steps=2)
        trainer.train()
        trainer.save_model()
        return {
            **results(trainer),
            "wrapper": type(trainer.model_wrapped).__name__,
            "searches": trainer.model_wrapped.find_unused_parameters,
            "files": files(folder),
        }


def run_fsdp(rank: int, case: str, shared: str) -> dict[str, Any]:
    folder = os.path.join(shared, case)
    saving = {**FSDP[case], "save_strategy": "steps", "save_steps": 2}
    trainer = build(folder, WORLD, ShardedTrainer, **saving)
    trainer.train()
    sharded = all(isinstance(p, DTensor) for p in trainer.model.parameters())
    trainer.save_model()
    found = {**results(trainer), "sharded": sharded, "files": files(folder)}
    if trainer.reference is not None and not is_peft_model(trainer.model):
        found["sharded"] &= all(isinstance(p, DTensor) for p in trainer.reference.ref_model.parameters())
        loaded = WhisperForConditionalGeneration.from_pretrained(folder)
        found["loaded"] = {name: whole(p) for name, p in loaded.named_parameters()}
    resumed = build(folder, WORLD, ShardedTrainer, **saving)
    resumed.train(resume_from_checkpoint=os.path.join(folder, "checkpoint-2"))
    found["resumed"] = results(resumed)
    for what, ask in (("decode", lambda: trainer.decode(pair_rows(1))), ("gradient", lambda: spoil(trainer, rank))):
        try:
            ask()
        except (ValueError, FloatingPointError) as error:
            found[what] = str(error)
    return found


def spoil(trainer: DPOTrainer, rank: int) -> None:
    """A gradient that is not finite, in the second process's part of one parameter."""
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if rank == 1:
        parameter.grad.to_local().fill_(torch.nan)
    StopOnBadNumbers(trainer).on_pre_optimizer_step(trainer.args, trainer.state, None)


def one_process(kind: type[DPOTrainer], case: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(folder, 1, kind, **case)
        trainer.train()
        return results(trainer)


def main() -> None:
    out, kind = sys.argv[1:3]
    if kind == "ddp":
        two = in_processes(WORLD, lambda rank: {case: run_ddp(rank, case) for case in DDP})
        torch.save({"two": two, "one": {case: one_process(DPOTrainer, DDP[case]) for case in DDP}}, out)
    elif kind == "fsdp":
        os.environ.update(
            launched(CONFIGS / "fsdp2.yaml"), ACCELERATE_MIXED_PRECISION="no", ACCELERATE_USE_FSDP="false"
        )
        with tempfile.TemporaryDirectory() as shared:
            two = in_processes(WORLD, lambda rank: {case: run_fsdp(rank, case, shared) for case in FSDP})
        one = in_processes(1, lambda rank: {case: one_process(MomentumTrainer, FSDP[case]) for case in FSDP})
        torch.save({"two": two, "one": one[0]}, out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            trainer = build(folder, WORLD, DPOTrainer, **DDP[kind])
            trainer.train()
            found = {
                **results(trainer),
                "world": trainer.args.world_size,
                "type": str(trainer.accelerator.distributed_type),
            }
            if trainer.is_world_process_zero():
                torch.save(found, out)
            trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
