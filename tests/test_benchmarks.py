"""The benchmarks on a toy shape: their ways agree, their counts hold, their records can be read back."""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import datasets
import numpy as np
import pytest
import soundfile
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("hypotheses", [1, 2, 3])
def test_every_way_gives_the_loss_and_the_gradients_of_full_forwards(tmp_path, one_thread, hypotheses):
    ways, shapes = import_module("scoring_ways"), import_module("counting").SHAPES
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


def test_a_way_that_computes_something_else_is_refused(tmp_path, one_thread):
    """The third hypothesis' end token is left out of one side."""
    ways, shapes = import_module("scoring_ways"), import_module("counting").SHAPES
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
def test_counted_flops_equal_the_products_that_a_forward_runs(one_thread, way):
    """Oracle: torch's counter of matrix products, convolutions and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    ways, counting = import_module("scoring_ways"), import_module("counting")
    setting = ways.Setting(counting.SHAPES["toy"], 2, 3, 12, "cpu", "float32")
    task = ways.ScoringTask(ways.Row(way), setting)
    # attention written out, because the counter does not know the CPU's fused kernel
    with torch.no_grad(), nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            task.score()
    work = counting.sharing(way, 2, 3, 12, int(task.batch.keep.sum()))
    assert sum(counting.forward_flops(setting.shape, work).values()) == counter.get_total_flops()


def test_counted_weights_are_those_of_the_model():
    ways, counting = import_module("scoring_ways"), import_module("counting")
    shape = counting.SHAPES["toy"]._replace(width=128, feed_forward=512, vocabulary=2000)
    weights = sum(w.numel() for n, w in ways.build_model(shape).named_parameters() if "embed_positions" not in n)
    assert counting.parameters(shape) == pytest.approx(weights, rel=0.02)


def fresh_memory(mebibytes: int) -> mmap.mmap:
    """Written, and from the kernel itself: an allocator may hand out what earlier tests freed."""
    taken = mmap.mmap(-1, mebibytes * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(taken, dtype=np.uint8)[:] = 1
    return taken


def test_peak_memory_sees_what_a_block_held_and_gave_back():
    """64 MiB written and freed inside the block; what it held before is not its peak."""
    measuring = import_module("measuring")
    idle = measuring.held_bytes("cpu")
    with measuring.PeakMemory("cpu") as peak:
        fresh_memory(64).close()
    assert 60 * 2**20 < peak.bytes - idle < 90 * 2**20


def test_peak_memory_without_the_kernels_help_is_sampled(monkeypatch, tmp_path):
    measuring = import_module("measuring")
    monkeypatch.setattr(measuring, "CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    idle = measuring.held_bytes("cpu")
    with measuring.PeakMemory("cpu") as peak:
        held = fresh_memory(64)
        seen = time.monotonic() + 60
        while peak.bytes < idle + 60 * 2**20 and time.monotonic() < seen:
            time.sleep(measuring.SAMPLING_SECONDS)
        held.close()
    assert 60 * 2**20 < peak.bytes - idle < 90 * 2**20


def test_targets_are_judged_in_both_directions():
    """Speed has to be at least, memory at most what is asked."""
    tables = import_module("scoring_tables")
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


@pytest.mark.slow
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
def test_options_that_make_no_sense_are_refused(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        import_module("scoring").main(options)
    assert stopped.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_a_task_that_cannot_be_built_is_reported_to_the_parent():
    """The task is built from arguments it does not take; the process's work is done in this one."""
    measuring, scoring = import_module("measuring"), import_module("scoring")
    near_end, far_end = multiprocessing.Pipe()
    measuring._serve(far_end, scoring.RateTask, (), "cpu", torch.get_num_threads())
    failed, answer = near_end.recv()
    assert failed and "TypeError" in answer


# ---- memory.py ----


@pytest.fixture
def toy_setting(one_thread):
    return import_module("scoring_ways").Setting(import_module("counting").SHAPES["toy"], 2, 2, 12, "cpu", "float32")


def test_orpo_of_full_forwards_groups_and_checkpointing_is_the_same_step(toy_setting, tmp_path):
    ways, compare = import_module("memory_ways"), import_module("scoring_ways").agreement
    losses = {}
    for row in ways.MEMORY_ROWS[:5]:
        task = ways.prepare_step(row, toy_setting, tmp_path / f"{row.key}.safetensors")
        task.run()
        losses[row.key] = task.finish().loss
        if row.full and row.key != "a":
            found = compare(tmp_path / f"{row.key}.safetensors", tmp_path / "a.safetensors")
            assert found.loss <= 1e-5 and found.gradient <= 1e-4
    assert list(losses) == ["a", "a'", "b", "c", "d"]
    assert all(loss == pytest.approx(losses["a"], rel=1e-5) for loss in losses.values())


