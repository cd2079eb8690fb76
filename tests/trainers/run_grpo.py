"""GRPO runs in a process of their own: `python run_grpo.py '[{"output_dir": ..., ...}, ...]'`, one after the other.

Keys that are no config field: `rows`, `eval_rows` (how many), `out` (file for the final weights and the log), `resume`,
`kill` (where to end the process with SIGKILL, see `run_dpo.arrange_death`), `online_dpo`, `raft`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.trainers import grpo_rows, raft_rows
from tests.trainers.pair_rows import weights
from tests.trainers.run_dpo import arrange_death


def main() -> None:
    torch.set_num_threads(1)
    for settings in json.loads(sys.argv[1]):
        own = {name: settings.pop(name, None) for name in ("rows", "eval_rows", "out", "resume", "kill")}
        made = raft_rows if settings.pop("raft", False) else grpo_rows
        evaluated = grpo_rows.rows(own["eval_rows"]) if own["eval_rows"] else None
        train = grpo_rows.rows(own["rows"] or 8)
        grpo = made.trainer(settings.pop("output_dir"), train, trainer_eval_dataset=evaluated, **settings)
        if own["kill"]:
            arrange_death(own["kill"], grpo)
        grpo.train(resume_from_checkpoint=own["resume"])
        if grpo.is_world_process_zero() and own["out"]:
            torch.save({"weights": weights(grpo.model), "log": grpo.state.log_history}, own["out"])


if __name__ == "__main__":
    main()
