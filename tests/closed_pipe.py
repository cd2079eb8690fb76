"""Standard output whose reader has gone, as `head` goes after ten lines."""

from __future__ import annotations

import io


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")
