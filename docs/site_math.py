"""Formulas: LaTeX to MathML when the site is built, so that no script and no network is needed to read them."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

# beneath and above in a formula of its own line, as LaTeX sets them; MathML is told
_WITH_LIMITS = re.compile(r"\\(sum|prod|max|min)(?=_)")


def mathml(latex: str) -> str:
    """A formula on a line of its own.

    Raises:
        LookupError: a command or an environment that latex2mathml does not know.
    """
    found = convert(_WITH_LIMITS.sub(r"\\\1\\limits", latex.strip()), display="block")
    left = re.search(r">(\\[A-Za-z]*|&)<", found)
    if left:
        raise LookupError(
            f"A formula has {left.group(1)!r}, which latex2mathml does not know: {latex.strip()!r}. Write it in other "
            "words, and lines that are aligned as several formulas."
        )
    return found


def fence(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **_: Any) -> str:
    """The block ```math of pymdownx.superfences; the search leaves it out, which would show its letters in a row."""
    return f'<div class="{css_class}" data-search-exclude>{mathml(source)}</div>'
