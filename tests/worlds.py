"""Several gloo processes forked from one script: torch and transformers are loaded once, the ranks start in a moment.

Only for scripts of their own: whatever forks must not have used a GPU or autograd threads before.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes

# A process that waits in vain is told so well before a test's own limit.
PATIENCE = timedelta(seconds=90)


def _rank(rank: int, world: int, main: Callable[[int], Any], folder: str) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT="29500",
    )  # fmt: skip
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=PATIENCE
    )
    torch.save(main(rank), Path(folder) / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def in_processes(world: int, main: Callable[[int], Any]) -> list[Any]:
    """What `main(rank)` returns in each of `world` processes; a failing one ends the others and raises here."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_rank, (world, main, folder), nprocs=world, start_method="fork")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]
