"""Calling rewards as TRL does, and stopping where one fails or answers with something that is no reward.

A reward is called with a whole batch, so its exception does not say for which row it was raised: it is then called
again for one completion after the other, until it fails, and that row is named.

Whatever a reward raises ends the run with a `RewardError`, SystemExit and CancelledError included: a library that calls
`sys.exit()` within a reward would otherwise end the training in silence, or leave it waiting. Only Ctrl-C passes.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import numbers
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from audiorl.rewards.base import RewardError
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
# Beyond it float64 no longer tells values apart that differ by 0.1, and squares of it, of which a deviation and the
# norm of a gradient are made, come near the end of float32.
LARGEST_REWARD = 1e15
# What has a length and can be gone through, but is no list of numbers in the order of the completions.
NO_LISTS = (str, bytes, bytearray, Mapping, Set)
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


def call_rewards(
    rewards: Sequence[Reward], names: Sequence[str], call: RewardCall, timeout: float | None = None
) -> list[Answer]:
    """One answer of N values for each reward; asynchronous rewards run while the others are called.

    Args:
        timeout: seconds that an asynchronous reward may take, > 0; None waits for ever.

    Raises:
        RewardError: a reward raised, took too long, or answered with something that is no reward.
    """
    named = dict(zip(names, rewards, strict=True))
    start = time.monotonic()
    pending = {name: _LOOP.start(_awaited(reward, name, call)) for name, reward in named.items() if is_async(reward)}
    try:
        done = {name: _call(reward, name, call, timeout) for name, reward in named.items() if name not in pending}
        for name, future in pending.items():
            done[name] = _answer_of(future, start, timeout, name, call)
        return [done[name] for name in names]
    finally:
        for future in pending.values():
            future.cancel()  # of no effect on those that are done


def _answer_of(future: Future[Any], start: float, timeout: float | None, name: str, call: RewardCall) -> Any:
    """What a reward on the loop returns, given up once it has had `timeout` seconds since `start`."""
    left = None if timeout is None else max(0.0, timeout - (time.monotonic() - start))
    try:
        return future.result(left)
    except TimeoutError as error:
        if future.done():  # it came in this moment
            return future.result()
        future.cancel()
        # what holds the loop up cannot be stopped; later rewards get another one
        _LOOP.abandon()
        raise RewardError(
            f"The reward {name!r} has not answered within {timeout:g} s for the {len(call)} completions of "
            f"{call.where[0]} to {call.where[-1]}. Give what it waits for a timeout of its own, or raise "
            "reward_timeout (None waits for ever)."
        ) from error


def is_async(reward: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: an async function, a partial of one, an instance with async __call__."""
    reward = _innermost(reward)
    while isinstance(reward, functools.partial):
        reward = reward.func
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(getattr(reward, "__call__", None))  # noqa: B004


def _innermost(reward: Callable[..., Any]) -> Callable[..., Any]:
    return reward.function if isinstance(reward, NamedReward) else reward


def _call(reward: Reward, name: str, call: RewardCall, timeout: float | None) -> Answer:
    try:
        answer = reward(**call.keywords())
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        place = next((place for place in range(len(call)) if _fails(reward, call.only(place))), None)
        raise _raised(name, call, place, error) from error
    if inspect.isawaitable(answer):
        future = _LOOP.start(_awaited(reward, name, call, answer))
        return _answer_of(future, time.monotonic(), timeout, name, call)
    return _judged(answer, name, call)


def _fails(reward: Reward, call: RewardCall) -> bool:
    """Whether the reward raises for this one completion; only asked once the run is stopping."""
    try:
        answer = reward(**call.keywords())
        if inspect.iscoroutine(answer):
            answer.close()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return True
    return False


async def _awaited(
    reward: Callable[..., Any], name: str, call: RewardCall, answer: Awaitable[Any] | None = None
) -> Answer:
    """What the reward's coroutine returns; `answer` is one that a plain function has made already."""
    try:
        found = await (reward(**call.keywords()) if answer is None else answer)
    except BaseException as error:
        if _is_cancelled():
            raise
        # an event loop hands SystemExit and KeyboardInterrupt on and ends, and nobody would get an answer
        place = await _first_failing(reward, call)
        raise _raised(name, call, place, error) from error
    return _judged(found, name, call)


async def _first_failing(reward: Callable[..., Any], call: RewardCall) -> int | None:
    for place in range(len(call)):
        try:
            await reward(**call.only(place).keywords())
        except BaseException:
            if _is_cancelled():
                raise
            return place
    return None


def _is_cancelled() -> bool:
    """Whether the running task was told to stop from outside; a reward may raise CancelledError by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _raised(name: str, call: RewardCall, place: int | None, error: BaseException) -> RewardError:
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
    listed = hasattr(answer, "__len__") and hasattr(answer, "__iter__") and not isinstance(answer, NO_LISTS)
    if not listed or len(answer) != len(call):
        returned = f"{len(answer)} values" if listed else f"a {type(answer).__name__}"
        raise RewardError(
            f"The reward {name!r} returned {returned} for the {len(call)} completions of {call.where[0]} to "
            f"{call.where[-1]}. Return a list with one number for each completion, None where it cannot judge."
        )
    return [None if value is None else _number(value, name, call, place) for place, value in enumerate(answer)]


def _number(value: Any, name: str, call: RewardCall, place: int) -> float:
    scalar = value.item() if getattr(value, "shape", None) == () else value
    if not isinstance(scalar, numbers.Real) or not _is_finite(scalar):
        raise RewardError(
            f"The reward {name!r} returned {shown_value(value)} for {call.describe(place)}. "
            "Return a finite number, or None where it cannot judge."
        )
    if abs(float(scalar)) > LARGEST_REWARD:
        raise RewardError(
            f"The reward {name!r} returned {shown_value(value)} for {call.describe(place)}, which is beyond "
            f"{LARGEST_REWARD:g}: no gradient can be made of such numbers. Scale it down, clip it, or return its "
            "logarithm."
        )
    return float(scalar)


def _is_finite(scalar: Any) -> bool:
    try:
        return math.isfinite(scalar)
    except OverflowError:  # an integer or fraction beyond the largest float
        return False


def shown_value(value: Any) -> str:
    """`repr`, cut where it is long; integers of thousands of digits have none."""
    try:
        text = repr(value)
    except ValueError:
        return f"an integer of about {int(value.bit_length() * math.log10(2)) + 1} digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"


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
                threading.Thread(target=_run, args=(self._loop,), name="audiorl-rewards", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def abandon(self) -> None:
        """Begin with a new loop; the old one ends as soon as what runs in it lets it."""
        with self._starting:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Until `stop`; what has not ended by then is cancelled."""
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.close()


_LOOP = _BackgroundLoop()
