"""Several rewards as one: columns checked before the run, every reward called, every answer judged, one total.

1. Call each reward with TRL's keywords; asynchronous ones run beside each other and beside the others.
2. Judge each answer: one number or None for each completion, finite, or the run stops.
3. total = sum of weight times reward over the rewards that did not abstain.
4. A reward that overrides (wrong language, a stock phrase) and is below 0 caps the total at its own value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from audiorl.rewards.base import RewardError
from audiorl.rewards.calling import CALL_KEYWORDS, LARGEST_REWARD, RewardCall, call_rewards, needed_columns
from audiorl.rewards.registry import load_reward

# Columns that TRL does not pass on, because its own arguments hold them.
NOT_PASSED = ("prompt", "completion", "completion_ids")


class RewardTable(NamedTuple):
    """The rewards of N completions."""

    total: list[float]  # weighted sum; NaN where every reward that counts abstained
    parts: dict[str, list[float | None]]  # each reward by its name, unweighted; None where it abstained

    @property
    def scored(self) -> list[bool]:
        """Whether a completion has a total. One that has none leaves its group: it is neither good nor bad."""
        return [not math.isnan(value) for value in self.total]


class RewardSet:
    """The rewards of a run and their weights, checked when built.

    A completion for which every reward of non-zero weight abstained (None) has no total: it is NaN in the table and
    False in `RewardTable.scored`, and whoever makes advantages of the totals leaves it out. It is not 0, which would be
    a judgement. A reward that abstains for some completions of a group and not for others shifts these against each
    other by its value; abstain by row, not by hypothesis.

    Args:
        reward_funcs: one reward or several, each whatever `load_reward` takes.
        reward_weights: one finite number for each; 0 = called and logged, never part of the total. Default all 1.
        timeout: seconds, > 0, that an asynchronous reward may take for the completions of one call; None waits for
            ever. A reward that is a plain function cannot be interrupted.

    Attributes:
        names: of the rewards, in order.
        weights: their weights.
        timeout: as given.

    Raises:
        RewardError: no reward, two of one name, a count or value of weights that makes no sense, a timeout that is not
            above 0, a reward that does not take TRL's keywords, or one whose `check_ready` finds something missing.
    """

    def __init__(
        self,
        reward_funcs: str | Callable[..., Any] | Sequence[str | Callable[..., Any]],
        reward_weights: Sequence[float] | None = None,
        timeout: float | None = None,
    ):
        given = [reward_funcs] if isinstance(reward_funcs, str) or callable(reward_funcs) else list(reward_funcs)
        if not given:
            raise RewardError("There is no reward to learn from. Pass reward_funcs, 'one_minus_wer' to begin with.")
        self.rewards = tuple(load_reward(reward) for reward in given)
        self.names: tuple[str, ...] = tuple(getattr(reward, "__name__") for reward in self.rewards)  # noqa: B009
        self.weights = _checked_weights(reward_weights, self.names)
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise RewardError(
                f"reward_timeout is the seconds that an asynchronous reward may take, above 0; got {timeout!r}. Leave "
                "it at 1800, or set None to wait for ever."
            )
        self.timeout = timeout
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise RewardError(
                f"Each reward is logged under its name; {sorted(twice)} name several of {list(self.names)}. "
                "Give shipped rewards a name=, functions a __name__ of their own."
            )
        for reward in self.rewards:
            if hasattr(reward, "check_ready"):
                reward.check_ready()
        self._needed = {
            name: needed_columns(reward, name) for name, reward in zip(self.names, self.rewards, strict=True)
        }

    def check_columns(self, columns: Sequence[str]) -> None:
        """Compare what the rewards need with what the rows have; call it before anything is spent.

        Raises:
            RewardError: columns that are missing, all of them, each with the rewards that need it, or that bear the
                name of an argument of TRL's.
        """
        taken = sorted(set(columns) & set(CALL_KEYWORDS) - set(NOT_PASSED))
        if taken:
            raise RewardError(
                f"The rows have columns called {taken}, names under which rewards get other things. Rename them."
            )
        missing: dict[str, list[str]] = {}
        for name, needed in self._needed.items():
            for column in set(needed) - set(columns):
                missing.setdefault(column, []).append(name)
        if missing:
            faults = [_missing(column, names, columns) for column, names in sorted(missing.items())]
            raise RewardError(" ".join(faults) + f" The columns are {sorted(columns)}.")

    def __call__(
        self,
        completions: list[str],
        completion_ids: list[list[int]],
        columns: Mapping[str, Sequence[Any]],
        where: Sequence[str],
        **kwargs: Any,
    ) -> RewardTable:
        """Score N completions.

        Args:
            completions: N transcripts as the model wrote them, or TRL's conversational form.
            completion_ids: their tokens.
            columns: of the data set, by name, N values each (a row's value repeated for each of its completions). The
                column `prompt`, where there is one, becomes `prompts`; else prompts are "".
            where: N places of rows, for error messages.
            kwargs: passed on to every reward, `trainer_state` for example.

        Raises:
            RewardError: a reward raised (its exception is the cause), took longer than `timeout`, or returned something
                else than N numbers between -1e15 and 1e15 or None; the message names reward and row.
            ValueError: lists of unequal length.
        """
        self.check_columns(list(columns))
        lengths = {"completions": len(completions), "completion_ids": len(completion_ids), "where": len(where)}
        lengths |= {f"the column {name!r}": len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"Rewards take one value of everything for each completion; got {lengths}. Repeat a row's columns for "
                "each of its completions."
            )
        call = RewardCall(
            columns={
                "prompts": list(columns.get("prompt", [""] * len(completions))),
                "completions": list(completions),
                "completion_ids": list(completion_ids),
                **{name: list(values) for name, values in columns.items() if name not in NOT_PASSED},
            },
            where=list(where),
            extra=kwargs,
        )
        if not completions:
            return RewardTable([], {name: [] for name in self.names})
        answers = call_rewards(self.rewards, self.names, call, self.timeout)
        parts = dict(zip(self.names, answers, strict=True))
        total = [self._total(values) for values in zip(*answers, strict=True)]
        for place, value in enumerate(total):
            if abs(value) > LARGEST_REWARD:
                raise RewardError(
                    f"The weighted sum of {list(self.names)} is {value:g} for {call.describe(place)}: no gradient can "
                    f"be made of numbers beyond {LARGEST_REWARD:g}. Lower the weights, or the rewards."
                )
        return RewardTable(total, parts)

    def _total(self, values: Sequence[float | None]) -> float:
        total, scored, cap = 0.0, False, math.inf
        for reward, weight, value in zip(self.rewards, self.weights, values, strict=True):
            if value is None or weight == 0:
                continue
            scored = True
            total += weight * value
            if value < 0 and getattr(reward, "overrides", False):
                cap = min(cap, weight * value)
        return min(total, cap) if scored else math.nan


def _checked_weights(weights: Sequence[float] | None, names: Sequence[str]) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * len(names)
    if len(weights) != len(names):
        raise RewardError(
            f"reward_weights has one number for each reward; got {len(weights)} for {list(names)}. "
            "Give one each; 0 logs a reward without learning from it."
        )
    if not all(math.isfinite(weight) for weight in weights) or not any(weights):
        raise RewardError(
            f"reward_weights are finite and one of them is not 0; got {list(weights)} for {list(names)}. "
            "1 for each is the default."
        )
    return tuple(float(weight) for weight in weights)


def _missing(column: str, names: Sequence[str], columns: Sequence[str]) -> str:
    near = get_close_matches(column, columns, n=1)
    remedy = f"Rename {near[0]!r} to {column!r}." if near else "Add it to the rows, or leave the reward out."
    readers = f"The reward {names[0]} reads" if len(names) == 1 else f"The rewards {', '.join(names)} read"
    return f"{readers} the column {column!r}, which is missing. {remedy}"
