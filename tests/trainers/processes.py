"""Training scripts of this folder in processes of their own: one, or several at once; killed and resumed."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import torch

from audiorl.trainers.checkpoints import last_whole_checkpoint
from tests.forks import run_forked
from tests.trainers.pair_rows import largest_difference


def run_script(name: str, given: Any, processes: int = 1) -> subprocess.CompletedProcess:
    """Run a script of this folder with one argument, as JSON; paths in it become texts."""
    return run_forked(Path(__file__).with_name(name), json.dumps(given, default=str), processes=processes)


def run_online(settings: list[dict[str, Any]], processes: int = 1) -> subprocess.CompletedProcess:
    """Runs with rewards, one after the other; see `run_grpo.py`."""
    return run_script("run_grpo.py", settings, processes)


def finished(path: Path) -> dict:
    """Final weights and log of a run that was given an `out`."""
    return torch.load(path, weights_only=True)


def check_killed_and_resumed(folder: Path, settings: dict[str, Any], moment: str) -> Path:
    """A run with rewards that dies at a moment of `run_dpo.arrange_death` and resumes ends as one that did not stop, to
    the last bit.

    Returns:
        The checkpoint it resumed from.
    """
    whole = run_online([{**settings, "output_dir": folder / "whole", "out": folder / "whole.pt"}])
    assert whole.returncode == 0, whole.stderr[-2000:]
    saving = {**settings, "output_dir": folder / "run", "save_strategy": "steps", "save_steps": 1}
    died = run_online([{**saving, "kill": moment}])
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    stopped = last_whole_checkpoint(str(folder / "run"))
    assert stopped is not None, "no whole checkpoint was left"
    resumed = run_online([{**saving, "resume": True, "out": folder / "resumed.pt"}])
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    first, second = finished(folder / "whole.pt"), finished(folder / "resumed.pt")
    assert largest_difference(first["weights"], second["weights"]) == 0
    losses = [[log["loss"] for log in run["log"] if "loss" in log] for run in (first, second)]
    assert losses[0] == losses[1]
    return Path(stopped)
