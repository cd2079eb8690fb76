"""Runs the tutorial and writes what its blocks print beneath them.

    python docs/run_tutorial.py            # minutes: every block as it stands; rewrites the page and its picture
    python docs/run_tutorial.py --short    # seconds: fewer clips and steps; prints, and leaves the page alone

Blocks run in order in a process and an empty folder of their own: Python ones in one namespace, `audiorl` commands
through `audiorl.cli.main`. The Hub is the server of `tests/hub_server.py`; nothing else is reached.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "pages" / "tutorial.md"
BLOCK = re.compile(r"^```(python|bash|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- ran(?:: (\w+))? -->\n.*", re.DOTALL)
PICTURE = PAGE.with_name("report.png")
# What makes a run short; each stands in the page once.
SHORTER = (
    ('"tune", count=480', '"tune", count=24'),
    ('"held_out", count=240', '"held_out", count=24'),
    ("num_train_epochs=4", "max_steps=2, logging_steps=1"),
    ("num_generations=8", "num_generations=2"),
)
SETUP = "pip install"


class Cell(NamedTuple):
    """A block that is run."""

    language: str  # "python" or "bash"
    source: str


def cells(page: str) -> list[Cell]:
    """What is run of a page, in order; the line that installs is not."""
    return [Cell(*found) for found in BLOCK.findall(page) if found[0] != "text" and not found[1].startswith(SETUP)]


def outputs(page: str) -> list[str]:
    """The output beneath each of them, "" where there is none.

    Raises:
        ValueError: an output that stands beneath no block.
    """
    found: list[str] = []
    for language, content in BLOCK.findall(page):
        if language != "text":
            found += [] if content.startswith(SETUP) else [""]
        elif not found or found[-1]:
            raise ValueError(f"An output stands beneath no block: {content[:60]!r}. Remove it.")
        else:
            found[-1] = content
    return found


def digest(page: str) -> str:
    """Of everything that is run: outputs that are of other blocks are found out by it."""
    return hashlib.sha256(json.dumps(cells(page)).encode()).hexdigest()[:16]


def ran(page: str) -> str | None:
    """The `digest` of the blocks that the page's outputs are of; None where it was never run."""
    found = MARKER.search(page)
    return None if found is None else found[1]


def with_outputs(page: str, said: list[str], about: str) -> str:
    """The page with other outputs, and with a last line about the run."""
    body = BLOCK.sub(lambda block: "" if block[1] == "text" else block[0], MARKER.sub("", page))
    remaining = iter(said)

    def with_output(block: re.Match[str]) -> str:
        output = "" if block[2].startswith(SETUP) else next(remaining)
        return f"{block[0]}\n\n```text\n{output}```" if output else block[0]

    filled = BLOCK.sub(with_output, re.sub(r"\n{3,}", "\n\n", body))
    return f"{filled}<!-- ran: {digest(page)} -->\n{about}\n"


def shortened(page: str) -> str:
    """The page with fewer clips and steps.

    Raises:
        ValueError: a setting that is to be replaced does not stand in the page once.
    """
    for whole, short in SHORTER:
        if page.count(whole) != 1:
            raise ValueError(f"{whole!r} stands in {PAGE.name} {page.count(whole)} times, not once. Mend SHORTER.")
        page = page.replace(whole, short)
    return page


# ---- running ----


def run(page: str, picture: Path | None = None) -> list[str]:
    """What each cell of a page printed, run in a process of its own.

    Args:
        picture: where to put a picture of the report that a cell wrote; None for nowhere.

    Raises:
        RuntimeError: a cell failed; with what the process said of it.
    """
    sys.path.insert(0, str(ROOT))
    from tests.hub_server import WRITE_TOKEN, hub_server

    with hub_server() as hub, tempfile.TemporaryDirectory() as folder:
        os.makedirs(f"{folder}/work")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))},
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": WRITE_TOKEN,
            "HF_HOME": f"{folder}/hub",
            "HF_HUB_DISABLE_XET": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        done = subprocess.run(
            [sys.executable, __file__, "--cells", f"{folder}/outputs.json"],
            input=json.dumps(cells(page)),
            cwd=f"{folder}/work",
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"The tutorial failed:\n{done.stderr[-4000:]}")
        if picture is not None:
            photograph(Path(folder) / "work" / "tuned" / "report.html", picture)
        found: list[str] = json.loads(Path(f"{folder}/outputs.json").read_text(encoding="utf-8"))
        return found


def photograph(page: Path, picture: Path) -> None:
    """The top of a page as a browser shows it."""
    from tests.report.browser import chromium

    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        browser.get(page.as_uri())
        while browser.execute_script("return document.documentElement.dataset.ready") != "true":
            time.sleep(0.1)
        browser.save_screenshot(str(picture))


def run_cells(given: list[list[str]]) -> list[str]:
    """What each (language, source) prints; in this process and folder."""
    names: dict[str, Any] = {"__name__": "tutorial"}
    found = []
    for number, (language, source) in enumerate(given, 1):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            if language == "python":
                exec(compile(source, f"block {number} of the tutorial", "exec"), names)
            else:
                run_command(source)
        found.append("".join(f"{line.rstrip()}\n" for line in said.getvalue().strip("\n").splitlines()))
    return found


def run_command(source: str) -> None:
    from audiorl.cli import main

    program, *words = shlex.split(source)
    if program != "audiorl":
        raise ValueError(f"Blocks of the tutorial run audiorl's own commands; got {source!r}.")
    main(words)


def about_run(seconds: float) -> str:
    """When, of what and where."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = " with changes" if _git("status", "--porcelain", "--", "audiorl") else ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    when = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}{changed}"
    where = f"{seconds:.0f} s on {_processor()}, threads: {threads}; {packages}"
    return f"*Outputs of one run, {when}: {where}. `docs/run_tutorial.py` wrote them.*"


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    with contextlib.suppress(OSError):
        if found := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()):
            return found[1]
    return platform.processor() or platform.machine()


def main(argv: list[str]) -> None:
    if argv[:1] == ["--cells"]:
        said = run_cells(json.load(sys.stdin))
        Path(argv[1]).write_text(json.dumps(said), encoding="utf-8")
        return
    page = PAGE.read_text(encoding="utf-8")
    begun = time.monotonic()
    if argv == ["--short"]:
        print("\n".join(run(shortened(page))))
        return
    said = run(page, PICTURE)
    PAGE.write_text(with_outputs(page, said, about_run(time.monotonic() - begun)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
