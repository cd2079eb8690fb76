"""Packages that some adapters and optimizers need."""

from __future__ import annotations

from transformers.utils import is_bitsandbytes_available


def require_bitsandbytes(wanted_for: str) -> None:
    """Raise where bitsandbytes is not installed."""
    if not is_bitsandbytes_available():
        raise ImportError(
            f"{wanted_for} needs bitsandbytes, which is not installed here. Run `pip install bitsandbytes`, or go on "
            "without it."
        )
