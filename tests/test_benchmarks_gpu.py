"""gpu.sh on a CPU, its tables, and the benchmark that compares estimates with measurements."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import estimate as benchmark
import gpu_tables
import pytest

ROOT = Path(__file__).parents[1]
SPEED = ("scoring", "rollout", "grpo_step", "sft_step")
GPU = ROOT / "benchmarks/gpu.sh"


def run(mode: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "THREADS": "1", **environment}
    return subprocess.run(["bash", str(GPU), mode], env=environment, capture_output=True, text=True, timeout=1200)


def test_a_dry_run_says_what_a_gpu_would_be_given_and_writes_nothing(tmp_path):
    found = run("--dry", OUT=str(tmp_path / "out"))
    assert found.returncode == 0, found.stderr
    names = [line.partition(":")[0] for line in found.stdout.splitlines()]
    speed = [
        f"{name}-{shape}" for shape in ("small", "large-v3") for name in ("scoring", "rollout", "grpo_step", "sft_step")
    ]
    assert {*speed, "estimate-small", "fsdp2", "fp16", "zero2", "zero3"} == set(names)
    assert "--device cuda" in found.stdout and not (tmp_path / "out").exists()
    wrong = run("--tiy")
    assert wrong.returncode == 2 and "--tiny and --dry, not --tiy" in wrong.stderr


@pytest.mark.slow
def test_the_whole_script_runs_on_a_cpu(tmp_path):
    out = tmp_path / "out"
    found = run("--tiny", OUT=str(out))
    assert found.returncode == 0, found.stdout + found.stderr
    told = (out / "tables.md").read_text()
    for name in SPEED:
        assert json.loads((out / f"{name}-toy.json").read_text())["benchmark"] == name
        assert f"| {name}, toy, float32" in told
    assert "audiorl estimate, toy" in told
    for stage in ("zero2", "zero3") if importlib.util.find_spec("deepspeed") else ():
        assert f"| {stage}" in told and "3 steps" in told


def test_the_tables_give_speech_in_a_second_and_the_share_of_the_rate(tmp_path):
    row = {"row": "groups", "clips": 4, "hypotheses": 8, "seconds": 2.0, "peak_bytes": 2**30, "predicted_flops": 3e12}
    where = {
        **dict.fromkeys(("date", "commit", "device", "cpu", "torch", "transformers", "trl"), "X"),
        **{"cpus": 2, "threads": 1, "load_average": [0]},
    }
    scoring = {**where, "benchmark": "scoring", "shape": "small", "precision": "bfloat16", "rows": [row]}
    (tmp_path / "a.json").write_text(json.dumps({**scoring, "matmul_flops_per_second": 6e12}))
    (tmp_path / "runs/zero2").mkdir(parents=True)
    (tmp_path / "runs/fp16").mkdir()
    history = [{"loss": 0.5}, {"train_memory/peak_gib": 1.5}]
    state = {"global_step": 3, "log_history": history}
    (tmp_path / "runs/zero2/trainer_state.json").write_text(json.dumps(state))
    told = gpu_tables.tables(tmp_path)
    assert "a large matrix product reaches 6 TFLOP/s" in told
    # 4 clips of 30 s in 2 s; 1.5 of 6 TFLOP/s
    cells = [cell.strip() for cell in next(line for line in told.splitlines() if "scoring" in line).split("|")[1:-1]]
    assert cells == ["scoring, small, bfloat16", "groups", "4 x 8", "2", "60", "25%", "1.00"]
    assert [line[1] for line in gpu_tables.run_lines(tmp_path)] == ["did not end", "3 steps"]
    assert gpu_tables.tables(tmp_path / "runs") == "No benchmark of this run left a result."


@pytest.mark.slow
def test_estimates_are_near_what_steps_take(tmp_path, capsys):
    out = tmp_path / "found.json"
    benchmark.main(["--shape", "tiny", "--threads", "1", "--tokens", "20", "--repeats", "1", "--out", str(out)])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record == json.loads(out.read_text())
    for case in record["cases"]:
        if case["predicted_bytes"] is not None:
            assert 0.7 < case["predicted_bytes"] / case["measured_bytes"] < 1.4, case


@pytest.mark.parametrize("options", ["--threads 0", "--tokens 3", "--shap toy", "--precision bfloat16"])
def test_options_that_make_no_sense_are_refused(options, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(options.split())
    assert ended.value.code == 2
