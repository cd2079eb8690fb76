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
from tests.trainers.run_dpo import train_as_told


def make(
    output_dir: Any,
    count: int,
    *,
    dpo: bool = False,
    raft: bool = False,
    ctc: str | None = None,
    eval_rows: int = 0,
    untold: bool = False,
    **settings: Any,
) -> Any:
    """A trainer on `count` rows.

    Args:
        dpo, raft: another trainer than GRPO.
        ctc: kind of a tiny CTC model that takes the place of the tiny Whisper.
        eval_rows: so many rows, above 0, are evaluated.
        untold: without transcripts.
        settings: of `trainer` in `grpo_rows`, `raft_rows` or `pair_rows`.
    """
    if ctc is not None:
        settings["trainer_model"], settings["trainer_processing_class"] = tiny_ctc(ctc)
    if dpo:
        trainer, rows = pair_rows.trainer, ctc_rows.pairs if ctc else pair_rows.pair_rows
    else:
        trainer, rows = (raft_rows if raft else grpo_rows).trainer, ctc_rows.texts if ctc else grpo_rows.rows
    if eval_rows:
        settings["trainer_eval_dataset"] = rows(eval_rows)
    kept = [{name: value for name, value in row.items() if not (untold and name == "text")} for row in rows(count)]
    return trainer(output_dir, kept, **settings)


def main() -> None:
    torch.set_num_threads(1)
    for settings in json.loads(sys.argv[1]):
        own = {name: settings.pop(name, None) for name in ("rows", "out", "resume", "kill")}
        train_as_told(make(settings.pop("output_dir"), own["rows"] or 8, **settings), own)


if __name__ == "__main__":
    main()
