"""The fenced code blocks of the repository's pages, and the commands in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PATTERNS = (
    *("README.md", "CONTRIBUTING.md", "audiorl/*/README.md", "benchmarks/README.md", "examples/**/README.md"),
    *("docs/README.md", "docs/pages/**/*.md"),
)
_FENCE = re.compile(r"( *)(`{3,})([\w-]*) *(.*)")


class Block(NamedTuple):
    """One block; `title` is what stands behind its language, as title="..."."""

    page: str  # path from the root
    line: int  # of its first line of code, from 1
    language: str
    title: str | None
    code: str

    @property
    def place(self) -> str:
        return f"{self.page} line {self.line}"


def pages() -> list[str]:
    """Every page of the repository that may hold code, by its path from the root."""
    return sorted({path.relative_to(ROOT).as_posix() for pattern in PATTERNS for path in ROOT.glob(pattern)})


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """The blocks of a page in order; `text` in place of what the file holds.

    Raises:
        ValueError: a block that does not end.
    """
    lines = ((ROOT / page).read_text(encoding="utf-8") if text is None else text).split("\n")
    found, start, opened = [], 0, None
    for number, line in enumerate(lines, 1):
        mark = _FENCE.fullmatch(line)
        if opened is None and mark:
            start, opened = number, mark
        elif opened is not None and line.strip() == opened[2]:
            title = re.search(r'title="([^"]*)"', opened[4])
            code = textwrap.dedent("\n".join(lines[start : number - 1])) + "\n"
            found.append(Block(page, start + 1, opened[3], title and title[1], code))
            opened = None
    if opened is not None:
        raise ValueError(f"The code block in line {start} of {page} does not end. Close it with {opened[2]}.")
    return found


def commands_of(block: Block) -> list[str]:
    """The commands of a shell block, each on one line, without comments; those joined by && are several."""
    lines = block.code.replace("\\\n", " ").split("\n")
    words = [" ".join(map(shlex.quote, shlex.split(line, comments=True))) for line in lines]
    return [command.strip() for line in words for command in line.split("'&&'") if command.strip()]


def same_print(shown: str, printed: str) -> bool:
    """Whether a block shows what was printed; `...` stands for anything, spaces and line ends for each other."""
    parts = [re.escape(" ".join(part.split())) for part in shown.split("...")]
    return re.fullmatch(r"\s*" + ".*?".join(parts) + r"\s*", " ".join(printed.split()), re.DOTALL) is not None
