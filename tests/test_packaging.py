"""What is packed: a wheel with all that the library reads at run time, and nothing of its tests."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from audiorl._version import __version__

ROOT = Path(__file__).parents[1]


def test_the_citation_and_the_forms_can_be_read():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == __version__ and cited["license"] == "Apache-2.0"
    forms = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert len(forms) == 5 and all(yaml.safe_load(form.read_text()) for form in forms)
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()


def test_quantisation_is_an_extra_and_every_python_that_is_named_is_admitted():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not any("bitsandbytes" in asked for asked in project["dependencies"])
    assert "bitsandbytes" in project["optional-dependencies"]["quantization"][0]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    assert named == ["3.11", "3.12", "3.13"] and project["requires-python"] == ">=3.11"


@pytest.mark.slow
def test_the_wheel_holds_what_is_read_at_run_time(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet", "-w", str(tmp_path)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("audiorl-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    package = ROOT / "audiorl"
    missing = [
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and str(path.relative_to(ROOT)) not in names
    ]
    assert missing == []
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)
