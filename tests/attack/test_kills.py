"""Runs that are killed at random moments and started again equal runs that nobody stopped; see `kills.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def kill(*flags: str) -> str:
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), *flags]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    print(done.stdout)
    return done.stdout


def test_a_few_killed_runs_equal_runs_that_nobody_stopped():
    assert "4 of 4 equal" in kill("--quick", "--kills", "4", "--seed", "1")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_killed_runs_equal_runs_that_nobody_stopped():
    assert "200 of 200 equal" in kill("--kills", "200")
