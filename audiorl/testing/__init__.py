"""The conformance suite: what every family of models has to hold to, as checks that any family can be run through.

A family of your own, in a test file of your own:

    from audiorl.testing import CHECKS, FamilyCase

    CASE = FamilyCase("mine", build=..., clips=..., texts=..., ordinary=..., encoder=..., lora_targets=...)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_family_conforms(check):
        check(CASE)

Each check builds its own model and takes nothing else; a check that does not hold raises AssertionError. The checks are
written for pytest, whose messages show the values where its `register_assert_rewrite` is told of `MODULES` in a
conftest.py before they are imported; pytest itself is not imported here.
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
