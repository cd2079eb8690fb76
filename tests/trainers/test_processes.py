"""Runs in processes of their own: killed and resumed, and two processes against one."""

from __future__ import annotations

import shutil
import signal
import subprocess

import pytest

from audiorl.trainers.checkpoints import STAGING, last_whole_checkpoint
from tests.trainers.pair_rows import PLAIN_STEPS, largest_difference
from tests.trainers.processes import finished, run_script


def run_dpo(processes: int = 1, **settings) -> subprocess.CompletedProcess:
    return run_script("run_dpo.py", settings, processes)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = run_dpo(output_dir=folder, out=folder / "final.pt", num_train_epochs=2)
    assert done.returncode == 0, done.stderr[-2000:]
    return finished(folder / "final.pt")


@pytest.mark.parametrize(
    ("moment", "resumes_at"), [("in a step", 3), ("half a file", 2), ("before rename", 2), ("after rename", 3)]
)
def test_killed_and_resumed_equals_not_stopped_bit_for_bit(tmp_path, uninterrupted, moment, resumes_at):
    settings = {"output_dir": tmp_path / "run", "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    died = run_dpo(**settings, kill=moment)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert last_whole_checkpoint(str(tmp_path / "run")).endswith(f"checkpoint-{resumes_at}")
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= {p.name for p in folder.iterdir()}
    resumed = run_dpo(**settings, resume=True, out=tmp_path / "final.pt")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert not (tmp_path / "run" / STAGING).exists()
    after = finished(tmp_path / "final.pt")
    assert largest_difference(uninterrupted["weights"], after["weights"]) == 0
    losses = [[log["loss"] for log in run["log"] if "loss" in log] for run in (uninterrupted, after)]
    assert losses[0] == losses[1]


def test_a_synced_reference_survives_a_resume(tmp_path):
    settings = {"sync_ref_model": True, "ref_model_sync_steps": 2, "num_train_epochs": 2}
    whole = run_dpo(output_dir=tmp_path / "a", out=tmp_path / "whole.pt", **settings)
    assert whole.returncode == 0, whole.stderr[-2000:]
    saving = {**settings, "output_dir": tmp_path / "b", "save_strategy": "steps", "save_steps": 1}
    assert run_dpo(**saving, kill="after rename").returncode == -signal.SIGKILL
    assert run_dpo(**saving, resume=True, out=tmp_path / "resumed.pt").returncode == 0
    runs = [finished(tmp_path / f"{name}.pt")["weights"] for name in ("whole", "resumed")]
    assert largest_difference(*runs) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": ["sigmoid", "sft"], "rows": 7},
        {"loss_type": ["aot", "sft"], "rows": 8},
        {"loss_type": ["sigmoid"], "rows": 7, "files": 1, "max_steps": 4},
        {"loss_type": ["sigmoid"], "freeze_encoder": True, "gradient_accumulation_steps": 2, "rows": 7},
        pytest.param(
            {
                **{"loss_type": ["sigmoid"], "rows": 4, "kind": "multilingual", "language": "en"},
                "columns": {"history": ["dog", "a fox", None, "so"], "history_hypothesis": ["do", None, "a", "so so"]},
                **{"history_dropout": 0.4, "history_hypotheses": 0.5},
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=[
        "uneven last batch",
        "a loss over the whole batch",
        "a stream",
        "frozen encoder, accumulation",
        "histories drawn",
    ],
)
def test_two_processes_end_with_the_weights_of_one(tmp_path, settings):
    """Seven rows leave one process without a row of its own in the last step: the repeated row has no weight."""
    shared = {**settings, **PLAIN_STEPS, "num_train_epochs": 2}
    one = run_dpo(output_dir=tmp_path / "one", out=tmp_path / "one.pt", per_device_train_batch_size=4, **shared)
    assert one.returncode == 0, one.stderr[-2000:]
    two = run_dpo(2, output_dir=tmp_path / "two", out=tmp_path / "two.pt", per_device_train_batch_size=2, **shared)
    assert two.returncode == 0, two.stderr[-2000:]
    single, double = finished(tmp_path / "one.pt"), finished(tmp_path / "two.pt")
    assert largest_difference(single["weights"], double["weights"]) < 1e-5
    losses = settings["loss_type"]
    terms = [f"loss/{name}" for name in losses] if len(losses) > 1 else []
    for name in ("loss", *terms, "rewards/margins", "entropy", "logps/chosen"):
        logged = [[log[name] for log in run["log"] if name in log] for run in (single, double)]
        assert logged[0] and logged[0] == pytest.approx(logged[1], rel=1e-4, abs=1e-6), name


def test_sigterm_to_one_of_two_processes_ends_both_after_the_same_step(tmp_path):
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 3, **PLAIN_STEPS}
    whole = run_dpo(2, output_dir=tmp_path / "whole", out=tmp_path / "whole.pt", **settings)
    assert whole.returncode == 0, whole.stderr[-2000:]
    ended = run_dpo(2, output_dir=tmp_path / "run", save_strategy="no", kill="sigterm", **settings)
    assert ended.returncode != 0 and "stopped by SIGTERM after step 4 of 6" in ended.stderr, ended.stderr[-2000:]
    assert last_whole_checkpoint(str(tmp_path / "run")).endswith("checkpoint-4")
    again = run_dpo(2, output_dir=tmp_path / "run", out=tmp_path / "again.pt", resume=True, **settings)
    assert again.returncode == 0, again.stderr[-2000:]
    runs = [finished(tmp_path / f"{name}.pt")["weights"] for name in ("whole", "again")]
    assert largest_difference(*runs) == 0


def test_two_processes_resumed_within_the_second_epoch_read_its_rows_in_its_order(tmp_path):
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    whole = run_dpo(2, output_dir=tmp_path / "run", out=tmp_path / "whole.pt", **settings, **PLAIN_STEPS)
    assert whole.returncode == 0, whole.stderr[-2000:]
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")  # two steps an epoch: 3 lies in the second one
    again = run_dpo(2, output_dir=tmp_path / "run", out=tmp_path / "again.pt", resume=True, **settings, **PLAIN_STEPS)
    assert again.returncode == 0, again.stderr[-2000:]
    runs = [finished(tmp_path / f"{name}.pt")["weights"] for name in ("whole", "again")]
    assert largest_difference(*runs) == 0
