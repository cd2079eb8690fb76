"""An example as it stands, without arguments but the seed: minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def rates_of_demo(example: str, folder: Path, seed: int) -> tuple[float, float]:
    """WER in percent before and after; run under torchrun, written to `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", str(ROOT / "examples" / example), "--seed", str(seed)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith(("WER before", "WER after"))]
    before, after = (float(line.split()[2]) for line in lines)
    return before, after
