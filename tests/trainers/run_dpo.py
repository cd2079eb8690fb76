"""A small DPO run in a process of its own: `python run_dpo.py '{"output_dir": ..., ...}'`.

Keys that are no config field: `rows` (how many), `columns` (of the rows, with their values), `files` (the rows are a
stream of so many), `out` (file for the final weights and the log), `resume`, `kill` (where to end the process with
SIGKILL, see `arrange_death`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from datasets import Dataset

sys.path.insert(0, str(Path(__file__).parents[2]))

from audiorl.trainers import checkpoints
from tests.trainers.pair_rows import pair_rows, trainer, weights


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arrange_death(moment: str, dpo) -> None:  # noqa: C901 five ways to die
    """End the process at step 3: in the middle of writing a file, between two files, around the rename, or tell it to
    end ("sigterm" tells the last process only)."""
    save, publish, step = torch.save, checkpoints.publish, dpo.training_step

    def at_step_three() -> bool:
        return dpo.state.global_step == 3

    def half_a_file(obj, path, *args, **kwargs):
        save(obj, path, *args, **kwargs)
        if at_step_three() and str(path).endswith("optimizer.pt"):
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    def around_publish(staged, final):
        if at_step_three() and moment == "before rename":
            die()
        publish(staged, final)
        if at_step_three() and moment == "after rename":
            die()

    def in_a_step(*args, **kwargs):
        loss = step(*args, **kwargs)
        if at_step_three() and moment == "in a step":
            die()
        if at_step_three() and dpo.args.process_index == dpo.args.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    if moment == "half a file":
        torch.save = half_a_file
    elif moment in ("in a step", "sigterm"):
        dpo.training_step = in_a_step
    else:
        checkpoints.publish = around_publish


def train_as_told(made, own: dict) -> None:
    """Train as `resume`, `kill` and `out` of the settings say."""
    if own["kill"]:
        arrange_death(own["kill"], made)
    made.train(resume_from_checkpoint=own["resume"])
    if made.is_world_process_zero() and own["out"]:
        torch.save({"weights": weights(made.model), "log": made.state.log_history}, own["out"])


def main() -> None:
    settings = json.loads(sys.argv[1])
    own = {name: settings.pop(name, None) for name in ("rows", "columns", "files", "out", "resume", "kill")}
    torch.set_num_threads(1)
    rows = pair_rows(own["rows"] or 8, **(own["columns"] or {}))
    if own["files"]:
        rows = Dataset.from_list(rows).to_iterable_dataset(num_shards=own["files"])
    train_as_told(trainer(settings.pop("output_dir"), rows, **settings), own)


if __name__ == "__main__":
    main()