def test_the_adapter_is_in_the_decoder_and_counted_as_it_is(toy_setting):
    ways, counting = import_module("memory_ways"), import_module("counting")
    task = ways.prepare_step(ways.MEMORY_ROWS[4], toy_setting, None)
    trained = {name: weight for name, weight in task.model.named_parameters() if weight.requires_grad}
    assert all("decoder" in name and "lora" in name for name in trained)
    task.run()
    assert all(weight.grad is not None for weight in trained.values())
    facts = task.finish()
    assert facts.trained == counting.adapter_parameters(toy_setting.shape, ways.RANK)
    optimizer = torch.optim.AdamW(trained.values())
    task.run()
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert facts.optimizer_bytes == sum(value.nbytes for value in held)


def test_eight_bit_layers_are_eight_bit_and_train_an_adapter(toy_setting):
    ways = import_module("memory_ways")
    full, eight = (ways.prepare_step(row, toy_setting, None) for row in ways.MEMORY_ROWS[4:])
    losses = []
    for task in (full, eight):
        task.run()
        losses.append(task.finish())
    assert losses[1].loss == pytest.approx(losses[0].loss, rel=0.05)
    assert losses[1].weight_bytes < losses[0].weight_bytes
    assert losses[1].trained == losses[0].trained


def test_greedy_decoding_decodes_as_many_tokens_as_asked_for(toy_setting, monkeypatch):
    task = import_module("memory_ways").InferenceTask(toy_setting)
    sample, found = task.family.sample_groups, []
    monkeypatch.setattr(task.family, "sample_groups", lambda *a, **k: found.append(sample(*a, **k)))
    task.run()
    assert found[0].tokens.shape[:2] == (2, 1)
    assert (found[0].keep.sum(-1) == toy_setting.tokens).all()


@pytest.mark.parametrize("fitting", [0, 1, 2, 7, 8, 9, 63, 100])
def test_the_largest_batch_is_found_by_trying(fitting):
    tried = []

    def fits(clips: int) -> bool:
        tried.append(clips)
        return clips <= fitting

    assert import_module("memory_ways").largest(fits, 64) == min(fitting, 64)
    assert len(tried) <= 14 and max(tried) <= 64


def test_memory_targets_are_of_the_step_and_the_best_row_takes_least_with_its_weights():
    tables = import_module("memory_tables")
    sizes = {"a": (10, 90), "b": (10, 50), "c": (10, 20), "d": (10, 12), "e": (4, 14)}
    records = [
        {"row": key, "weight_bytes": w, "step_bytes": s, "predicted": {"weight_bytes": w, "step_bytes": s}}
        for key, (w, s) in sizes.items()
    ]
    judged = tables.judge(records)
    assert [(one["row"], one["reached"], one["met"]) for one in judged] == [
        ("b", pytest.approx(5 / 9), False),
        ("c", pytest.approx(2 / 9), True),
        ("e", pytest.approx(14 / 90), True),
    ]
    assert [one["reached_with_weights"] for one in judged] == [0.6, 0.3, 0.18]
    assert "missed" in tables.targets_table(judged)


@pytest.mark.slow  # a minute in processes of its own; the scoring benchmark starts the same way
def test_memory_benchmark_runs_and_its_last_line_is_json(tmp_path):
    """The table of models measures the toy, and only counts what is beyond its limit."""
    options = "--shape toy --clips 2 --tokens 12 --threads 1 --repeats 1 --rows a b --table --table-shapes toy small"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "memory.py"), *options.split(), "--table-limit", "0.1"],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [row["row"] for row in result["rows"]] == ["a", "b"]
    assert result["rows"][1]["agreement"]["gradient"] <= 1e-4
    for row in result["rows"]:
        assert row["step_bytes"] > 0 and row["weight_bytes"] > 0 and row["optimizer_bytes"] == 8 * row["trained"]
    toy, small = result["models"]
    assert all(way["measured_step_bytes"] for way in toy["ways"].values())
    assert all(way["measured_step_bytes"] is None and way["total_bytes"] > 0 for way in small["ways"].values())
    assert "~" in done.stdout
    assert result["allocator"]["MALLOC_MMAP_THRESHOLD_"]
    assert result["targets"] == []  # promised for whisper-tiny's shape alone


