"""One HTML file that needs nothing else: style, scripts, numbers, texts and audio inside, no network, no server.

Text of transcripts and file names reaches the page as JSON in which `<`, `>` and `&` are escapes, and the scripts write
it as text, never as markup. A content security policy lets only the page's own script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from audiorl._version import __version__
from audiorl.files import whole_file
from audiorl.report.audio import MEGABYTE, Embedded, PageAudio
from audiorl.report.page_data import page_data
from audiorl.report.run_folder import RunFolder, read_run

REPORT_FILE = "report.html"
AUDIO_MEGABYTES = 20.0
SCRIPTS = ("elements.js", "player.js", "texts.js", "chart.js", "list.js", "sections.js", "training.js", "main.js")
# Markup; line ends of older JavaScript; halves of surrogate pairs, which UTF-8 cannot hold and file names may.
ESCAPES = {code: f"\\u{code:04x}" for code in (*map(ord, "<>&\u2028\u2029"), *range(0xD800, 0xE000))}


def write_report(
    run: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    audio_megabytes: float = AUDIO_MEGABYTES,
    title: str | None = None,
) -> Path:
    """Write the report of a run, or of an evaluation, as one HTML file.

    Args:
        run: a trainer's output_dir, or a JSON file that `audiorl evaluate --output` wrote.
        output: the file to write; default `report.html` in the run's folder, or beside the JSON file.
        audio_megabytes: how much of the file may be audio, in millions of characters, >= 0; clips beyond it are linked.
        title: of the page; default the run's name.

    Returns:
        The file's path.

    Raises:
        ValueError: the run left nothing to report, a file of it is damaged, or `audio_megabytes` is below zero.
    """
    if audio_megabytes < 0:
        raise ValueError(f"A report embeds audio_megabytes >= 0 of audio; got {audio_megabytes}. 0 links every clip.")
    source = Path(run)
    page = Path(output) if output is not None else _default_page(source)
    found = read_run(source)
    name = title or (source.stem if source.is_file() else source.resolve().name)
    text = page_text(found, page, name, audio_megabytes)
    page.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(page) as file:
        file.write(text)
    return page


def _default_page(source: Path) -> Path:
    return source.with_suffix(".html") if source.is_file() else source / REPORT_FILE


def page_text(run: RunFolder, page: Path, title: str, audio_megabytes: float) -> str:
    """The page as a text; `page` is where it will lie, from where links start."""
    audio = PageAudio(page, round(audio_megabytes * MEGABYTE))
    data = page_data(run, title, audio)
    data["made"] = f"audiorl {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    script = "\n".join(_static(name) for name in SCRIPTS)
    parts = {
        "title": html.escape(title).encode("utf-8", "replace").decode(),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": _static("page.css"),
        "data": script_safe_json(data),
        "audio": "\n".join(_audio_block(place, clip) for place, clip in enumerate(audio.embedded)),
        "script": script,
    }
    # in one pass over the template: what is put in is not looked at again
    pieces = _static("page.html").split("{{")
    return pieces[0] + "".join(
        parts[name] + rest for name, rest in (piece.split("}}", maxsplit=1) for piece in pieces[1:])
    )


def script_safe_json(value: Any) -> str:
    """JSON that cannot end the element it stands in, whatever texts it holds.

    Raises:
        ValueError: a number in it is not finite, which JSON cannot say.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def _audio_block(place: int, clip: Embedded) -> str:
    return f'<script type="text/plain" id="audio-{place}" data-kind="{clip.kind}">{clip.content}</script>'


def _static(name: str) -> str:
    return (files("audiorl.report") / "static" / name).read_text(encoding="utf-8")
