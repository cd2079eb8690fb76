"""The suite lives in `audiorl.testing`, where the owner of another family can import it."""

from __future__ import annotations

from audiorl.testing import CHECKS, FamilyCase

__all__ = ["CHECKS", "FamilyCase"]
