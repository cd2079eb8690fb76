"""RAFT killed and resumed in processes of its own; `test_grpo_processes.py` has two processes against one."""

from __future__ import annotations

import pytest

from audiorl.trainers.raft_cycle import KEPT_FILE
from tests.trainers.processes import check_killed_and_resumed


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "resumes_at"), [("in a step", 3), ("half a file", 2), ("after rename", 3)])
def test_killed_and_resumed_equals_not_stopped_bit_for_bit(tmp_path, moment, resumes_at):
    """Cycles of two steps: checkpoint 2 lies between cycles, checkpoint 3 within one."""
    settings = {"raft": True, "steps_per_cycle": 2, "sft_weight": 0.3, "max_kept_per_clip": 2}
    stopped = check_killed_and_resumed(tmp_path, settings, moment)
    assert stopped.name == f"checkpoint-{resumes_at}"
    assert (stopped / KEPT_FILE).exists() is (resumes_at % 2 == 1)
