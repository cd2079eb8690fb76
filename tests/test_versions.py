"""constraints.txt and pyproject.toml agree, and warnings are errors under the tested versions alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import versions

# Loggers that need an account or a server: tried in an environment of their own, and not part of `dev`.
NOT_IN_DEV = {"wandb", "trackio"}
WARNING_TEST = "import warnings\n\ndef test_it():\n    warnings.warn('an old name', FutureWarning)\n"


def test_every_dependency_is_pinned_within_its_bounds():
    pinned = versions.pinned()
    asked = [one for one in versions.requirements() if one.name not in NOT_IN_DEV]
    assert not [one.name for one in asked if versions.canonicalize_name(one.name) not in pinned]
    assert not [str(one) for one in asked if pinned[versions.canonicalize_name(one.name)] not in one.specifier]


def test_every_page_installs_the_tested_versions():
    docs = map(str, versions.ROOT.glob("docs/**/*.md"))
    pages = [".ci/run", "README.md", "CONTRIBUTING.md", "examples/README.md", *docs]
    lines = [line for page in pages for line in (versions.ROOT / page).read_text(encoding="utf-8").splitlines()]
    commands = [line for line in lines if re.search(r"pip install .*-e \"?\.", line)]
    assert len(commands) >= 6
    assert not [line for line in commands if "-c constraints.txt" not in line]


def test_the_oldest_versions_lie_within_the_bounds():
    bounds = {one.name: one.specifier for one in versions.requirements()}
    oldest = [Requirement(line) for line in versions.oldest().splitlines()]
    assert {one.name for one in oldest} == set(versions.MAIN)
    for one in oldest:
        first = Version(str(one.specifier).removeprefix("==").removesuffix(".*"))
        assert first in bounds[one.name], one


def test_a_build_of_the_tested_release_is_the_tested_version(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(versions, "pinned", lambda: {"torch": Version("2.13.0"), "not-installed": Version("1")})
    monkeypatch.setattr(versions, "version", lambda name: {"torch": "2.13.0+cu130"}.get(name) or missing(name))
    assert [one for one in versions.differing() if "Python" not in one] == []
    monkeypatch.setattr(versions, "pinned", lambda: {"torch": Version("2.12.1")})
    assert "torch 2.13.0+cu130 (tested: 2.12.1)" in versions.differing()


def missing(name: str) -> str:
    raise versions.PackageNotFoundError(name)


@pytest.mark.slow
@pytest.mark.parametrize("constraint, outcome", [("", 1), ("pytest==1.0\n", 0)])
def test_a_warning_is_an_error_under_the_tested_versions_alone(tmp_path: Path, constraint: str, outcome: int):
    """A copy of the settings with another constraints.txt, and a test that warns."""
    if versions.differing():
        pytest.skip("needs the versions of constraints.txt")
    (tmp_path / "tests").mkdir()
    for name in ("pyproject.toml", "tests/conftest.py", "tests/versions.py"):
        (tmp_path / name).write_text((versions.ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "constraints.txt").write_text(constraint)
    (tmp_path / "tests" / "test_warns.py").write_text(WARNING_TEST)
    run = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == outcome, run.stdout + run.stderr
