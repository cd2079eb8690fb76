"""The benchmark of GRPO's settings: its summary by hand, and arms of real speech where there is some."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "grpo_settings.py"


@pytest.fixture(scope="module")
def settings():
    return import_module("grpo_settings")


def unit(method: str, said: list[str], seed: int = 0, spread: Sequence[float] = ()) -> dict:
    signs = {"drift": 0.1, "sample_wer": 0.5, "best_sample_wer": 0.25}
    curve = [[], [{"reward_std": value, "frac_reward_zero_std": 0.0} for value in spread]]
    texts = {"transcripts": ["a b c d"] * len(said), "hypotheses": said}
    return {"method": method, "seed": seed, "steps": [1, 2], "signs": signs, "curve": curve, **texts}


def test_arms_are_compared_with_more_sft_and_their_spread_is_told(settings):
    right, one = "a b c d", "a b c x"
    units = {
        "0": unit("SFT goes on", [one] * 4),
        "1": unit("GRPO", [right] * 4, 0, [0.4, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1]),
        "2": unit("GRPO", [right, right, one, one], 1, [0.2] * 8),
        "3": {name: value for name, value in unit("checkpoint", [one] * 4).items() if name not in ("steps", "curve")},
    }
    told = settings.summary(units)
    assert told["GRPO"]["wer"] == 1 / 16 and told["GRPO"]["substitutions"] == 1 / 16
    assert told["GRPO"]["against_more_sft"]["difference"] == -3 / 16
    assert told["GRPO"]["against_more_sft"]["p"] < 0.01
    assert told["GRPO"]["training reward_std"] == pytest.approx([(0.4 + 0.2) / 2, (0.1 + 0.2) / 2])
    assert "training reward_std" not in told["SFT goes on"] and "against_more_sft" not in told["SFT goes on"]
    assert "| GRPO | 1, 2 | 6.2 % (0.0, 12.5) | -18.8, p = " in settings.table(told)


def test_arms_name_an_arm_whose_steps_cost_as_much(settings):
    for name, arm in settings.ARMS.items():
        assert arm.seconds_of is None or settings.ARMS[arm.seconds_of].seconds_of is None, name


@pytest.mark.slow
@pytest.mark.skipif("AUDIORL_TEST_DATA" not in os.environ, reason="real speech: AUDIORL_TEST_DATA is not set")
def test_arms_run_from_one_first_phase_and_are_told(tmp_path):
    seconds = {key: 60.0 for key in map(import_module("leave_one_out").key, arms_and_first())}
    for folder in (tmp_path, tmp_path / "grpo_settings"):
        folder.mkdir(exist_ok=True)
        (folder / "seconds.json").write_text(json.dumps(seconds))
    common = ["--out", str(tmp_path), "--minutes", "1", "--record", str(tmp_path / "record.json")]
    arms = ["--arms", "SFT stops", "SFT goes on", "easier clips first"]
    run = [sys.executable, str(BENCHMARK), "run", *common, "--seeds", "0", *arms]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.count(": WER ") == 4 and len(list((tmp_path / "first_phases").iterdir())) == 1
    tell = [sys.executable, str(BENCHMARK), "tell", *common]
    told = json.loads(subprocess.run(tell, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert set(told["arms"]) == {"checkpoint", "SFT stops", "SFT goes on", "easier clips first"}
    shutil.rmtree(tmp_path / "grpo_settings")
    assert "WER" not in subprocess.run(run, capture_output=True, text=True, check=True).stdout, "the record is enough"


def arms_and_first():
    module = import_module("grpo_settings")
    return [module.FIRST, *(arm.phase for arm in module.ARMS.values() if arm.phase is not None)]
