"""What `accelerate launch` makes of a config file, without launching."""

from __future__ import annotations

import contextlib
import io
import os
from argparse import Namespace
from pathlib import Path

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

CONFIGS = Path(__file__).parents[2] / "examples" / "accelerate_configs"


def launch_arguments(path: Path, *flags: str) -> Namespace:
    """The launcher's arguments, those of the file filled in."""
    asked = launch_command_parser().parse_args(["--config_file", str(path), *flags, "script.py"])
    with contextlib.redirect_stdout(io.StringIO()):
        return _validate_launch_command(asked)[0]


def launched(path: Path, *flags: str) -> dict[str, str]:
    """The environment variables that the launcher sets for the processes it starts."""
    arguments = launch_arguments(path, *flags)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ""
        _, environment = prepare_deepspeed_cmd_env(arguments)
    else:
        environment = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in environment.items() if os.environ.get(name) != value}
