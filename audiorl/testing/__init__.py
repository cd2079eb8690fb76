"""The conformance suite: checks that every family of models must pass, yours too.

A family of your own, in a test file of your own:

    from audiorl.testing import CHECKS, FamilyCase

    CASE = FamilyCase("mine", build=..., clips=..., texts=..., ordinary=..., encoder=..., lora_targets=...)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_family_conforms(check):
        check(CASE)

Each check builds its own model. A check that fails raises AssertionError. pytest shows the values in its messages if a
conftest.py calls `pytest.register_assert_rewrite` with each of `MODULES` before they are imported. pytest itself is not
imported here.
"""

from __future__ import annotations

from audiorl.testing.case import FamilyCase
from audiorl.testing.sampling_checks import SAMPLING_CHECKS, SEARCH_CHECKS
from audiorl.testing.scoring_checks import SCORING_CHECKS
from audiorl.testing.wrapping_checks import TRAINING_CHECKS, WRAPPING_CHECKS

__all__ = ["CHECKS", "MODULES", "FamilyCase"]

# grouped = separate, encode once, end token; sampling = scoring; samplers, beams, engines; PEFT, DDP, checkpoints; a
# trainer's steps, resumed
CHECKS = (*SCORING_CHECKS, *SAMPLING_CHECKS, *SEARCH_CHECKS, *WRAPPING_CHECKS, *TRAINING_CHECKS)
MODULES = tuple(f"audiorl.testing.{name}" for name in ("case", "scoring_checks", "sampling_checks", "wrapping_checks"))
