"""Training in several processes: which ways of sharing a model work, and what is computed over all processes.

DDP       whole copies; everything works
FSDP2     parameters sharded; no decoding while training, no synced reference
ZeRO 1, 2 optimizer state and gradients sharded by DeepSpeed, parameters whole
ZeRO 3    parameters sharded too, with the limits of FSDP2
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers.integrations import deepspeed
from trl.models.utils import prepare_deepspeed, prepare_fsdp

from audiorl.losses import PairScores

CONFIGS = "examples/accelerate_configs"
ON_CPUS = "--use_cpu true --mixed_precision no"  # flags of `accelerate launch`, before the script

logger = logging.getLogger(__name__)


def started_processes() -> int:
    """How many processes `torchrun` or `accelerate launch` started for this run, on all machines; 1 without them."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def falls_back_to_cpus(use_cpu: bool) -> bool:
    """Whether several processes have to train together on CPUs because there is no GPU, although nobody asked for it.

    Without it accelerate joins no processes and each trains alone, all in one folder. The first process says so.

    Raises:
        ValueError: FSDP is asked for, which accelerate has for GPUs only.
    """
    if started_processes() == 1 or (_device_joins_processes() and not use_cpu):
        return False
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ValueError(
            "FSDP was asked for, but this run is on CPUs, where accelerate would train whole copies instead. Run on "
            f"GPUs, or without FSDP: accelerate launch --config_file {CONFIGS}/ddp.yaml {ON_CPUS}."
        )
    if use_cpu:
        return False
    if os.environ["RANK"] == "0":
        logger.warning(
            f"There is no GPU here: {started_processes()} processes train one model on CPUs, joined by gloo. "
            "--use_cpu true asks for that and drops this line."
        )
    return True


def join_on_cpus(args: Any) -> None:
    """Join the processes of a run on CPUs, if that is where it runs.

    Args:
        args: a trainer's config; its `use_cpu`, and for DeepSpeed its `ddp_backend`, are set.

    Raises:
        ValueError: FSDP, or DeepSpeed in a way that works on GPUs only.
    """
    if not join_deepspeed_on_cpus(args):
        args.use_cpu = falls_back_to_cpus(args.use_cpu) or args.use_cpu


def join_deepspeed_on_cpus(args: Any) -> bool:
    """Prepare a run that DeepSpeed is to spread over CPUs; False if it is on GPUs, or without DeepSpeed.

    accelerate forgets DeepSpeed as soon as it hears `use_cpu`, so it is told the device and the backend by other ways.

    Args:
        args: a trainer's config; its `use_cpu` and `ddp_backend` are set.

    Raises:
        ValueError: DeepSpeed is asked for in a way that works on GPUs only.
    """
    launched = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if not (launched or args.deepspeed) or (_device_joins_processes() and not args.use_cpu):
        return False
    if _device_joins_processes():
        raise ValueError(
            "--use_cpu and DeepSpeed together need a machine on which torch sees no GPU. Hide the GPUs with "
            "CUDA_VISIBLE_DEVICES= in front of the command, or leave --use_cpu out."
        )
    if not launched or "RANK" not in os.environ:
        raise ValueError(
            "On CPUs DeepSpeed starts only by its launch config, not by --deepspeed. Run accelerate launch "
            f"--config_file {CONFIGS}/deepspeed_zero2.yaml --mixed_precision no; --deepspeed_config_file names a file "
            "of your own."
        )
    os.environ.update(ACCELERATE_TORCH_DEVICE="cpu", DS_ACCELERATOR="cpu")
    args.use_cpu, args.ddp_backend = False, "gloo"
    return True


def check_joined(world_size: int) -> None:
    """Refuse to train alone beside other processes of the same run.

    Raises:
        ValueError: the processes that were started are not joined.
    """
    if world_size < started_processes():
        raise ValueError(
            f"{started_processes()} processes were started, but they are not joined (this one sees {world_size}): each "
            "would train alone and write into the same folder. Pass --use_cpu true to join them on CPUs, or start one "
            "process."
        )
    if world_size > 1:
        _leave_at_exit()


@cache
def _leave_at_exit() -> None:
    """Close gloo's connections before the interpreter goes: a peer that ends first could abort this process (SIGABRT).

    NCCL is left alone: there, leaving waits for what other processes may never send.
    """
    atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


def _device_joins_processes() -> bool:
    device = torch.accelerator.current_accelerator(check_available=True)
    return device is not None and device.type != "mps"  # Apple's GPUs have no collectives


def check_parallelism(accelerator: Accelerator) -> None:
    """Refuse settings under which something else would be trained than the user expects.

    Raises:
        ValueError: FSDP that is asked for and not there, FSDP 1, weights that only the first process loads, ZeRO 3 that
            would save none.
    """
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and fsdp is None and accelerator.num_processes > 1:
        raise ValueError(
            f"FSDP was asked for, but accelerate has none for {accelerator.device.type} and would train whole copies "
            f"instead. Run on GPUs, or without FSDP ({CONFIGS}/ddp.yaml)."
        )
    if fsdp is not None and fsdp.fsdp_version != 2:
        raise ValueError(
            "FSDP version 1 wraps layers so that encoder states and the head cannot be shared between calls. Set "
            f"fsdp_version to 2 ({CONFIGS}/fsdp2.yaml)."
        )
    if fsdp is not None and fsdp.cpu_ram_efficient_loading:
        raise ValueError(
            "With cpu_ram_efficient_loading only the first process has the model's weights until training starts; the "
            "reference is made before and would be empty on the others. Set fsdp_cpu_ram_efficient_loading to false."
        )
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if plugin is not None and plugin.zero_stage == 3:
        zero = plugin.deepspeed_config["zero_optimization"]
        if not zero.get("stage3_gather_16bit_weights_on_model_save"):
            raise ValueError(
                "DeepSpeed ZeRO 3 would save no weights that load without it. Set zero3_save_16bit_model to true "
                f"({CONFIGS}/deepspeed_zero3.yaml), or stage3_gather_16bit_weights_on_model_save in a file of your own."
            )


