"""What notebooks show: tables in HTML, and one output that is drawn anew in place."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

# Rows of a table that stand for all of them
SHOWN_ROWS = 5


def html_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> str:
    """A table in HTML that shows texts as they are; None is an empty cell.

    Args:
        columns: one name for each cell of a row.
        rows: texts and numbers; floats are shown with four digits.
        note: a line above the table.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
    line = f"<p>{escape(note)}</p>" if note else ""
    return f"{line}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_text(text: str) -> str:
    """Lines of text as they are, in letters of one width."""
    return f"<pre>{escape(text)}</pre>"


def percent(rate: float | None) -> str:
    """A fraction as "12.3 %"; "" for None."""
    return "" if rate is None else f"{100 * rate:.1f} %"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


class Output:
    """One output of a notebook's cell; `show` replaces what it showed."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, html: str) -> None:
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(html), display_id=True)
        else:
            self._handle.update(HTML(html))
