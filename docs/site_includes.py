"""Parts of other files of the repository on a page, and links that lead out of the site.

A marker is a line of its own, `<!-- NAME: WORDS -->`, outside code blocks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from markdown.extensions.toc import slugify

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "pages"
DRAWINGS = ROOT / "benchmarks" / "results"

_MARKER = re.compile(r"<!-- (\w+): (.+?) -->\s*")
_HEADING = re.compile(r"(#+) (.+?)\s*")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
# A star behind a word in a cell is a star: Python-Markdown would begin or end emphasis with it.
_STAR = re.compile(r"(?<=\w)\*(?=[,\s|])")
_ELSEWHERE = re.compile(r"[a-z]+:|#")


def with_markers(markdown: str, markers: Mapping[str, Callable[[str, Path], str]], page: Path) -> str:
    """A page with each marker replaced by what its function makes of its words.

    Raises:
        LookupError: a marker that has no function, or whatever the functions raise.
    """
    lines = []
    for line, in_code in lines_of(markdown):
        found = None if in_code else _MARKER.fullmatch(line)
        if found is not None and found[1] not in markers:
            raise LookupError(f"There is no marker {found[1]!r}, there are {', '.join(markers)}. Mend {line!r}.")
        lines.append(line if found is None else markers[found[1]](found[2], page))
    return with_stars("\n".join(lines))


def with_stars(markdown: str) -> str:
    """The text with the stars behind words of its tables escaped."""
    return "\n".join(
        line if code or not line.startswith("|") else _STAR.sub(r"\*", line) for line, code in lines_of(markdown)
    )


def section(words: str, page: Path) -> str:
    """`PATH#heading`, or `PATH#heading/heading` beneath another: what stands there, without the heading itself.

    `PATH` alone is what stands between the title and the first heading beneath it.

    Raises:
        LookupError: no such file or heading.
    """
    path, _, anchors = words.partition("#")
    source = ROOT / path
    if not source.is_file():
        raise LookupError(f"{path} is included and is not there. Mend the marker, or take it out.")
    lines = list(lines_of(source.read_text(encoding="utf-8")))
    if not anchors:
        lines = _beneath(lines, None, path)
        lines = lines[
            : next((i for i, (line, code) in enumerate(lines) if not code and _HEADING.fullmatch(line)), None)
        ]
    for anchor in anchors.split("/") if anchors else ():
        lines = _beneath(lines, anchor, path)
    text = "\n".join(line for line, _ in lines).strip("\n").rstrip()  # a first line may be code by its indent
    return with_links_of_the_site(text, source.parent, page)


def lines_of(markdown: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it belongs to a fenced code block."""
    fence = ""
    for line in markdown.split("\n"):
        mark = re.match(r"\s*(`{3,})", line)
        yield line, bool(fence or mark)
        if mark:
            fence = "" if fence == mark[1] else fence or mark[1]


def with_links_of_the_site(markdown: str, folder: Path, page: Path) -> str:
    """Links to files that the site does not have become their paths; links to pages and drawings lead there.

    Args:
        folder: where relative links of the text start.
        page: the page that the text is for.

    Raises:
        LookupError: a link to a file that is not there.
    """

    def linked(found: re.Match[str]) -> str:
        bang, label, address = found.groups()
        if _ELSEWHERE.match(address):
            return found[0]
        path, _, anchor = address.partition("#")
        target = (folder / path).resolve()
        if not target.exists():
            raise LookupError(f"A link leads to {address!r}, which is not there. Mend the link.")
        if target.is_relative_to(PAGES):
            beside = os.path.relpath(target, page.parent)
        elif target in drawings():
            beside = os.path.relpath(PAGES / place_of(target), page.parent)
        else:
            shown = target.relative_to(ROOT).as_posix()
            return f"`{shown}`" if label.strip("`") in shown else f"{label} (`{shown}`)"
        return f"{bang}[{label}]({beside}{'#' * bool(anchor)}{anchor})"

    return "\n".join(line if code else _LINK.sub(linked, line) for line, code in lines_of(markdown))


def drawings() -> list[Path]:
    """Drawings of benchmarks that pages may show."""
    return sorted(DRAWINGS.glob("*.svg"))


def place_of(drawing: Path) -> str:
    """Where a drawing lies in the site."""
    return f"drawings/{drawing.name}"


def _beneath(lines: list[tuple[str, bool]], anchor: str | None, path: str) -> list[tuple[str, bool]]:
    """The lines beneath a heading, up to the next of its level or above; None is the title."""
    headings = [
        (i, len(found[1]), found[2])
        for i, (line, code) in enumerate(lines)
        if not code and (found := _HEADING.fullmatch(line))
    ]
    chosen = [
        (i, level) for i, level, text in headings if (level == 1 if anchor is None else slugify(text, "-") == anchor)
    ]
    if len(chosen) != 1:
        known = ", ".join(slugify(text, "-") for _, _, text in headings)
        raise LookupError(
            f"{path} has {len(chosen)} headings {anchor!r}, one is included. Take one of {known}; write a/b for b "
            "beneath a."
        )
    start, level = chosen[0]
    end = next((i for i, other, _ in headings if i > start and other <= level), None)
    return lines[start + 1 : end]
