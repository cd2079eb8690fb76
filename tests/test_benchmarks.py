"""The scoring benchmark on a toy shape: its four ways agree, its counts hold, its record can be read back."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Import a module of the benchmarks folder, which is no package: its scripts are run by path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def import_module(name: str) -> ModuleType:
        return importlib.import_module(name)

    return import_module


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("hypotheses", [1, 2, 3])
def test_every_way_gives_the_loss_and_the_gradients_of_full_forwards(load, tmp_path, one_thread, hypotheses):
    ways, shapes = load("scoring_ways"), load("counting").SHAPES
    setting = ways.Setting(shapes["toy"], 2, hypotheses, 12, "cpu", "float32")
    files = {}
    for row in ways.ROWS:
        task = ways.ScoringTask(row, setting)
        files[row.name] = tmp_path / f"{row.name}.safetensors"
        task.check(files[row.name])
        assert all(weight.grad is None for weight in task.model.parameters())
    for name in ("audio", "states", "groups", "groups + checkpointing"):
        found = ways.agreement(files[name], files["forwards"])
        assert found.loss <= 1e-5 and found.gradient <= 1e-4


def test_a_way_that_computes_something_else_is_refused(load, tmp_path, one_thread):
    """The third hypothesis' end token is left out of one side."""
    ways, shapes = load("scoring_ways"), load("counting").SHAPES
    setting = ways.Setting(shapes["toy"], 2, 3, 12, "cpu", "float32")
    right, wrong = (ways.ScoringTask(ways.Row("groups"), setting) for _ in range(2))
    keep = wrong.batch.keep.clone()
    keep[0, 2, int(keep[0, 2].nonzero().max())] = False
    wrong.batch = wrong.batch.replace(keep=keep)
    right.check(tmp_path / "right.safetensors")
    wrong.check(tmp_path / "wrong.safetensors")
    with pytest.raises(RuntimeError, match="wrong disagrees with right"):
        ways.agreement(tmp_path / "wrong.safetensors", tmp_path / "right.safetensors")


@pytest.mark.parametrize("way", ["forwards", "audio", "states", "groups"])
def test_counted_flops_equal_the_products_that_a_forward_runs(load, one_thread, way):
    """Oracle: torch's counter of matrix products, convolutions and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    ways, counting = load("scoring_ways"), load("counting")
    setting = ways.Setting(counting.SHAPES["toy"], 2, 3, 12, "cpu", "float32")
    task = ways.ScoringTask(ways.Row(way), setting)
    # attention written out, because the counter does not know the CPU's fused kernel
    with torch.no_grad(), nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            task.score()
    work = counting.sharing(way, 2, 3, 12, int(task.batch.keep.sum()))
    assert sum(counting.forward_flops(setting.shape, work).values()) == counter.get_total_flops()


def test_counted_weights_are_those_of_the_model(load):
    ways, counting = load("scoring_ways"), load("counting")
    shape = counting.SHAPES["toy"]._replace(width=128, feed_forward=512, vocabulary=2000)
    weights = sum(w.numel() for n, w in ways.build_model(shape).named_parameters() if "embed_positions" not in n)
    assert counting.parameters(shape) == pytest.approx(weights, rel=0.02)


def test_peak_memory_sees_what_a_block_held_and_gave_back(load):
    """64 MiB written and freed inside the block; what it held before is not its peak."""
    measuring = load("measuring")
    idle = measuring.held_bytes("cpu")
    with measuring.PeakMemory("cpu") as peak:
        torch.ones(2**24).sum()
    assert 60 * 2**20 < peak.bytes - idle < 90 * 2**20


def test_peak_memory_without_the_kernels_help_is_sampled(load, monkeypatch, tmp_path):
    measuring = load("measuring")
    monkeypatch.setattr(measuring, "CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    idle = measuring.held_bytes("cpu")
    with measuring.PeakMemory("cpu") as peak:
        held = torch.ones(2**24)
        for _ in range(20):
            held.add_(1)
    assert 60 * 2**20 < peak.bytes - idle < 90 * 2**20


def test_targets_are_judged_in_both_directions(load):
    """Speed has to be at least, memory at most what is asked."""
    tables = load("scoring_tables")
    common = {"predicted_flops": 1.0, "predicted_peak_bytes": 1.0, "hypotheses": 2}
    records = [
        {**common, "row": "forwards", "seconds": 2.0, "cpu_seconds": 3.0, "peak_bytes": 100},
        {**common, "row": "groups", "seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 60},
        {**common, "row": "groups + checkpointing", "seconds": 2.0, "cpu_seconds": 2.0, "peak_bytes": 40},
    ]
    judged = tables.judge(records)
    assert [(j["reached"], j["met"]) for j in judged] == [(2.0, True), (0.6, False), (0.4, True)]
    assert judged[0]["reached_in_cpu_time"] == 3.0
    assert "missed" in tables.targets_table(judged)


def test_scoring_benchmark_runs_and_its_last_line_is_json(tmp_path):
    out = tmp_path / "new" / "scoring.json"
    options = "--shape toy --tokens 12 --threads 1 --repeats 1 --hypotheses 2 --clips 2".split()
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "scoring.py"), *options, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    result = json.loads(last)
    assert json.loads(out.read_text()) == result
    rows = {row["row"]: row for row in result["rows"]}
    assert list(rows) == ["forwards", "audio", "states", "groups", "groups + checkpointing"]
    for row in rows.values():
        assert row["seconds"] > 0 and row["peak_bytes"] > 0 and len(row["all_seconds"]) == 2
        assert row["loss"] == pytest.approx(rows["forwards"]["loss"], rel=1e-5)
    for field in (
        "date",
        "commit",
        "torch",
        "transformers",
        "trl",
        "cpu",
        "threads",
        "matmul_flops_per_second",
    ):
        assert result[field]
    # promises are made for whisper-tiny's shape alone
    assert result["targets"] == []


@pytest.mark.parametrize("options", [["--hypotheses", "0"], ["--tokens", "500"], ["--repeats", "0"], ["--shap", "toy"]])
def test_options_that_make_no_sense_are_refused(load, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        load("scoring").main(options)
    assert stopped.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_a_task_that_cannot_be_built_is_reported_to_the_parent(load):
    """The task is built from arguments it does not take; the process's work is done in this one."""
    measuring, scoring = load("measuring"), load("scoring")
    near_end, far_end = multiprocessing.Pipe()
    measuring._serve(far_end, scoring.RateTask, (), "cpu", torch.get_num_threads())
    failed, answer = near_end.recv()
    assert failed and "TypeError" in answer
