"""What other libraries say at import that would only alarm."""

from __future__ import annotations

import logging

_KERNEL_MESSAGE = "Failed to load CPU gemm_4bit_forward"


def _not_about_an_optional_kernel(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_KERNEL_MESSAGE)


def hush_missing_kernel() -> None:
    """bitsandbytes calls it a failure, on every CPU, that an optional kernel of another package is not there."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_not_about_an_optional_kernel)