def is_fsdp(accelerator: Accelerator) -> bool:
    """Whether FSDP shards the parameters, from the first step on."""
    return accelerator.distributed_type == DistributedType.FSDP


def sharded_by(accelerator: Accelerator) -> str:
    """What shards the parameters from the first step on: "FSDP", "ZeRO 3", or "" where they stay whole."""
    if is_fsdp(accelerator):
        return "FSDP"
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    return "ZeRO 3" if plugin is not None and plugin.zero_stage == 3 else ""


def check_whole_weights(accelerator: Accelerator, what: str) -> None:
    """Refuse to decode during training if training shards the parameters.

    Raises:
        ValueError: with `what`, a subject and its verb.
    """
    if by := sharded_by(accelerator):
        raise ValueError(
            f"{what} with generate(), which {by} cannot run on sharded weights. Leave it out and measure the saved "
            "checkpoint with audiorl.evaluation.evaluate_model."
        )


@contextmanager
def loaded_whole() -> Iterator[None]:
    """While a model is loaded, keep transformers from sharding it for ZeRO 3, as training does with it later.

    A reference, an adapter and the checks before the first step need the weights; they are on the CPU until then.
    """
    kept, deepspeed._hf_deepspeed_config_weak_ref = deepspeed._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept


def prepare_frozen(model: nn.Module, accelerator: Accelerator) -> Any:
    """Prepare a frozen model as the policy will be: on its device, in its precision, sharded if it is sharded."""
    if is_fsdp(accelerator):
        return prepare_fsdp(model, accelerator)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return prepare_deepspeed(model, accelerator)
    return accelerator.prepare_model(model, evaluation_mode=True)


def gathered_pairs(pairs: PairScores, accelerator: Accelerator) -> PairScores:
    """The pairs of all processes in process order. Only this process's own pairs keep their graph.

    Source: the sum over processes of a function of the gathered batch, differentiated where each process stands.
    """
    size = torch.tensor([len(pairs.logps)], device=pairs.logps.device)
    sizes = accelerator.gather(size).tolist()

    def gather(own: Tensor) -> Tensor:
        padded = nn.functional.pad(own.detach(), (0, 0, 0, max(sizes) - len(own)))
        parts = list(accelerator.gather(padded).split(max(sizes)))
        parts = [part[:n] for part, n in zip(parts, sizes, strict=True)]
        parts[accelerator.process_index] = own
        return torch.cat(parts)

    unweighted = pairs.unweighted_logps
    logps, ref_logps, lengths = (gather(field) for field in pairs[:3])
    return PairScores(logps, ref_logps, lengths, None if unweighted is None else gather(unweighted))


def gathered_rows(own: Tensor, accelerator: Accelerator) -> tuple[Tensor, int]:
    """The rows of all processes in process order, and where this process's rows begin; no gradient.

    Args:
        own: (n, ...); n may differ from process to process, the other sizes may not.
    """
    sizes = accelerator.gather(torch.tensor([len(own)], device=accelerator.device)).tolist()
    padded = own.detach().new_zeros(max(sizes), *own.shape[1:])
    padded[: len(own)] = own.detach()
    parts = accelerator.gather(padded.to(accelerator.device)).to(own.device).split(max(sizes))
    start = sum(sizes[: accelerator.process_index])
    return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)]), start


def balanced_order(values: Sequence[Any], length: int, seed: Sequence[int]) -> list[int]:
    """Places of rows in an order in which every value comes equally often, or once more.

    In each round every value comes once, in a shuffled order, with the next of its own rows; rows of a rare value come
    again when all of them have come, in another order.

    Args:
        values: of each row; at least one row.
        length: how many places, >= 0.
        seed: of the order; the same one in every process.
    """
    rng = np.random.default_rng(list(seed))
    places: dict[Any, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    queues = [_again_and_again(own, rng) for own in places.values()]
    order: list[int] = []
    while len(order) < length:
        order += [next(queues[i]) for i in rng.permutation(len(queues)).tolist()]
    return order[:length]


def _again_and_again(places: Sequence[int], rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (places[i] for i in rng.permutation(len(places)).tolist())


class BalancedRows(Sampler[int]):
    """The rows of an epoch, as many as there are, every value of a column equally often.

    Args:
        values: of each row.
        seed: of the order, which is another one in each epoch.

    Attributes:
        epoch: which one begins; a resumed run sets the one it goes on in.
    """

    def __init__(self, values: Sequence[Any], seed: int):
        self.values = values
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[int]:
        return iter(balanced_order(self.values, len(self.values), [self.seed, self.epoch]))