@pytest.mark.parametrize("options", [["--clips", "0"], ["--tokens", "3"], ["--largest"], ["--rows", "z"]])
def test_memory_options_that_make_no_sense_are_refused(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        import_module("memory").main(options)
    assert stopped.value.code == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.slow
def test_windows_are_timed_from_the_longest_to_the_shortest(monkeypatch, capsys):
    window, shapes = import_module("window"), import_module("counting").SHAPES
    monkeypatch.setitem(shapes, "toy", shapes["toy"]._replace(positions=1500))  # 30 s
    window.main("--shape toy --tokens 12 --threads 1 --repeats 1 --clips 1".split())
    (result,) = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert [record["window"] for record in result["windows"]] == ["30 s", "15 s", "10 s"]
    counted = [record["predicted_flops"] for record in result["windows"]]
    assert counted == sorted(counted, reverse=True) and counted[0] > 2 * counted[2]


def test_curves_have_a_panel_for_each_method_and_a_line_for_each_seed():
    curves = import_module("curves")
    online = {
        "steps": [4, 6],
        "curve": [[{"step": 4, "loss": 2.0}], [{"step": 2, "reward": 0.1}, {"step": 6, "reward": 0.5}]],
    }
    plain = {"steps": [8], "curve": [[{"step": 4, "loss": 2.0}, {"step": 8, "loss": 1.0}]]}
    assert curves.points_of(online) == ("reward", [(6, 0.1), (10, 0.5)])
    drawn = curves.picture({"0": {"SFT": plain, "A & B": online}, "1": {"SFT": plain, "A & B": online}})
    assert drawn.count("<polyline") == 4 and "A &amp; B: reward" in drawn and "SFT: loss" in drawn
    ElementTree.fromstring(drawn)


def test_a_walk_counts_files_of_the_library_and_moves_between_them():
    walks = import_module("walks")
    from audiorl.notebook import html_text, percent
    from audiorl.text.normalizers import basic_text

    def work() -> str:
        return html_text("a") + percent(0.5) + basic_text("A b") + html_text("c")

    made, walk = walks.counted(work)
    assert made == "<pre>a</pre>50.0 %a b<pre>c</pre>"
    assert set(walk.files) == {"notebook.py", "text/normalizers.py"}
    assert (walk.moves, walk.calls) == (3, 0) and walk.files["notebook.py"] == 2


def test_an_epoch_of_both_ways_of_batching_hears_every_clip_once(tmp_path, capsys):
    """Twelve clips of 0.5 to 2.7 s, of which the longest are rare."""
    lines = []
    for i, seconds in enumerate([0.5, 0.6, 0.7, 0.8, 0.5, 0.6, 0.7, 0.8, 0.5, 0.6, 2.6, 2.7]):
        noise = np.random.default_rng(i).normal(scale=0.1, size=int(seconds * 16_000))
        soundfile.write(tmp_path / f"{i}.wav", noise, 16_000)
        lines.append(json.dumps({"audio": f"{i}.wav", "text": "A B", "duration": seconds}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    shape = ["--width", "16", "--layers", "1", "--max_batch_seconds", "3"]
    import_module("batching").main(["--rows", str(tmp_path / "rows.jsonl"), *shape])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    budget, fixed = found["ways"]["budget"], found["ways"]["fixed"]
    assert budget["largest_padded_seconds"] <= 3 < fixed["largest_padded_seconds"]
    assert budget["padded_share"] < fixed["padded_share"] and found["predicted"] > 1
    assert budget["clips_per_second"] > budget["clips_per_second_with_loading"] > 0


def test_starts_with_rows_are_timed_and_the_second_one_reads_verdicts(tmp_path, monkeypatch):
    from audiorl.datasets import kept_rows, verdicts

    rows = import_module("rows")
    monkeypatch.setattr(rows, "CLIPS", 3)
    monkeypatch.setattr(verdicts, "KEPT_FROM", 1)
    monkeypatch.setattr(kept_rows, "SETTLED", 0.0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.flac", np.random.default_rng(0).normal(scale=0.1, size=8_000), 16_000)
    path = str(rows.make_rows(tmp_path, 40))
    first = rows.start(path, "first")
    (kept,) = (tmp_path / "cache").rglob("*.verdicts")
    written = kept.stat().st_mtime_ns
    second = rows.start(path, "second")
    assert kept.stat().st_mtime_ns == written, "nothing was judged, so nothing was written"
    assert first.keys() == second.keys() and min(first["judge_s"], second["judge_s"]) > 0
    assert rows.start(path, "stream")["first_row_s"] > 0
