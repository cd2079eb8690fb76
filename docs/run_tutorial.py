"""Runs the tutorial as it stands, writes what its blocks print beneath them, and takes a picture of its report.

    python docs/run_tutorial.py        # minutes

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
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.code_blocks import Block, blocks_of  # noqa: E402

PAGE = ROOT / "docs" / "pages" / "tutorial.md"
PICTURE = PAGE.with_name("report.png")
# The last lines: of which blocks the outputs are, and of which run.
_RAN = re.compile(r"<!-- ran(?: (\w+))? -->\n.*", re.DOTALL)
_OUTPUT = re.compile(r"^```text\n(.*?)^```\n\n", re.MULTILINE | re.DOTALL)
_SETUP = "pip install"


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def cells(text: str) -> list[Block]:
    """What is run of a page, in order; the line that installs is not."""
    return [block for block in blocks_of(PAGE.name, text) if block.language != "text" and not _installs(block)]


def _installs(block: Block) -> bool:
    return block.code.startswith(_SETUP)


def outputs(text: str) -> list[str]:
    """The output beneath each of them, "" where there is none.

    Raises:
        ValueError: an output that stands beneath no block.
    """
    found: list[str] = []
    for block in blocks_of(PAGE.name, text):
        if block.language != "text":
            found += [] if _installs(block) else [""]
        elif not found or found[-1]:
            raise ValueError(f"The output of {block.place} stands beneath no block. Remove it.")
        else:
            found[-1] = block.code
    return found


def digest(text: str) -> str:
    """Of everything that is run: outputs that are of other blocks are found out by it."""
    return hashlib.sha256(json.dumps(_sources(cells(text))).encode()).hexdigest()[:16]


def _sources(blocks: Iterable[Block]) -> list[tuple[str, str]]:
    return [(block.language, block.code) for block in blocks]


def ran(text: str) -> str | None:
    """The `digest` of the blocks that a page's outputs are of; None where it was never run."""
    found = _RAN.search(text)
    return None if found is None else found[1]


def with_outputs(text: str, said: Iterable[str], about: str) -> str:
    """The page with other outputs, and with a last line about the run."""
    bare = _RAN.sub("", _OUTPUT.sub("", text))
    lines = bare.split("\n")
    for block, output in reversed(list(zip(cells(bare), said, strict=True))):
        end = block.line + block.code.count("\n")  # behind the line that closes it
        lines[end:end] = ["", "```text", *output.splitlines(), "```"] if output else []
    return "\n".join(lines) + f"<!-- ran {digest(text)} -->\n{about}\n"


# ---- running ----


def run(text: str, picture: Path | None = None) -> list[str]:
    """What each cell of a page printed, run in a process of its own.

    Args:
        picture: where to put a picture of the report that a cell wrote; None for nowhere.

    Raises:
        RuntimeError: a cell failed; with what the process said of it.
    """
    from tests.hub_server import WRITE_TOKEN, hub_server

    with hub_server() as hub, tempfile.TemporaryDirectory() as folder:
        work, printed = Path(folder) / "work", Path(folder) / "printed.json"
        work.mkdir()
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
            [sys.executable, __file__, str(printed)],
            input=json.dumps(_sources(cells(text))),
            cwd=work,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"The tutorial failed:\n{done.stderr[-4000:]}")
        if picture is not None:
            photograph(work / "tuned" / "report.html", picture)
        found: list[str] = json.loads(printed.read_text(encoding="utf-8"))
        return found


def run_cells(sources: Iterable[tuple[str, str]]) -> list[str]:
    """What each (language, code) prints; in this process and folder."""
    names: dict[str, Any] = {"__name__": "tutorial"}
    found = []
    for number, (language, code) in enumerate(sources, 1):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            if language == "python":
                exec(compile(code, f"block {number} of the tutorial", "exec"), names)
            else:
                run_command(code)
        found.append("".join(f"{line.rstrip()}\n" for line in said.getvalue().strip("\n").splitlines()))
    return found


def run_command(code: str) -> None:
    from audiorl.cli import main

    program, *words = shlex.split(code)
    if program != "audiorl":
        raise ValueError(f"Blocks of the tutorial run audiorl's own commands; got {code!r}.")
    main(words)


def photograph(shown: Path, picture: Path) -> None:
    """The top of a report as a browser shows it."""
    from tests.report.browser import chromium

    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        browser.get(shown.as_uri())
        while browser.execute_script("return document.documentElement.dataset.ready") != "true":
            time.sleep(0.1)
        browser.save_screenshot(str(picture))


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


def main() -> None:
    text, begun = page(), time.monotonic()
    said = run(text, PICTURE)
    PAGE.write_text(with_outputs(text, said, about_run(time.monotonic() - begun)), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:  # the process of `run`
        Path(sys.argv[1]).write_text(json.dumps(run_cells(json.load(sys.stdin))), encoding="utf-8")
