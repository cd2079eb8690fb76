"""RAFT killed and resumed in processes of its own; `test_grpo_processes.py` has two processes against one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from audiorl.trainers.checkpoints import last_whole_checkpoint
from audiorl.trainers.raft_samples import KEPT_FILE
from tests.trainers.pair_rows import largest_difference
from tests.trainers.test_grpo_processes import finished, run


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "resumes_at"), [("in a step", 3), ("half a file", 2), ("after rename", 3)])
def test_killed_and_resumed_equals_not_stopped_bit_for_bit(tmp_path, moment, resumes_at):
    """Cycles of two steps: checkpoint 2 lies between cycles, checkpoint 3 within one."""
    settings = {"raft": True, "steps_per_cycle": 2, "sft_weight": 0.3, "max_kept_per_clip": 2}
    whole = run([{**settings, "output_dir": tmp_path / "whole", "out": tmp_path / "whole.pt"}])
    assert whole.returncode == 0, whole.stderr[-2000:]
    saving = {**settings, "output_dir": tmp_path / "run", "save_strategy": "steps", "save_steps": 1}
    died = run([{**saving, "kill": moment}])
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    stopped = last_whole_checkpoint(str(tmp_path / "run"))
    assert stopped.endswith(f"checkpoint-{resumes_at}")
    assert (Path(stopped) / KEPT_FILE).exists() is (resumes_at % 2 == 1)
    resumed = run([{**saving, "resume": True, "out": tmp_path / "resumed.pt"}])
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    first, second = finished(tmp_path / "whole.pt"), finished(tmp_path / "resumed.pt")
    assert largest_difference(first["weights"], second["weights"]) == 0
