"""DeepSpeed's CPU backend: ZeRO 2 and 3 with two processes against one without DeepSpeed; resumed, saved, refused.

The first start compiles DeepSpeed's collective for CPUs, which takes a minute and needs a C++ compiler and ninja.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from audiorl.demo import CHECKPOINT
from tests.trainers.pair_rows import largest_difference
from tests.trainers.run_deepspeed import CASES
from tests.trainers.starting import CONFIGS, finish, free_port, start, write_pairs

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install deepspeed")
pytestmark = pytest.mark.slow
SCRIPT = str(Path(__file__).with_name("run_deepspeed.py"))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("deepspeed") / "found.pt"
    finish(start([sys.executable, SCRIPT, str(out)], DS_ACCELERATOR="cpu"))
    return torch.load(out, weights_only=False)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_to_the_weights_of_one(found, case):
    one = found["one"][case]
    for process in found["two"]:
        run = process[case]
        assert (run["stage"], run["engine"]) == (int(case[0]), "DeepSpeedEngine")
        assert run["sharded"] is case.startswith("3")
        assert len(run["log"]) == 4
        assert largest_difference(run["weights"], one["weights"]) < 1e-5
        assert [log["loss"] for log in run["log"]] == pytest.approx([log["loss"] for log in one["log"]], abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_as_the_one_that_went_on(found, case):
    for process in found["two"]:
        run = process[case]
        assert largest_difference(run["resumed"]["weights"], run["weights"]) < 1e-7
        assert [log["loss"] for log in run["resumed"]["log"]] == pytest.approx([log["loss"] for log in run["log"]])


@pytest.mark.parametrize("case", CASES)
def test_the_saved_model_loads_without_deepspeed(found, case):
    first = found["two"][0][case]
    if CASES[case].get("adapter"):
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(first["files"])
    else:
        assert largest_difference(first["loaded"], first["weights"]) == 0
    assert not any(".incomplete" in name for name in first["files"])


@pytest.mark.parametrize("case", CASES)
def test_a_weight_that_is_not_finite_is_found_by_the_process_that_holds_it(found, case):
    holders = [process[case]["spoilt"] for process in found["two"]]
    assert any(holders) if case.startswith("3") else all(holders)


def test_zero_three_refuses_to_decode(found):
    for process in found["two"]:
        assert "ZeRO 3 cannot run on sharded weights" in process["3 full"]["decode"]
        assert "decode" not in process["2 full"]


@pytest.mark.parametrize("stage", ["2", "3"])
def test_the_command_line_trains_by_the_shipped_config_and_resumes(tmp_path, stage):
    """As examples/accelerate_configs/README.md has it, on a machine without a GPU."""
    write_pairs(tmp_path / "pairs.jsonl")
    file = str(CONFIGS / f"deepspeed_zero{stage}.yaml")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, "--num_processes", "2"]
    places = ["--mixed_precision", "no", "--main_process_port", free_port(), "-m", "audiorl", "dpo"]
    rows = f"--model_name_or_path {CHECKPOINT} --dataset_name pairs.jsonl --output_dir out --report_to none"
    flags = f"{rows} --save_steps 1 --logging_steps 1 --max_steps"
    root = str(Path(__file__).parents[2])

    def run(*more: str) -> dict:
        command = [*launch, *places, *flags.split(), *more]
        finish(start(command, cwd=tmp_path, PYTHONPATH=root, CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu"))
        return json.loads((tmp_path / "out" / "trainer_state.json").read_text())

    assert run("2")["global_step"] == 2
    assert any(name.startswith("zero_pp_rank_1") for name in os.listdir(tmp_path / "out/checkpoint-1/global_step1"))
    again = run("2", "--resume_from_checkpoint", "out/checkpoint-1")
    assert again["global_step"] == 2 and [log["step"] for log in again["log_history"]][:2] == [1, 2]
