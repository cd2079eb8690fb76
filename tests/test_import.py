"""Importing the package, its losses or its rewards costs little and changes nothing."""

from __future__ import annotations

import subprocess
import sys

import audiorl


def loaded_after(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_neither_torch_nor_transformers():
    assert {"torch", "transformers"}.isdisjoint(loaded_after("import audiorl"))


def test_importing_losses_does_not_load_transformers():
    assert {"transformers", "trl", "datasets"}.isdisjoint(loaded_after("from audiorl.losses import CombinedObjective"))


def test_every_public_name_exists():
    for name in audiorl.__all__:
        assert getattr(audiorl, name) is not None
    assert audiorl.__version__.count(".") == 2
