"""GRPO runs in a process of their own: `python run_grpo.py '[{"output_dir": ..., ...}, ...]'`, one after the other.

Keys that are no config field: `rows` (how many), `out` (file for the final weights and the log), `resume`, `kill`
(where to end the process with SIGKILL, see `run_dpo.arrange_death`), and those of `make`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.tiny_ctc import tiny_ctc
from tests.trainers import ctc_rows, grpo_rows, pair_rows, raft_rows
from tests.trainers.run_dpo import arrange_death


def make(
    output_dir: Any, count: int, *, dpo: bool = False, raft: bool = False, ctc: str | None = None, **settings: Any
) -> Any:
    """A trainer on `count` rows.

    Args:
        dpo, raft: another trainer than GRPO.
        ctc: kind of a tiny CTC model that takes the place of the tiny Whisper.
        settings: of `trainer` in `grpo_rows`, `raft_rows` or `pair_rows`.
    """
    if ctc is not None:
        settings["trainer_model"], settings["trainer_processing_class"] = tiny_ctc(ctc)
    if dpo:
        return pair_rows.trainer(output_dir, (ctc_rows.pairs if ctc else pair_rows.pair_rows)(count), **settings)
    rows = (ctc_rows.texts if ctc else grpo_rows.rows)(count)
    return (raft_rows if raft else grpo_rows).trainer(output_dir, rows, **settings)


def main() -> None:
    torch.set_num_threads(1)
    for settings in json.loads(sys.argv[1]):
        own = {name: settings.pop(name, None) for name in ("rows", "out", "resume", "kill")}
        grpo = make(settings.pop("output_dir"), own["rows"] or 8, **settings)
        if own["kill"]:
            arrange_death(own["kill"], grpo)
        grpo.train(resume_from_checkpoint=own["resume"])
        if grpo.is_world_process_zero() and own["out"]:
            torch.save({"weights": pair_rows.weights(grpo.model), "log": grpo.state.log_history}, own["out"])


if __name__ == "__main__":
    main()
