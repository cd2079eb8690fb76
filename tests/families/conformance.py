"""What every family has to hold to, as checks that any family can be run through.

A family of your own, in a test file of your own:

    CASE = FamilyCase("mine", build=..., clips=..., texts=..., ordinary=..., encoder=..., lora_targets=...)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_family_conforms(check):
        check(CASE)

Each check builds its own model and takes nothing else; a check that does not hold raises AssertionError.
"""

from __future__ import annotations

from tests.families.case import FamilyCase
from tests.families.sampling_checks import SAMPLING_CHECKS
from tests.families.scoring_checks import SCORING_CHECKS
from tests.families.wrapping_checks import WRAPPING_CHECKS

__all__ = ["CHECKS", "FamilyCase"]

CHECKS = (*SCORING_CHECKS, *SAMPLING_CHECKS, *WRAPPING_CHECKS)
