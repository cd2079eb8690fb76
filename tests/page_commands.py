"""Commands of a page, run in this process: `audiorl`, and scripts behind python, torchrun and accelerate launch."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import transformers

from audiorl import cli
from tests.code_blocks import ROOT

TUNING = ("tune", "sft", "dpo", "orpo", "kto", "grpo", "raft")
# Behind each run that tunes: on a CPU, in a moment.
SHORT = ("--use_cpu", "true", "--disable_tqdm", "true", "--max_steps", "4")


def parsed(command: str) -> tuple[str, list[str]]:
    """The script, or "-m audiorl", that a command starts, and its arguments.

    Flags of torchrun and accelerate are parsed by their own parsers, which end the program where they are wrong.

    Raises:
        ValueError: a program that is not known here.
    """
    program, *rest = shlex.split(command)
    if program == "audiorl":
        return "-m audiorl", rest
    if program == "python":
        return (" ".join(rest[:2]), rest[2:]) if rest[0] == "-m" else (rest[0], rest[1:])
    if program == "torchrun":
        from torch.distributed.run import parse_args

        launch = parse_args(rest)
    elif (program, rest[0]) == ("accelerate", "launch"):
        from accelerate.commands.launch import launch_command_parser

        launch = launch_command_parser().parse_args(rest[1:])
        if launch.config_file is not None and not (ROOT / launch.config_file).is_file():
            raise ValueError(f"{launch.config_file} of {command!r} is not there. Mend the page.")
    else:
        raise ValueError(f"{program} of {command!r} is not known here. Run it in page_commands.py, or list it.")
    return "-m " * bool(launch.module) + launch.training_script, launch.training_script_args


def run(command: str, monkeypatch) -> None:
    """Run it in the working folder; a run that tunes is short and on the CPU.

    Raises:
        AssertionError: it ended with an error.
        ValueError: a program or script that is not known here.
    """
    while (variable := re.match(r"([A-Z_]+)=(\S*) ", command)) is not None:
        monkeypatch.setenv(*variable.groups())
        command = command[variable.end() :]
    script, arguments = parsed(command)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    verbosity = transformers.utils.logging.get_verbosity()
    try:
        if script == "-m audiorl":
            helped = "--help" in arguments
            cli.main([*arguments, *(SHORT if arguments[0] in TUNING and not helped else ())])
        elif script.startswith("examples/"):
            monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments, *SHORT])
            runpy.run_path(str(ROOT / script), run_name="__main__")
        elif Path(script).is_file():
            runpy.run_path(script, run_name="__main__")
        else:
            raise ValueError(f"{script} of {command!r} is not there. Mend the page, or list the command.")
    except SystemExit as ended:
        assert not ended.code, f"{command} ended with {ended.code}"
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
