"""The command line as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from audiorl.cli import COMMANDS, TRAINING, command
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
    assert done.stdout.endswith("set()\n")
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


def test_version_and_the_help_of_a_command():
    import audiorl as package

    assert audiorl("--version").stdout.strip() == package.__version__
    done = audiorl("grpo", "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: audiorl grpo")
    for flag in ("--reward_funcs", "--num_generations", "--freeze_encoder", "--config"):
        assert flag in done.stdout


def test_a_command_tunes_from_a_file_of_flags(base, data, tmp_path):  # noqa: F811
    flags = arguments(base, data, tmp_path / "out")
    lines = [f"{name.removeprefix('--')}: '{value}'" for name, value in zip(flags[::2], flags[1::2], strict=True)]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    done = audiorl("dpo", "--config", "run.yaml", "--max_steps", "1", "--eval_dataset_name", str(data), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "WER after" in done.stdout and (tmp_path / "out" / "model.safetensors").exists()
