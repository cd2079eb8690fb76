"""Clips for a page: compressed and embedded until a size is reached, linked from there on.

A clip that is a small MP3, Ogg or Opus file goes in as it is; any other is decoded and written as mono MP3 at 16 kHz,
about 3 kB for each second, which every browser plays.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import soundfile

from audiorl.audio import AudioFault, load_audio

RATE = 16_000
MEGABYTE = 1_000_000
# Files that browsers play, taken as they are up to this many bytes for each second of speech.
PLAYABLE = {".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".oga": "audio/ogg", ".opus": "audio/ogg"}
SMALL = 6_000
# libsndfile's scale from 0, best, to 1, smallest.
COMPRESSION = 0.8


class Embedded(NamedTuple):
    """One clip as a page holds it."""

    kind: str  # MIME type
    content: str  # base64


# Start and end of a clip in its recording, in seconds
Segment = Sequence[float | None]


def compressed(source: Any, channel: int | None = None, segment: Segment | None = None) -> bytes:
    """A clip as mono MP3 at 16 kHz.

    Args:
        source, channel, segment: whatever `audiorl.audio.load_audio` takes.

    Raises:
        AudioFault: the clip cannot be read.
    """
    samples = load_audio(source, RATE, channel=channel, segment=_pair(segment))
    file = io.BytesIO()
    soundfile.write(
        file,
        samples,
        RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=COMPRESSION,
    )
    return file.getvalue()


class PageAudio:
    """The audio of one page, each source once.

    Args:
        page: where the page will lie; links start there.
        limit: characters of base64 that may be embedded.
    """

    def __init__(self, page: Path, limit: int):
        self.folder = page.resolve().parent
        self.limit = limit
        self.embedded: list[Embedded] = []
        self.size = 0
        self.linked = 0
        self.addresses = 0
        self.missing = 0
        self.whole_files = 0
        self.faults: list[str] = []
        self._known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def add(
        self, source: str | None, seconds: float | None, channel: int | None = None, segment: Segment | None = None
    ) -> dict[str, Any]:
        """How a row of the page names its audio.

        It is `{"embedded": place}`, `{"link": address}`, `{"place": address}` where a browser is not to follow the
        address, or `{}` for none.

        Args:
            source: a file or an address; None where the clip was not kept.
            seconds: its length, if known; a file of unknown length is compressed anew.
            channel: which of the file's channels is the clip; None for the mean of all.
            segment: start and end of the clip in the file, in seconds; None for all of it.
        """
        if source is None:
            self.missing += 1
            return {}
        part = _pair(segment)
        if (source, channel, part) not in self._known:
            self._known[source, channel, part] = self._placed(source, seconds, channel, part)
        return self._known[source, channel, part]

    def _placed(
        self, source: str, seconds: float | None, channel: int | None, segment: tuple[float, float | None] | None
    ) -> dict[str, Any]:
        if "://" in source:  # an address is fetched by no one but a reader who follows the link
            self.addresses += 1
            return {"link": source} if safe_link(source) else {"place": source}
        if self.size < self.limit:
            try:
                clip = _embedded(source, seconds, channel, segment)
            except AudioFault as fault:
                self.faults.append(fault.problem)
                return {}
            if self.size + len(clip.content) <= self.limit:
                self.embedded.append(clip)
                self.size += len(clip.content)
                return {"embedded": len(self.embedded) - 1}
            self.size = self.limit  # no later, shorter clip slips in: what is embedded is the head of the list
        if source.startswith("data:"):  # as long as what was not to be embedded
            self.faults.append("a data: address is beyond what the page may hold")
            return {}
        self.linked += 1
        self.whole_files += channel is not None or segment is not None
        address = self._address(source)
        return {"link": address} if safe_link(address) else {"place": address}

    def _address(self, source: str) -> str:
        path = Path(source).resolve()
        try:
            return quote(os.path.relpath(path, self.folder).replace(os.sep, "/"))
        except ValueError:  # another drive of a Windows machine
            return path.as_uri()

    def describe(self) -> str:
        """One sentence for the page on what is inside and what is not."""
        parts = [f"{len(self.embedded)} clips are embedded ({sum(len(c.content) for c in self.embedded) / 1e6:.2f} MB)"]
        if self.linked:
            parts.append(f"{self.linked} are linked and play while their files stay where they are")
        if self.whole_files:
            parts.append(f"{self.whole_files} of these are a channel or a segment of a file, and play the whole file")
        if self.addresses:
            parts.append(f"{self.addresses} are addresses; those on the web open by a click")
        if self.missing:
            parts.append(f"for {self.missing} rows the run kept no audio")
        if self.faults:
            parts.append(f"{len(self.faults)} could not be read, the first: {self.faults[0]}")
        return "; ".join(parts)


def safe_link(address: str) -> bool:
    """Whether an address may be a link of the page: http, https, data, or relative. No other scheme, which may be code.

    Browsers take spaces and control characters out of a scheme before they read it, so none may stand in it here.
    """
    scheme, colon, _ = address.partition(":")
    relative = not colon or re.search(r"[/?#]", scheme) is not None
    return relative or scheme.lower() in ("http", "https", "data")


def _pair(segment: Segment | None) -> tuple[float, float | None] | None:
    """A segment as it is after JSON, where it is a list."""
    return None if segment is None else (float(segment[0] or 0.0), segment[1])


def _embedded(
    source: str, seconds: float | None, channel: int | None, segment: tuple[float, float | None] | None
) -> Embedded:
    kind = PLAYABLE.get(Path(source).suffix.lower()) if channel is None and segment is None else None
    if kind and seconds and os.path.isfile(source) and os.path.getsize(source) <= SMALL * seconds:
        content = Path(source).read_bytes()
    else:
        content, kind = compressed(source, channel, segment), "audio/mpeg"
    return Embedded(kind, base64.b64encode(content).decode("ascii"))
