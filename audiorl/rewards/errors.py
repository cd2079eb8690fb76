"""What stops a run when a reward cannot be trusted."""

from __future__ import annotations


class RewardError(ValueError):
    """A reward that cannot be found or called, that failed, or that answered with something that is no reward.

    The message names the reward, the row where one is concerned, and what to do; the reward's own exception, if it
    raised one, is the `__cause__`.
    """
