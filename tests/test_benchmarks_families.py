"""The benchmark of families on a toy: both ways agree, and a record comes out."""

from __future__ import annotations

import json

import pytest
import torch
from families import WAYS, FamilyTask, check, main
from family_cases import FAMILY_SHAPES
from measuring import Step


@pytest.mark.parametrize("family", [name for name in FAMILY_SHAPES if name.endswith("-toy")])
@pytest.mark.parametrize("hypotheses", [1, 3])
def test_both_ways_give_the_same_loss_and_gradient(hypotheses, family):
    steps = {}
    for way in WAYS:
        task = FamilyTask(way, family, 2, hypotheses, "cpu")
        task.run()
        steps[way] = [Step(0.0, 0.0, 0, task.finish())]
        assert all(p.grad is None for p in task.model.parameters())
    check(family, steps)
    assert steps["groups"][0].value.gradient_norm > 0


def test_ways_that_compute_different_things_are_refused():
    steps = {}
    for way in WAYS:
        task = FamilyTask(way, "ctc-toy", 2, 2, "cpu")
        if way == "separate":
            task.weights = torch.zeros_like(task.weights)
        task.run()
        steps[way] = [Step(0.0, 0.0, 0, task.finish())]
    with pytest.raises(RuntimeError, match="compute different things"):
        check("ctc-toy", steps)


@pytest.mark.slow
def test_the_last_line_is_the_record(capsys, tmp_path):
    main(["--family", "ctc-toy", "--repeats", "1", "--hypotheses", "2", "--threads", "1"])
    table, record = capsys.readouterr().out.strip().rsplit("\n\n", 1)
    found = json.loads(record)
    assert found["benchmark"] == "families" and [row["way"] for row in found["rows"]] == list(WAYS)
    assert "CTC, for the tests" in table and all(row["seconds"] > 0 for row in found["rows"])
