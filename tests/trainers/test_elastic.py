"""Two launchers that find each other: one is killed and comes back; a scheduler's SIGTERM. On one machine, by gloo."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from audiorl.demo import CHECKPOINT
from audiorl.trainers.checkpoints import last_whole_checkpoint
from tests.trainers.pair_rows import largest_difference
from tests.trainers.starting import ROOT, TORCHRUN, finish, free_port, start, write_pairs

pytestmark = pytest.mark.slow
STEPS = 10
# a step of the demo's model and its checkpoint take about a second
FLAGS = (
    f"--model_name_or_path {CHECKPOINT} --dataset_name pairs.jsonl --output_dir out --report_to none --use_cpu true "
    "--per_device_train_batch_size 2 "
    f"--max_steps {STEPS} --save_steps 1 --save_total_limit 20 --logging_steps 1 --disable_tqdm true"
)


def machine(folder: Path, port: str) -> subprocess.Popen:
    """A launcher with one process, as a second machine would start it."""
    meeting = ["--rdzv_backend", "c10d", "--rdzv_id", "test", "--rdzv_endpoint", f"127.0.0.1:{port}"]
    flags = ["--nnodes", "2", "--nproc_per_node", "1", "--max_restarts", "3", *meeting]
    command = [*TORCHRUN, *flags, "-m", "audiorl", "dpo", *FLAGS.split(), "--resume_from_checkpoint", "auto"]
    return start(command, cwd=folder, new_session=True, PYTHONPATH=str(ROOT), TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")


def two_machines(folder: Path, port: str) -> list[subprocess.Popen]:
    """Two launchers; the first is where they meet, and has to stay."""
    first = machine(folder, port)
    until = time.monotonic() + 120
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                return [first, machine(folder, port)]
        assert first.poll() is None and time.monotonic() < until, "the first launcher does not listen"
        time.sleep(0.1)


def lose(launcher: subprocess.Popen) -> None:
    """End a launcher and its processes at once, as a machine that is gone."""
    process = psutil.Process(launcher.pid)
    for one in [*process.children(recursive=True), process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


@pytest.fixture(autouse=True)
def launchers(monkeypatch):
    """Every program that a test starts; none outlives it."""
    started: list[subprocess.Popen] = []
    begin = start

    def remembered(*args, **kwargs) -> subprocess.Popen:
        started.append(begin(*args, **kwargs))
        return started[-1]

    monkeypatch.setitem(globals(), "start", remembered)
    yield
    for one in started:
        if one.poll() is None:
            lose(one)
            one.communicate(timeout=60)


def wait_for(path: Path, *processes: subprocess.Popen) -> None:
    until = time.monotonic() + 240
    while not path.exists():
        assert all(process.poll() is None for process in processes), "a launcher ended before it was to"
        assert time.monotonic() < until, f"{path.name} was not written"
        time.sleep(0.05)


def steps_logged(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def test_a_machine_that_is_killed_and_comes_back_goes_on_from_the_last_checkpoint(tmp_path):
    write_pairs(tmp_path / "pairs.jsonl")
    port = free_port()
    first, second = two_machines(tmp_path, port)
    early = tmp_path / "out/checkpoint-2/audiorl_checkpoint.json"
    wait_for(early, first, second)
    lose(second)
    second.communicate(timeout=60)
    written = early.stat().st_mtime_ns
    again = machine(tmp_path, port)
    finish(first, again)
    assert steps_logged(tmp_path) == list(range(1, STEPS + 1))
    assert early.stat().st_mtime_ns == written, "the run began anew"
    # the same as a run that nothing happened to
    whole = tmp_path / "whole"
    whole.mkdir()
    write_pairs(whole / "pairs.jsonl")
    finish(*two_machines(whole, free_port()))
    ended, expected = (load_file(folder / "out/model.safetensors") for folder in (tmp_path, whole))
    assert largest_difference(ended, expected) < 1e-6


SRUN = """#!/bin/bash
# starts the program once for each machine, and hands SIGTERM on to both
for _ in 1 2; do "$@" & started="$started $!"; done
trap 'kill -TERM $started' TERM
for one in $started; do
    wait "$one"
    while kill -0 "$one" 2>/dev/null; do wait "$one"; done
    wait "$one" || code=$?
done
exit "${code:-0}"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> requeued; fi
"""


def job(folder: Path, port: str) -> subprocess.Popen:
    """examples/slurm.sh as SLURM would run it, with stand-ins for its two programs."""
    environment = {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "PROCESSES_PER_NODE": "1",
        "RENDEZVOUS_PORT": port,
        "PYTHONPATH": str(ROOT),
    }
    return start(["bash", str(ROOT / "examples/slurm.sh"), "dpo", *FLAGS.split()], folder, True, **environment)


def test_the_slurm_script_queues_a_stopped_job_again_which_goes_on(tmp_path):
    write_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "bin").mkdir()
    torchrun = f'#!/bin/bash\nexec {" ".join(TORCHRUN)} "$@"\n'
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "torchrun": torchrun}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    running = job(tmp_path, free_port())
    wait_for(tmp_path / "out/checkpoint-2/audiorl_checkpoint.json", running)
    os.kill(running.pid, signal.SIGTERM)  # as --signal=B:TERM@300 does: to this script alone
    said = finish(running)
    assert "stopped by SIGTERM after step" in said and "goes back into the queue" in said
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "7"]
    reached = last_whole_checkpoint(str(tmp_path / "out"))
    assert reached is not None and 2 < int(reached.rpartition("-")[2]) < STEPS
    finish(job(tmp_path, free_port()))
    assert steps_logged(tmp_path) == list(range(1, STEPS + 1))
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "7"], "a run that ended was queued again"


@pytest.mark.parametrize("line", ["--signal=B:TERM@", "--requeue", "--open-mode=append"])
def test_the_slurm_script_asks_for_what_it_counts_on(line):
    head = (ROOT / "examples/slurm.sh").read_text().partition("\nset -u")[0]
    assert f"#SBATCH {line}" in head
