"""Small DPO and GRPO runs on DeepSpeed's CPU backend: two gloo processes, then one without DeepSpeed.

python run_deepspeed.py OUT [CASE ...]
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from transformers import WhisperForConditionalGeneration

from audiorl.models.forward import is_partitioned
from audiorl.trainers.callbacks import StopOnBadNumbers
from audiorl.trainers.distributed import loaded_whole
from audiorl.trainers.grpo import GRPOTrainer
from tests.tiny_models import tiny_whisper
from tests.trainers import grpo_rows
from tests.trainers.launching import CONFIGS, launched
from tests.trainers.pair_rows import CHECKPOINTING, PLAIN_STEPS, pair_rows
from tests.trainers.run_parallel import BATCH, WORLD, MomentumTrainer, build, files
from tests.worlds import in_processes

# Without a threshold of 0 ZeRO 3 leaves parameters as small as a tiny model's whole.
THRESHOLD = {"stage3_param_persistence_threshold": 0}
ACCUMULATED = {"freeze_encoder": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}
CASES: dict[str, dict[str, Any]] = {
    "2 full": {},
    "2 frozen": ACCUMULATED,
    "2 lora": {"adapter": True},
    "2 clipped": {"max_grad_norm": 0.5},
    "2 grpo": {"online": True},
    "3 full": {},
    "3 frozen": ACCUMULATED,
    "3 lora": {"adapter": True},
    "3 checkpointed": {CHECKPOINTING: True},
    "3 grpo": {"online": True},
}


class MomentumGRPO(GRPOTrainer):
    get_optimizer_cls_and_kwargs = staticmethod(MomentumTrainer.get_optimizer_cls_and_kwargs)


def deepspeed_environment(stage: int, folder: str) -> dict[str, str]:
    """What `accelerate launch` sets with the shipped config of a stage, and with a file that shards small weights."""
    path = CONFIGS / f"deepspeed_zero{stage}.yaml"
    set_by_file = {name: value for name, value in launched(path).items() if name.startswith("ACCELERATE")}
    if stage == 3:
        config = {
            "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, **THRESHOLD},
            **dict.fromkeys(("train_micro_batch_size_per_gpu", "train_batch_size"), "auto"),
            **dict.fromkeys(("gradient_accumulation_steps", "gradient_clipping"), "auto"),
        }
        path = Path(folder, f"zero3-{os.getpid()}.json")  # each process its own
        path.write_text(json.dumps(config))
        set_by_file["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(path)
    return {**set_by_file, "ACCELERATE_MIXED_PRECISION": "no"}


def make(folder: str, world: int, case: dict[str, Any], **saving: Any) -> Any:
    case = {**case, **saving, "use_cpu": world == 1}
    if not case.pop("online", False):
        return build(folder, world, MomentumTrainer, **case)
    torch.manual_seed(0)
    model, processor = tiny_whisper()
    settings = {**grpo_rows.settings(folder), **PLAIN_STEPS, "num_train_epochs": 2, **case}
    return MomentumGRPO(
        model,
        reward_funcs=[grpo_rows.letters],
        args=grpo_rows.GRPOConfig(**{**settings, "per_device_train_batch_size": BATCH // world, "beta": 0.1}),
        train_dataset=grpo_rows.rows(7),
        processing_class=processor,
    )


@contextlib.contextmanager
def gathered(model: Any) -> Any:
    """All parameters whole, whoever shards them."""
    if not any(is_partitioned(p) for p in model.parameters()):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        yield


def results(trainer: Any) -> dict[str, Any]:
    with gathered(trainer.model):
        weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    return {"weights": weights, "log": [log for log in trainer.state.log_history if "loss" in log]}


def run(rank: int, name: str, shared: str) -> dict[str, Any]:
    folder = os.path.join(shared, name)
    os.environ.pop("ACCELERATE_DEEPSPEED_CONFIG_FILE", None)
    os.environ.update(deepspeed_environment(int(name[0]), shared))
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer = make(folder, WORLD, CASES[name], **saving)
    trainer.train()
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    found = {
        **results(trainer),
        "stage": trainer.accelerator.state.deepspeed_plugin.zero_stage,
        "engine": type(trainer.model_wrapped).__name__,
        "sharded": all(is_partitioned(p) and not p.numel() for p in trainer.model.parameters()),
        "files": files(folder),
        "spoilt": spoilt(trainer, rank),
    }
    if not CASES[name].get("adapter"):
        with loaded_whole():
            loaded = WhisperForConditionalGeneration.from_pretrained(folder)
        found["loaded"] = {name: p.detach().clone() for name, p in loaded.named_parameters()}
    try:
        trainer.decode(pair_rows(1))
    except ValueError as error:
        found["decode"] = str(error)
    resumed = make(folder, WORLD, CASES[name], **saving)
    resumed.train(resume_from_checkpoint=os.path.join(folder, "checkpoint-2"))
    return {**found, "resumed": results(resumed)}


def spoilt(trainer: Any, rank: int) -> bool:
    """Whether a weight that is not finite is found where it lies: in the second process's part of one parameter."""
    watch = StopOnBadNumbers(trainer)
    parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
    held = getattr(parameter, "ds_tensor", parameter).data
    kept = held.clone()
    held.fill_(torch.nan)
    found = watch.spoiled_weights()
    held.copy_(kept)
    return found and not watch.spoiled_weights()


def one_process(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(folder, 1, CASES[name])
        trainer.train()
        return results(trainer)


def main() -> None:
    out, names = sys.argv[1], sys.argv[2:] or list(CASES)
    with tempfile.TemporaryDirectory() as shared:
        two = in_processes(WORLD, lambda rank: {name: run(rank, name, shared) for name in names})
    one = in_processes(1, lambda rank: {name: one_process(name) for name in names})[0]
    torch.save({"two": two, "one": one}, out)


if __name__ == "__main__":
    main()
