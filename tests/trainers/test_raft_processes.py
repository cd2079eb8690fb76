"""RAFT in processes of its own: two against one, killed and resumed against not stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from audiorl.trainers.checkpoints import last_whole_checkpoint
from audiorl.trainers.raft_samples import KEPT_FILE
from tests.trainers.grpo_rows import rows
from tests.trainers.pair_rows import PLAIN_STEPS, largest_difference, weights
from tests.trainers.raft_rows import trainer
from tests.trainers.test_grpo_processes import finished, run

SCRIPT = str(Path(__file__).with_name("run_raft.py"))
# Seven rows in batches of three leave the second process a batch fewer to sample than the first.
METHODS: dict[str, dict[str, Any]] = {
    "best of each clip": {"max_kept_per_clip": 2, "rollout_batch_size": 3, "sft_weight": 0.3},
    "best of all, some clips": {"keep_top_percent": 0.4, "clips_per_cycle": 5, "freeze_encoder": True},
    "one clip": {"clips_per_cycle": 1, "rollout_batch_size": 1},
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> dict[str, dict]:
    """One launch for all: starting is what takes the time."""
    folder = tmp_path_factory.mktemp("two")
    files = {name: folder / f"{i}.pt" for i, name in enumerate(METHODS)}
    shared = {**PLAIN_STEPS, "rows": 7, "per_device_train_batch_size": 2, "output_dir": folder}
    done = run([{**method, **shared, "out": files[name]} for name, method in METHODS.items()], 2, SCRIPT)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: finished(path) for name, path in files.items()}


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_sample_keep_and_learn_what_one_does(tmp_path, two_processes, method):
    one = trainer(tmp_path, rows(7), per_device_train_batch_size=4, **METHODS[method], **PLAIN_STEPS)
    start = weights(one.model)
    one.train()
    two = two_processes[method]
    assert largest_difference(weights(one.model), two["weights"]) < 1e-5
    assert largest_difference(weights(one.model), start) > 1e-3
    logs = [[log for log in history if "train_loss" not in log] for history in (one.state.log_history, two["log"])]
    assert len(logs[0]) == len(logs[1]) == 2 + 2 * one._steps_per_cycle()
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"epoch", "step"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "resumes_at"), [("in a step", 3), ("half a file", 2), ("after rename", 3)])
def test_killed_and_resumed_equals_not_stopped_bit_for_bit(tmp_path, moment, resumes_at):
    """Cycles of two steps: checkpoint 2 lies between cycles, checkpoint 3 within one."""
    settings = {"steps_per_cycle": 2, "sft_weight": 0.3, "max_kept_per_clip": 2}
    whole = run([{**settings, "output_dir": tmp_path / "whole", "out": tmp_path / "whole.pt"}], 1, SCRIPT)
    assert whole.returncode == 0, whole.stderr[-2000:]
    saving = {**settings, "output_dir": tmp_path / "run", "save_strategy": "steps", "save_steps": 1}
    died = run([{**saving, "kill": moment}], 1, SCRIPT)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    stopped = last_whole_checkpoint(str(tmp_path / "run"))
    assert stopped.endswith(f"checkpoint-{resumes_at}")
    assert (Path(stopped) / KEPT_FILE).exists() is (resumes_at % 2 == 1)
    resumed = run([{**saving, "resume": True, "out": tmp_path / "resumed.pt"}], 1, SCRIPT)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    first, second = finished(tmp_path / "whole.pt"), finished(tmp_path / "resumed.pt")
    assert largest_difference(first["weights"], second["weights"]) == 0
