# ruff: noqa: F811 (fixtures of tests.script_runs are named as arguments)
"""The example as a person runs it: flags, errors without tracebacks, exit codes."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.demo_runs import rates_of_demo
from tests.forks import run_forked
from tests.script_runs import arguments, base, data  # noqa: F401 (fixtures)

ROOT = Path(__file__).parents[1]
EXAMPLE = str(ROOT / "examples" / "dpo_whisper.py")
SFT_EXAMPLE = str(ROOT / "examples" / "sft_whisper.py")
GRPO_EXAMPLE = str(ROOT / "examples" / "grpo_whisper.py")
RAFT_EXAMPLE = str(ROOT / "examples" / "raft_whisper.py")


def run_example(*flags: str, cwd: Path, example: str = EXAMPLE, **environment: str) -> subprocess.CompletedProcess:
    return run_forked(example, *flags, cwd=cwd, env=environment)


def break_rows(path: Path, **changes: dict) -> None:
    """Change fields of lines, by line number: `break_rows(path, line2={"chosen": ""})`."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for line, fields in changes.items():
        rows[int(line.removeprefix("line")) - 1].update(fields)
    path.write_text("\n".join(map(json.dumps, rows)))


def test_pairs_of_ones_own_are_tuned_on_and_measured(base, data, tmp_path):
    done = run_example(*arguments(base, data, tmp_path / "out"), "--eval_dataset_name", str(data), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "WER before" in done.stdout and "WER after" in done.stdout and "95 % interval" in done.stdout
    assert f"The tuned checkpoint lies in {tmp_path / 'out'}\n" in done.stdout
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert "Chosen is" not in (tmp_path / "out" / "README.md").read_text()


def test_a_share_is_held_out_of_one_file(base, data, tmp_path):
    flags = [*arguments(base, data, tmp_path / "out"), "--eval_share", "0.5"]
    done = run_example(*flags, cwd=tmp_path, example=SFT_EXAMPLE)
    assert done.returncode == 0, done.stderr
    assert "Held out to measure on: 2 of 4 rows, rows name no speakers to keep apart." in done.stdout
    assert "on 2 held-out clips" in done.stdout
    assert "50% of pairs.jsonl, held out" in (tmp_path / "out" / "README.md").read_text()
    refused = run_example(*flags, "--eval_dataset_name", str(data), cwd=tmp_path, example=SFT_EXAMPLE)
    assert refused.returncode == 2 and "Choose one." in refused.stderr


def test_all_bad_rows_are_told_at_once_and_nothing_is_written(base, data, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(size=40_000) * 0.1, 16_000)
    (tmp_path / "text.wav").write_text("this is not audio")
    break_rows(
        data,
        line1={"audio": "missing.wav"},
        line2={"audio": "long.wav", "chosen": "  "},
        line3={"audio": "text.wav"},
        line4={"rejected": "the lazy dog", "language": "german"},
    )
    done = run_example(*arguments(base, data, tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for line in range(1, 5):
        assert f"pairs.jsonl:{line}" in done.stderr
    for words in (
        "missing.wav",
        "2.50 s long, the model hears 1 s",
        "chosen is empty",
        "not audio",
        "same text",
        "English",
    ):
        assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_skipping_trains_on_the_rest_and_leaves_the_reasons(base, data, tmp_path):
    silent = np.zeros(8000)
    soundfile.write(tmp_path / "silent.wav", silent, 16_000)
    break_rows(data, line1={"audio": "missing.wav"}, line3={"audio": "silent.wav"})
    done = run_example(*arguments(base, data, tmp_path / "out"), "--on_bad_rows", "skip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    left_out = [json.loads(line) for line in (tmp_path / "out" / "skipped_rows.jsonl").read_text().splitlines()]
    assert {row["where"].rsplit(":")[-1] for row in left_out} == {"1", "3"}
    assert any("silent" in row["problem"] for row in left_out)


def test_a_clip_that_breaks_on_decoding_stops_the_run_with_its_line(base, data, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 16_000)
    break_rows(data, line3={"audio": "silent.wav"})
    done = run_example(*arguments(base, data, tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "pairs.jsonl:3" in done.stderr and "silent" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--learning_rat", "1e-3"], ["unknown flag --learning_rat", "--learning_rate"]),
        (["--loss_type", "sigmoyd"], ["sigmoid"]),
        (["--beta", "-1"], ["beta"]),
        (["--model_name_or_path", "nowhere/at-all"], ["nowhere/at-all"]),
        (["--dataset_name", "missing.jsonl"], ["missing.jsonl"]),
        (["--resume_from_checkpoint", "True"], ["no whole checkpoint in"]),
    ],
)
def test_wrong_arguments_end_with_a_message(base, data, tmp_path, flags, words):
    done = run_example(*arguments(base, data, tmp_path / "out"), *flags, cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_from_its_last_whole_checkpoint_by_the_flag(base, data, tmp_path):
    flags = [*arguments(base, data, tmp_path / "out"), "--save_strategy", "steps", "--save_steps", "1"]
    assert run_example(*flags, "--max_steps", "1", cwd=tmp_path).returncode == 0
    (tmp_path / "out" / "checkpoint-9").mkdir()  # what a killed run of another program leaves
    done = run_example(*flags, "--resume_from_checkpoint", "True", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2


def grpo_arguments(base: Path, data: Path, out: Path) -> list[str]:
    return [*arguments(base, data, out), "--num_generations", "4", "--max_completion_length", "30"]


def test_grpo_takes_rewards_by_name_and_by_path_and_measures(base, data, tmp_path):
    (tmp_path / "my_rewards.py").write_text(
        "def vowels(completions, **kwargs):\n    return [sum(map(said.count, 'aeiou')) for said in completions]\n"
    )
    done = run_example(
        *grpo_arguments(base, data, tmp_path / "out"),
        *("--eval_dataset_name", str(data), "--eval_strategy", "no", "--logging_steps", "1"),
        *("--reward_funcs", "one_minus_wer", "my_rewards.vowels", "--reward_weights", "1.0", "0.5"),
        cwd=tmp_path,
        example=GRPO_EXAMPLE,
    )
    assert done.returncode == 0, done.stderr
    logged = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert {"rewards/one_minus_wer/mean", "rewards/vowels/mean"} <= logged[0].keys()
    assert "WER before" in done.stdout and "WER after" in done.stdout and "95 % interval" in done.stdout
    assert f"The tuned checkpoint lies in {tmp_path / 'out'}\n" in done.stdout
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--reward_funcs", "one_minus_wre"], ["one_minus_wre", "Did you mean 'one_minus_wer'"]),
        (["--reward_funcs", "one_minus_wer", "--reward_weights", "1", "2"], ["reward_weights", "got 2"]),
        (["--num_generations", "1"], ["num_generations >= 2", "Raise it"]),
        (["--reward_fun", "one_minus_wer"], ["unknown flag --reward_fun", "--reward_funcs"]),
    ],
)
def test_wrong_rewards_end_with_a_message_before_a_model_is_loaded(data, tmp_path, monkeypatch, capsys, flags, words):
    """In this process, for starting another is what takes the time; `run` turns a ValueError into its message."""
    out = tmp_path / "out"
    (tmp_path / "no-model").mkdir()
    monkeypatch.setattr(sys, "argv", [GRPO_EXAMPLE, *grpo_arguments(tmp_path / "no-model", data, out), *flags])
    main = runpy.run_path(GRPO_EXAMPLE)["main"]
    with pytest.raises((ValueError, SystemExit)) as stopped:
        main()
    told = f"{stopped.value} {capsys.readouterr().err}"
    assert "no-model" not in told and all(word in told for word in words)
    assert not out.exists()


def test_raft_says_that_a_cycle_kept_nothing_and_writes_no_model(base, data, tmp_path, monkeypatch):
    """Random weights never say the transcript, so no hypothesis is free of errors; in this process, as above."""
    flags = [
        "--num_cycles",
        "2",
        "--max_completion_length",
        "30",
        "--reward_threshold",
        "1.0",
        "--disable_tqdm",
        "true",
    ]
    monkeypatch.setattr(sys, "argv", [RAFT_EXAMPLE, *arguments(base, data, tmp_path / "out"), *flags])
    with pytest.raises(ValueError, match=r"Cycle 1 of 2 kept none of 16 hypotheses.*Lower reward_threshold"):
        runpy.run_path(RAFT_EXAMPLE)["main"]()
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {
        "metrics.jsonl",
        "metrics.csv",
        "report",
        ".run.lock",
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_grpo_demo_without_arguments_lowers_held_out_wer(tmp_path, seed):
    before, after = rates_of_demo("grpo_whisper.py", tmp_path, seed)
    assert after < before
    assert (tmp_path / "demo-grpo" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_raft_demo_without_arguments_lowers_held_out_wer(tmp_path, seed):
    before, after = rates_of_demo("raft_whisper.py", tmp_path, seed)
    assert after < before
    assert (tmp_path / "demo-raft" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_without_arguments_improves_held_out_wer_by_a_fifth(tmp_path, seed):
    before, after = rates_of_demo("dpo_whisper.py", tmp_path, seed)
    assert after <= 0.8 * before
    assert (tmp_path / "demo-dpo" / "model.safetensors").exists()
