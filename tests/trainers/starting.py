"""Programs started as a user starts them: one process or a launcher with several."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import soundfile

from tests.tiny_models import tiny_clips
from tests.trainers.launching import CONFIGS

__all__ = ["CONFIGS", "ROOT", "TORCHRUN", "finish", "free_port", "start", "write_pairs"]

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def start(command: list[str], cwd: Path = ROOT, new_session: bool = False, **environment: str) -> subprocess.Popen:
    quiet = {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    environment = {**os.environ, **quiet, **environment}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=new_session,
    )


def write_pairs(path: Path, count: int = 16) -> None:
    """Rows with clips beside them."""
    lines = []
    for i, clip in enumerate(tiny_clips(count)):
        soundfile.write(path.with_name(f"{i}.wav"), clip, 16_000)
        lines.append(json.dumps({"audio": f"{i}.wav", "chosen": "the lazy dog", "rejected": f"dog {i}"}))
    path.write_text("\n".join(lines))


def finish(*processes: subprocess.Popen) -> str:
    said = "".join(process.communicate(timeout=400)[0] for process in processes)
    assert all(process.returncode == 0 for process in processes), said[-4000:]
    return said


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
