"""The benchmarks of rollouts and of GRPO steps on a toy shape: the ways do equal work, their targets are judged."""

from __future__ import annotations

import json
from importlib import import_module

import pytest
import torch

TOY = "--shape toy --tokens 6 --threads 1 --repeats 1 --hypotheses 3 --clips 2".split()


@pytest.fixture
def in_this_process(monkeypatch):
    """Workers that work here: processes are measuring.py's business and tested with it."""
    Step = import_module("measuring").Step

    class Here:
        def __init__(self, name, prepare, arguments, **_):
            self.name, self.task = name, prepare(*arguments)

        def go(self):
            self.task.run()
            return Step(1.0, 1.0, 0, self.task.finish())

        def close(self):
            pass

    monkeypatch.setattr(import_module("speed_tables"), "Worker", Here)


def toy_setting(**changes):
    fields = {"clips": 2, "hypotheses": 3, "tokens": 6, "device": "cpu", "precision": "float32", **changes}
    return import_module("rollout_ways").Setting(import_module("counting").SHAPES["toy"], **fields)


@pytest.mark.parametrize("row", ["groups", "groups, static", "generate", "whisper"])
def test_every_way_draws_the_same_number_of_tokens_behind_the_same_prefix(row):
    ways, setting = import_module("rollout_ways"), toy_setting()
    task = ways.RolloutTask(row, setting)
    task.run()
    assert task.finish() == 2 * 3 * 6
    first = task.drawn.clone()
    task.run()
    assert not torch.equal(task.drawn, first), "every run draws the same"


def test_a_way_that_ends_early_is_refused():
    ways, setting = import_module("rollout_ways"), toy_setting()
    task = ways.RolloutTask("groups", setting)
    task.run()
    task.drawn[0, 2] = ways.END
    with pytest.raises(RuntimeError, match="end token among them"):
        task.finish()


def test_whispers_generate_starts_from_our_prefix():
    """Its first forward reads the start and "no timestamps" and nothing else."""
    ways, setting = import_module("rollout_ways"), toy_setting()
    task = ways.RolloutTask("whisper", setting)
    seen = []
    decoder = task.model.get_decoder()
    decoder.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    task.run()
    prefix = task.batch.tokens[0, 0, : ways.PREFIX_TOKENS].tolist()
    assert seen[0].tolist() == [prefix] * 6 and all(ids.shape[-1] == 1 for ids in seen[1:])


@pytest.mark.parametrize("frozen", [False, True])
def test_both_ways_of_a_grpo_step_have_the_same_gradients_and_update(tmp_path, frozen):
    ways, setting = import_module("grpo_ways"), toy_setting()
    files = {row: tmp_path / f"{row}.safetensors" for row in ("groups", "audio")}
    tasks = {row: ways.GrpoTask(row, setting, frozen, file) for row, file in files.items()}
    found = import_module("scoring_ways").agreement(files["groups"], files["audio"])
    assert found.loss <= 1e-5 and found.gradient <= 1e-4
    for task in tasks.values():
        before = [weight.clone() for weight in task.model.parameters()]
        task.run()
        # weight decay moves weights without a gradient as well
        assert max(weight.grad.abs().max() for weight in task.model.parameters() if weight.grad is not None) > 0
        moved = [not torch.equal(old, new) for old, new in zip(before, task.model.parameters(), strict=True)]
        encoder = {id(weight) for weight in task.model.get_encoder().parameters()}
        inside = [id(weight) in encoder for weight in task.model.parameters()]
        assert any(moved)
        assert any(m for m, e in zip(moved, inside, strict=True) if e) is not frozen
        assert isinstance(task.finish(), float)


@pytest.mark.parametrize(
    "script, rows", [("rollout", ["groups", "generate", "whisper"]), ("grpo_step", ["groups", "audio"])]
)
def test_the_last_line_is_json(in_this_process, capsys, tmp_path, script, rows):
    out = tmp_path / "new" / "result.json"
    import_module(script).main([*TOY, "--out", str(out)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads(out.read_text()) == result
    assert result["benchmark"] == script and [row["row"] for row in result["rows"]] == rows
    for row in result["rows"]:
        assert row["hypotheses_per_second"] == 6 and row["predicted_flops"] > 0 and len(row["all_seconds"]) == 2
    flops = [row["predicted_flops"] for row in result["rows"]]
    assert flops == sorted(flops) and flops[0] < flops[-1]
    # promises are made for whisper-tiny's shape alone
    assert result["targets"] == []


def test_targets_are_judged_by_seconds():
    tables = import_module("speed_tables")
    common = {"hypotheses": 8, "cpu_seconds": 1.0, "predicted_flops": 1.0}
    records = [{**common, "row": "groups", "seconds": 2.0}, {**common, "row": "generate", "seconds": 3.2}]
    targets = [tables.Target(8, "groups", "generate", speed) for speed in (1.5, 1.7)]
    judged = tables.judge(records, [*targets, tables.Target(4, "groups", "generate", 1.0)])
    assert [(j["reached"], j["met"]) for j in judged] == [(1.6, True), (1.6, False)]
    assert "missed" in tables.targets_table(judged)


@pytest.mark.parametrize("script", ["rollout", "grpo_step"])
@pytest.mark.parametrize("options", [["--hypotheses", "0"], ["--tokens", "447"], ["--repeats", "0"], ["--shap", "toy"]])
def test_options_that_make_no_sense_are_refused(script, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        import_module(script).main(options)
    assert stopped.value.code == 2
    assert options[0] in capsys.readouterr().err
