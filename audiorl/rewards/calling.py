"""Calling rewards as TRL does, and stopping where one fails or answers with something that is no reward.

A reward is called with a whole batch, so its exception does not say for which row it was raised: it is then called
again for one completion after the other, until it fails, and that row is named.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import numbers
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from audiorl.rewards.errors import RewardError
from audiorl.rewards.registry import NamedReward, Reward

# What a reward gets beside the columns of the data set; the last ones from a trainer, where it has them.
CALL_KEYWORDS = (
    "prompts",
    "completions",
    "completion_ids",
    "trainer_state",
    "log_extra",
    "log_metric",
    "environments",
)
SHOWN_CHARACTERS = 80
Answer = list[float | None]


@dataclass(frozen=True)
class RewardCall:
    """What the rewards of one batch are called with."""

    columns: dict[str, list[Any]]  # N values each, completions among them
    where: list[str]  # N
    extra: dict[str, Any]  # passed on as it is

    def __len__(self) -> int:
        return len(self.where)

    def keywords(self) -> dict[str, Any]:
        # a list of its own for each reward: one that sorts its arguments must not sort its neighbour's
        return {**{name: list(values) for name, values in self.columns.items()}, **self.extra}

    def only(self, place: int) -> RewardCall:
        """The call for one completion alone."""
        columns = {name: [values[place]] for name, values in self.columns.items()}
        return RewardCall(columns, [self.where[place]], self.extra)

    def describe(self, place: int) -> str:
        return f"{self.where[place]}, hypothesis {self.columns['completions'][place]!r:.{SHOWN_CHARACTERS}}"


def needed_columns(reward: Reward, name: str) -> tuple[str, ...]:
    """Columns a reward cannot do without: what it declares as `needed_columns`, else its arguments without default.

    Raises:
        RewardError: it has no **kwargs, with which TRL passes every column, or an argument without a name.
    """
    try:
        parameters = inspect.signature(_innermost(reward)).parameters.values()
    except ValueError:  # compiled functions may not tell
        return tuple(getattr(reward, "needed_columns", ()))
    unnamed = any(found.kind is found.POSITIONAL_ONLY and found.default is found.empty for found in parameters)
    if unnamed or not any(found.kind is found.VAR_KEYWORD for found in parameters):
        raise RewardError(
            f"The reward {name!r} is called with prompts, completions, completion_ids and every column of the rows by "
            f"name, but it does not take all of them: {inspect.signature(_innermost(reward))}. Add **kwargs to its "
            "arguments."
        )
    if hasattr(reward, "needed_columns"):
        return tuple(reward.needed_columns)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = [found.name for found in parameters if found.kind in kinds and found.default is found.empty]
    return tuple(column for column in required if column not in CALL_KEYWORDS)


def call_rewards(rewards: Sequence[Reward], names: Sequence[str], call: RewardCall) -> list[Answer]:
    """One answer of N values for each reward; asynchronous rewards run while the others are called."""
    named = dict(zip(names, rewards, strict=True))
    pending = {name: _LOOP.start(_awaited(reward, name, call)) for name, reward in named.items() if is_async(reward)}
    try:
        done = {name: _call(reward, name, call) for name, reward in named.items() if name not in pending}
        done |= {name: future.result() for name, future in pending.items()}
        return [done[name] for name in names]
    finally:
        for future in pending.values():
            future.cancel()  # of no effect on those that are done


def is_async(reward: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: an async function, a partial of one, an instance with async __call__."""
    reward = _innermost(reward)
    while isinstance(reward, functools.partial):
        reward = reward.func
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(getattr(reward, "__call__", None))  # noqa: B004


def _innermost(reward: Callable[..., Any]) -> Callable[..., Any]:
    return reward.function if isinstance(reward, NamedReward) else reward


def _call(reward: Reward, name: str, call: RewardCall) -> Answer:
    try:
        answer = reward(**call.keywords())
        if inspect.isawaitable(answer):
            answer = _LOOP.start(_wait_for(answer)).result()
    except Exception as error:
        place = next((place for place in range(len(call)) if _fails(reward, call.only(place))), None)
        raise _raised(name, call, place, error) from error
    return _judged(answer, name, call)


def _fails(reward: Reward, call: RewardCall) -> bool:
    """Whether the reward raises for this one completion; only asked once the run is stopping."""
    try:
        answer = reward(**call.keywords())
        if inspect.isawaitable(answer):
            _LOOP.start(_wait_for(answer)).result()
    except Exception:
        return True
    return False


async def _awaited(reward: Callable[..., Any], name: str, call: RewardCall) -> Answer:
    try:
        answer = await reward(**call.keywords())
    except Exception as error:
        place = await _first_failing(reward, call)
        raise _raised(name, call, place, error) from error
    return _judged(answer, name, call)


async def _first_failing(reward: Callable[..., Any], call: RewardCall) -> int | None:
    for place in range(len(call)):
        try:
            await reward(**call.only(place).keywords())
        except Exception:
            return place
    return None


async def _wait_for(answer: Awaitable[Any]) -> Any:
    return await answer


def _raised(name: str, call: RewardCall, place: int | None, error: Exception) -> RewardError:
    if place is not None:
        found = call.describe(place)
    else:
        found = f"a batch of {len(call)} completions, {call.where[0]} to {call.where[-1]}, each of which passes alone"
    return RewardError(
        f"The reward {name!r} raised {type(error).__name__}: {error}. It happened for {found}. "
        "Mend the reward, or let it return None where it cannot judge."
    )


def _judged(answer: Any, name: str, call: RewardCall) -> Answer:
    """The answer as floats and None.

    Raises:
        RewardError: it is not one finite number or None for each completion.
    """
    listed = hasattr(answer, "__len__") and hasattr(answer, "__iter__") and not isinstance(answer, str | dict)
    if not listed or len(answer) != len(call):
        returned = f"{len(answer)} values" if listed else f"a {type(answer).__name__}"
        raise RewardError(
            f"The reward {name!r} returned {returned} for the {len(call)} completions of {call.where[0]} to "
            f"{call.where[-1]}. Return a list with one number for each completion, None where it cannot judge."
        )
    return [None if value is None else _number(value, name, call, place) for place, value in enumerate(answer)]


def _number(value: Any, name: str, call: RewardCall, place: int) -> float:
    scalar = value.item() if getattr(value, "shape", None) == () else value
    if not isinstance(scalar, numbers.Real) or not math.isfinite(scalar):
        raise RewardError(
            f"The reward {name!r} returned {value!r} for {call.describe(place)}. "
            "Return a finite number, or None where it cannot judge."
        )
    return float(scalar)


class _BackgroundLoop:
    """One event loop in one thread for all asynchronous rewards of the process.

    It outlives a batch, because clients of a network service keep connections that belong to their loop; and it is not
    the caller's, because a notebook has a running one already.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="audiorl-rewards", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


_LOOP = _BackgroundLoop()
