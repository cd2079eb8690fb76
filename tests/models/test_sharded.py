"""Sharded weights (FSDP2) in two processes against one process with whole weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audiorl.models.forward import calls_in_step, is_sharded
from tests.forks import run_forked
from tests.models.run_sharded import CASES, STEPS
from tests.tiny_models import tiny_whisper

SCRIPT = str(Path(__file__).with_name("run_sharded.py"))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """{"one": {case: results}, "two": [{case: results} of each process]}, of one script."""
    out = tmp_path_factory.mktemp("sharded") / "found.pt"
    done = run_forked(SCRIPT, str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=False)


def of_case(found: dict, case: str) -> tuple[dict, list[dict]]:
    return found["one"][case], [process[case] for process in found["two"]]


@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_and_weights_equal_one_process_with_whole_weights(found, case):
    one, two = of_case(found, case)
    together = [sum(parts) for parts in zip(*(process["losses"] for process in two), strict=True)]
    assert together == pytest.approx(one["losses"], rel=1e-5)
    assert len(set(one["losses"])) == STEPS
    for process in two:
        for kind, tolerance in (("gradients", 1e-5), ("weights", 1e-5)):
            assert process[kind].keys() == one[kind].keys()
            for name, expected in one[kind].items():
                allowed = tolerance * max(1.0, float(expected.abs().max()))
                assert float((process[kind][name] - expected).abs().max()) <= allowed, (kind, name)


@pytest.mark.parametrize("case", CASES)
def test_rollouts_equal_one_process_where_processes_end_at_different_lengths(found, case):
    """Every rollout has hypotheses that end earlier in one process than in the other: unequal calls would hang."""
    one, two = of_case(found, case)
    assert all(process["calls"] for process in two)
    assert any(first != second for first, second in zip(two[0]["calls"], two[1]["calls"], strict=True))
    for process in two:
        for place, row in enumerate(process["rows"]):
            for mine, whole in zip(process["samples"], one["samples"], strict=True):
                assert torch.equal(mine[place]["tokens"], whole[row]["tokens"])
                torch.testing.assert_close(mine[place]["logps"], whole[row]["logps"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_beams_equal_one_process(found, case):
    one, two = of_case(found, case)
    for process in two:
        for mine, row in zip(process["beams"], process["rows"], strict=True):
            assert torch.equal(mine["tokens"], one["beams"][row]["tokens"])
            torch.testing.assert_close(mine["scores"], one["beams"][row]["scores"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_encoding_alone_equals_one_process(found, case):
    one, two = of_case(found, case)
    for process in two:
        torch.testing.assert_close(process["states"], one["states"][process["rows"]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_no_warning_no_copy_of_a_sharded_model_and_no_graph_of_its_step(found, case):
    for process in of_case(found, case)[1]:
        assert "CUDA graph cannot gather" in process["captured"]
        assert process["warnings"] == []
        assert "Make its frozen copy first" in process["copy"]


def test_a_model_in_one_piece_is_called_as_it_is():
    model, _ = tiny_whisper()
    assert not is_sharded(model)

    def next_logits(tokens, start):
        raise AssertionError

    with calls_in_step(model, next_logits) as call:
        assert call is next_logits
