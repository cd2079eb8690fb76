"""The command line as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from audiorl.cli import COMMANDS, TRAINING, answered, command
from tests.script_runs import arguments, base, data  # noqa: F401 (fixtures)

ROOT = Path(__file__).parents[1]


def audiorl(*argv: str, cwd: Path = ROOT, timeout: float = 300) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "audiorl", *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_help_lists_every_command_and_loads_nothing_slow():
    code = "import sys; from audiorl.cli import main; main([]); print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.endswith("set()\n") and max(map(len, done.stdout.splitlines())) <= 80
    for name, does in COMMANDS.items():
        assert name in done.stdout and does in done.stdout
        assert callable(command(name))


def test_every_command_of_the_folder_is_listed():
    modules = {path.stem for path in (ROOT / "audiorl" / "commands").glob("[a-z]*.py")}
    assert modules - {"train"} == set(COMMANDS) - set(TRAINING) - {"export"}  # a function of the module datasets


@pytest.mark.parametrize(
    ("argv", "told"),
    [(["dop"], "unknown command dop; did you mean dpo?"), (["xyz"], "unknown command xyz; there are sft, dpo")],
)
def test_unknown_commands_end_with_2(argv, told):
    done = audiorl(*argv)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


def told_by(*argv: str, **files: str) -> tuple[str, str, str]:
    """What the command line prints on both streams, and which of the slow packages it has loaded.

    Args:
        files: stem -> text of the YAML files in the working folder.
    """
    code = (
        "import sys\nfrom audiorl.cli import main\ntry: main()\n"
        "finally: open('loaded', 'w').write(str(sorted({'torch', 'transformers', 'trl'} & set(sys.modules))))"
    )
    with tempfile.TemporaryDirectory() as folder:
        for stem, text in files.items():
            Path(folder, f"{stem}.yaml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", code, *argv],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
            capture_output=True,
            text=True,
        )
        return done.stdout, done.stderr, Path(folder, "loaded").read_text()


def test_former_names_pass_however_they_are_written():
    for words in (["--samples_per_prompt", "3"], ["--samples-per-prompt=3"], ["--num-generations=3"]):
        assert not answered("raft", words)


def test_version_and_the_help_of_a_command():
    import audiorl as package

    assert audiorl("--version").stdout.strip() == package.__version__
    shown, _, loaded = told_by("grpo", "--help")
    assert loaded == "[]"
    lines = shown.splitlines()
    assert lines[0] == "usage: audiorl grpo [flags]" and 30 <= len(lines) <= 45 and max(map(len, lines)) <= 80
    for flag in ("--reward_funcs", "--num_generations", "--freeze_encoder", "--config", "--eval_share", "--help-all"):
        assert flag in shown
    for name in ("datasets", "export"):
        shown, _, loaded = told_by(name, "--help")
        assert shown.startswith(f"usage: audiorl {name} ") and "One of jsonl, nemo, kaldi" in shown and loaded == "[]"
    everything, _, loaded = told_by("grpo", "--help-all")
    assert loaded == "[]"
    assert "--weight_decay" in everything and "--weight_decay" not in shown and len(everything.splitlines()) > 400


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["dpo", "--learning_rat", "1"], "error: unknown flag --learning_rat; did you mean --learning_rate?\n"),
        (["dpo", "--learning_rate", "fast"], "error: --learning_rate takes a number; got 'fast'.\n"),
        (["dpo", "--on_bad_rows", "skp"], "error: --on_bad_rows is not 'skp'. Did you mean skip? There are error, sk"),
        (["sft", "--dataset_name", "gone.jsonl"], "error: --dataset_name: there is no gone.jsonl. Check the path;"),
        (["orpo", "--timestamps"], "error: --timestamps: no flag says so here"),
        (["estimate", "sft", "--crad", "a100"], "error: unknown flag --crad; did you mean --card?\n"),
        (["estimate", "sft", "--precision", "bf61"], "error: --precision is not 'bf61'. Did you mean bf16?"),
        *(
            (
                [command, "--language", "germn"],
                "error: --language: no language is called 'germn'. Did you mean 'german'?",
            )
            for command in ("sft", "grpo", "pairs", "evaluate", "history")
        ),
        (["datasets", "fleurs", "--jsn"], "error: unknown flag --jsn; did you mean --json?\n"),
        (["datasets", "fleurs", "--limit", "few"], "error: --limit takes a whole number; got 'few'.\n"),
        (
            ["datasets", "fleurs", "esc50"],
            "error: --name takes one value; got 'fleurs esc50'. Put a value with spaces",
        ),
        (
            ["export", "--format", "kaldy"],
            "error: --format is not 'kaldy'. Did you mean kaldi? There are jsonl, nemo",
        ),
        (["export", "--dataset_name", "gone.jsonl"], "error: --dataset_name: there is no gone.jsonl. Check the path;"),
        (["export", "rows.jsonl"], "error: 'rows.jsonl' is no flag, and no flag before it takes it. Put a value with"),
        (
            ["export", "--limit", "3"],
            "error: --dataset_name, --output are missing. Add --dataset_name TEXT --out",
        ),
        (["report"], "error: --run is missing. Add --run TEXT; --help-all says more.\n"),
        (["raft", "--sample_per_prompt", "4"], "error: unknown flag --sample_per_prompt; did you mean "),
    ],
)
def test_wrong_flags_are_told_in_one_line_before_anything_is_loaded(argv, told):
    _, error, loaded = told_by(*argv)
    assert error.startswith(told) and error.count("\n") == 1 and loaded == "[]"


@pytest.mark.parametrize(
    ("command", "text", "told"),
    [
        ("dpo", "learning_rat: 1", "unknown flag --learning_rat in run.yaml; did you mean --learning_rate?\n"),
        ("dpo", "learning_rate: fast", "--learning_rate in run.yaml takes a number; got 'fast'.\n"),
        ("sft", "seed: {a: 1}", "--seed in run.yaml takes a whole number; got lines of `name: value`. Write it as see"),
        ("grpo", "reward_weights: [1, b]", "--reward_weights in run.yaml takes a number at each place; got 'b'.\n"),
        ("raft", "on_bad_rows: skp", "--on_bad_rows in run.yaml is not 'skp'. Did you mean skip? There are error, sk"),
        ("sft", "dataset_name: gone.jsonl", "--dataset_name in run.yaml: there is no gone.jsonl. Check the path;"),
        ("pairs", "strategy: [", "--config run.yaml is not YAML: "),
        ("evaluate", "- batch_size", "--config run.yaml holds no flags. Write lines of the form `flag: value`.\n"),
        ("dpo", "language: jp", "--language in run.yaml: no language is called 'jp'. Did you mean 'ja'? Write an"),
        ("estimate sft", "precision: bf61", "--precision in run.yaml is not 'bf61'. Did you mean bf16?"),
    ],
)
def test_a_wrong_file_of_flags_is_told_in_one_line_before_anything_is_loaded(command, text, told):
    _, error, loaded = told_by(*command.split(), "--config", "run.yaml", run=text)
    assert error.startswith(f"error: {told}") and error.count("\n") == 1 and loaded == "[]"


def test_a_file_of_flags_that_is_not_there_is_told_with_the_nearest():
    _, error, loaded = told_by("dpo", "--config", "rnu.yaml", run="seed: 1")
    assert error == "error: --config: there is no rnu.yaml. Did you mean run.yaml?\n" and loaded == "[]"


def test_a_command_tunes_from_a_file_of_flags(base, data, tmp_path):  # noqa: F811
    flags = arguments(base, data, tmp_path / "out")
    lines = [f"{name.removeprefix('--')}: '{value}'" for name, value in zip(flags[::2], flags[1::2], strict=True)]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    done = audiorl("dpo", "--config", "run.yaml", "--max_steps", "1", "--eval_dataset_name", str(data), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "WER after" in done.stdout and (tmp_path / "out" / "model.safetensors").exists()
