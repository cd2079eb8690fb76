"""Online methods, and DPO of a CTC model, in processes of their own.

Two against one, killed and resumed against not stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from audiorl.trainers.checkpoints import last_whole_checkpoint
from tests.trainers.pair_rows import PLAIN_STEPS, largest_difference, weights
from tests.trainers.run_grpo import make

SCRIPT = str(Path(__file__).with_name("run_grpo.py"))
# Seven rows leave one process without a row of its own in the last step of an epoch.
METHODS: dict[str, dict[str, Any]] = {
    "advantages over the batch": {"scale_rewards": "batch", "sft_weight": 0.3, "loss_type": "grpo"},
    "inner updates, frozen encoder": {"num_iterations": 2, "beta": 0.2, "freeze_encoder": True},
    "online DPO": {"online_dpo": True, "dynamic_sampling_tries": 1},
    # the second process has a batch fewer to sample
    "RAFT": {"raft": True, "max_kept_per_clip": 2, "rollout_batch_size": 3, "sft_weight": 0.3},
    "RAFT, some clips": {"raft": True, "keep_top_percent": 0.4, "clips_per_cycle": 5, "freeze_encoder": True},
    # the second process has none
    "RAFT, one clip": {"raft": True, "clips_per_cycle": 1, "steps_per_cycle": 2},
    "CTC": {"ctc": "wav2vec2", "loss_type": "grpo"},
    "CTC, DPO": {"ctc": "wav2vec2", "dpo": True, "loss_type": ["sigmoid", "sft"]},
}


def run(settings: list[dict[str, Any]], processes: int = 1) -> subprocess.CompletedProcess:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    given = [{name: str(v) if isinstance(v, Path) else v for name, v in each.items()} for each in settings]
    return subprocess.run(
        [*launcher, SCRIPT, json.dumps(given)], env=quiet, capture_output=True, text=True, timeout=300
    )


def finished(path: Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> dict[str, dict]:
    """One launch for all methods: starting is what takes the time."""
    folder = tmp_path_factory.mktemp("two")
    files = {name: folder / f"{i}.pt" for i, name in enumerate(METHODS)}
    shared = {**PLAIN_STEPS, "num_train_epochs": 2, "rows": 7, "per_device_train_batch_size": 2}
    done = run([{**method, **shared, "output_dir": folder, "out": files[name]} for name, method in METHODS.items()], 2)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: finished(path) for name, path in files.items()}


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_sample_and_learn_what_one_does(tmp_path, two_processes, method):
    shared = {**METHODS[method], **PLAIN_STEPS, "num_train_epochs": 2}
    one = make(tmp_path, 7, per_device_train_batch_size=4, **shared)
    start = weights(one.model)
    one.train()
    assert largest_difference(weights(one.model), start) > 1e-3
    two = two_processes[method]
    assert largest_difference(weights(one.model), two["weights"]) < 1e-5
    # all but the summary of the run
    logs = [history[:-1] for history in (one.state.log_history, two["log"])]
    assert sum("loss" in log for log in logs[0]) == 4 * shared.get("num_iterations", 1)
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"epoch", "step", "learning_rate"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5, nan_ok=True), name


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "resumes_at"), [("in a step", 3), ("half a file", 2), ("after rename", 3)])
def test_killed_and_resumed_equals_not_stopped_bit_for_bit(tmp_path, moment, resumes_at):
    """Two updates for each round of rollouts: checkpoint 2 lies between rounds, checkpoint 3 within one."""
    settings = {"num_iterations": 2, "beta": 0.1, "sft_weight": 0.3, "num_train_epochs": 1}
    whole = run([{**settings, "output_dir": tmp_path / "whole", "out": tmp_path / "whole.pt"}])
    assert whole.returncode == 0, whole.stderr[-2000:]
    saving = {**settings, "output_dir": tmp_path / "run", "save_strategy": "steps", "save_steps": 1}
    died = run([{**saving, "kill": moment}])
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    stopped = last_whole_checkpoint(str(tmp_path / "run"))
    assert stopped.endswith(f"checkpoint-{resumes_at}")
    assert (Path(stopped) / "rollouts_0.pt").exists() is (resumes_at % 2 == 1)
    resumed = run([{**saving, "resume": True, "out": tmp_path / "resumed.pt"}])
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    first, second = finished(tmp_path / "whole.pt"), finished(tmp_path / "resumed.pt")
    assert largest_difference(first["weights"], second["weights"]) == 0
    losses = [[log["loss"] for log in run["log"] if "loss" in log] for run in (first, second)]
    assert losses[0] == losses[1]
