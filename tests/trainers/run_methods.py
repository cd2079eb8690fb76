"""Runs of `text_rows.MAKE` one after the other: `python run_methods.py '[{"method": "sft", "output_dir": ...}]'`.

Keys that are no config field: `method`, `rows` (how many), `out` (file for the final weights and the log).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.trainers.pair_rows import weights
from tests.trainers.text_rows import MAKE, ROWS


def main() -> None:
    torch.set_num_threads(1)
    for settings in json.loads(sys.argv[1]):
        method, count, out = (settings.pop(name) for name in ("method", "rows", "out"))
        made = MAKE[method](settings.pop("output_dir"), ROWS[method](count), **settings)
        made.train()
        if made.is_world_process_zero():
            torch.save({"weights": weights(made.model), "log": made.state.log_history}, out)


if __name__ == "__main__":
    main()
