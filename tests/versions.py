"""The versions that the suite was run with, `constraints.txt`, held against what is installed.

    python -m tests.versions freeze    the installed versions, to be written to constraints.txt
    python -m tests.versions oldest    the oldest release of each main dependency that pyproject.toml admits

Somebody else's next release may warn of what this project still does. That is news for its developers, not a failure
for whoever runs the tests: warnings are errors only under the versions of constraints.txt.
"""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
PYTHON = "3.11"
HEADER = f"""\
# The versions that the whole suite passes with (Python {PYTHON}, torch's CPU build); any within the bounds of
# pyproject.toml should do. Made by `python -m tests.versions freeze`.
"""
# The packages whose releases change what this project does. The others follow from what these ask for.
MAIN = (
    *("torch", "transformers", "trl", "accelerate", "peft", "datasets"),
    *("jiwer", "librosa", "soundfile", "bitsandbytes"),
)


def pinned() -> dict[str, Version]:
    """Package -> version, as constraints.txt has them."""
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): Version(number) for name, number in pairs}


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for, its extras included; this package's own extras are left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return [asked for text in texts if (asked := Requirement(text)).name != "audiorl"]


def differing() -> list[str]:
    """What is installed in another version than constraints.txt says, each as "package 1.2 (tested: 1.1)"."""
    found = [] if platform.python_version().startswith(PYTHON + ".") else [f"Python {platform.python_version()}"]
    for name, tested in pinned().items():
        try:
            installed = Version(version(name))
        except PackageNotFoundError:
            continue  # a package of an extra that is not here
        # a local part ("+cpu") names a build of the same release
        if installed.public != tested.public:
            found.append(f"{name} {installed} (tested: {tested})")
    return found


def freeze() -> str:
    """The installed versions as constraints.txt; installers and this package are left out."""
    installed = {canonicalize_name(found.metadata["Name"]): Version(found.version).public for found in distributions()}
    pins = (f"{name}=={installed[name]}" for name in sorted(installed) if name not in ("audiorl", "pip", "uv", "wheel"))
    return HEADER + "\n".join(pins) + "\n"


def oldest() -> str:
    """Constraints that hold the main dependencies to the oldest release that pyproject.toml admits."""
    bounds = ((asked.name, re.search(r">=(\d+)(?:\.(\d+))?", str(asked.specifier))) for asked in requirements())
    lower = {name: f"{found[1]}.{found[2] or 0}" for name, found in bounds if found}
    return "".join(f"{name}=={lower[name]}.*\n" for name in MAIN)


if __name__ == "__main__":
    sys.stdout.write({"freeze": freeze, "oldest": oldest}[sys.argv[1]]())
