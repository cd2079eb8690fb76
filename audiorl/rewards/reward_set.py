"""Several rewards as one: columns checked before the run, every reward called, every answer judged, one total.

1. Call each reward with TRL's keywords; asynchronous ones run at the same time as each other and as the rest.
2. Judge each answer: one number or None for each completion, finite, or the run stops.
3. total = sum of weight times reward over the rewards that did not abstain.
4. A reward that overrides (wrong language, a stock phrase) and is below 0 caps the total at its own value.

A reward is called with a whole batch, so its exception does not name a row. It is then called again for one completion
after the other until it fails, and that row is named. Whatever a reward raises ends the run with a `RewardError`,
SystemExit and CancelledError included: a library that calls `sys.exit()` within a reward would otherwise end the
training in silence, or leave it waiting. Only Ctrl-C passes.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import json
import math
import numbers
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

from audiorl.notebook import SHOWN_ROWS, html_table
from audiorl.rewards.base import RewardError
from audiorl.rewards.registry import NamedReward, Reward, load_reward

# Keywords that a reward gets besides the columns of the data set; a trainer passes the last ones if it has them.
CALL_KEYWORDS = (
    "prompts",
    "completions",
    "completion_ids",
    "trainer_state",
    "log_extra",
    "log_metric",
    "environments",
)
# What only a reward gets that asks for it by name: a column of the rows may be called so where none does.
NAMED_KEYWORDS = ("group", "completion_logps")
SHOWN_CHARACTERS = 80
# Beyond it float64 no longer tells values apart that differ by 0.1, and squares of it, of which a deviation and the
# norm of a gradient are made, come near the end of float32.
LARGEST_REWARD = 1e15
# They have a length and can be iterated, but are not lists of numbers in the order of the completions.
NO_LISTS = (str, bytes, bytearray, Mapping, Set)
Answer = list[float | None]


@dataclass(frozen=True)
class RewardCall:
    """What the rewards of one batch are called with."""

    columns: dict[str, list[Any]]  # N values each, completions among them
    where: list[str]  # N
    extra: dict[str, Any]  # passed on as it is
    named: dict[str, list[Any]] = field(default_factory=dict)  # N values each, for rewards that name them

    def __len__(self) -> int:
        return len(self.where)

    def keywords(self, reward: Callable[..., Any]) -> dict[str, Any]:
        """What this reward is called with."""
        asked = {name: self.named[name] for name in asked_by_name(reward) if name in self.named}
        # a list of its own for each reward: one that sorts its arguments must not sort its neighbour's
        return {**{name: list(values) for name, values in {**self.columns, **asked}.items()}, **self.extra}

    def only(self, place: int) -> RewardCall:
        """The call for one completion alone."""
        columns = {name: [values[place]] for name, values in self.columns.items()}
        named = {name: [values[place]] for name, values in self.named.items()}
        return RewardCall(columns, [self.where[place]], self.extra, named)

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
    return tuple(column for column in required if column not in (*CALL_KEYWORDS, *NAMED_KEYWORDS))


def asked_by_name(reward: Reward) -> tuple[str, ...]:
    """Which of `NAMED_KEYWORDS` are arguments of a reward."""
    try:
        parameters = inspect.signature(_innermost(reward)).parameters
    except ValueError:  # compiled functions may not tell
        return ()
    return tuple(name for name in NAMED_KEYWORDS if name in parameters)


def call_rewards(
    rewards: Sequence[Reward], names: Sequence[str], call: RewardCall, timeout: float | None = None
) -> list[Answer]:
    """One answer of N values for each reward; asynchronous rewards run while the others are called.

    Args:
        timeout: seconds that an asynchronous reward may take, > 0; None waits for ever.

    Raises:
        RewardError: a reward raised, took too long, or answered with something that is not a reward.
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
        answer = reward(**call.keywords(reward))
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
        answer = reward(**call.keywords(reward))
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
        found = await (reward(**call.keywords(reward)) if answer is None else answer)
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
            await reward(**call.only(place).keywords(reward))
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


# Columns that TRL does not pass on, because its own arguments hold them.
NOT_PASSED = ("prompt", "completion", "completion_ids")


def reward_settings(reward: Callable[..., Any]) -> dict[str, Any]:
    """The settings of a reward that decide its values: fields of a frozen dataclass, keywords of a `functools.partial`.

    Left out are a shipped reward's `ways` (how it gets its answers: addresses, patience) and its name. A long value
    stands there as a digest, and so do keywords, which may be secrets.
    """
    if isinstance(reward, NamedReward):
        reward = reward.function
    if isinstance(reward, functools.partial):
        return {name: _told(value, shown=0) for name, value in reward.keywords.items()}
    if not is_dataclass(reward) or not getattr(reward, "__dataclass_params__").frozen:  # noqa: B009
        return {}  # fields of others may change on the way
    left_out = {"name", *getattr(reward, "ways", ())}
    named = [each.name for each in fields(reward) if each.init and each.name not in left_out]
    return {name: _told(getattr(reward, name)) for name in named}


def _told(value: Any, shown: int = SHOWN_CHARACTERS) -> Any:
    """A setting as JSON has it; functions and objects by their names, which no address in memory changes."""

    def by_name(other: Any) -> str:
        return str(getattr(other, "__qualname__", None) or getattr(other, "name", None) or type(other).__qualname__)

    written = json.dumps(value, default=by_name, skipkeys=True)
    if len(written) > shown:
        return hashlib.sha256(written.encode()).hexdigest()[:16]
    return json.loads(written)


class RewardTable(NamedTuple):
    """The rewards of N completions."""

    total: list[float]  # weighted sum; NaN where every reward that counts abstained
    parts: dict[str, list[float | None]]  # each reward by its name, unweighted; None where it abstained

    def __repr__(self) -> str:
        kept = [value for value in self.total if not math.isnan(value)]
        mean = f", mean={sum(kept) / len(kept):.4g}" if kept else ""
        return f"RewardTable({len(self.total)} completions, {', '.join(self.parts)}{mean})"

    def _repr_html_(self) -> str:
        rows = list(zip(self.total, *self.parts.values(), strict=True))[:SHOWN_ROWS]
        return html_table(["total", *self.parts], rows, f"{self!r}. The first {len(rows)}:")

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
        asked: what rewards ask for by name, "group" or "completion_logps" -> those that do.

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

        self.asked: dict[str, list[str]] = {}
        for name, reward in zip(self.names, self.rewards, strict=True):
            for keyword in asked_by_name(reward):
                self.asked.setdefault(keyword, []).append(name)

    def figures(self) -> dict[str, float]:
        """What rewards tell beside their values since they were built, as "judge/cost"; sums over this process."""
        return {
            f"{name}/{figure}": value
            for name, reward in zip(self.names, self.rewards, strict=True)
            if hasattr(reward, "figures")
            for figure, value in reward.figures().items()
        }

    def settings(self) -> dict[str, Any]:
        """What decides the values beside the rewards' names and weights, as "negative_wer.floor": a run is described
        by it. Functions and models in settings stand there by their names."""
        return {
            f"{name}.{setting}": value
            for name, reward in zip(self.names, self.rewards, strict=True)
            for setting, value in reward_settings(reward).items()
        }

    def told(self) -> list[str]:
        """The same in words, a line for each reward that has figures."""
        return [str(reward) for reward in self.rewards if hasattr(reward, "figures")]

    def readers_of(self, column: str) -> list[str]:
        """The rewards that cannot do without a column."""
        return [name for name, needed in self._needed.items() if column in needed]

    def __repr__(self) -> str:
        return f"RewardSet({', '.join(f'{name} x {w:g}' for name, w in zip(self.names, self.weights, strict=True))})"

    def check_columns(self, columns: Sequence[str]) -> None:
        """Compare what the rewards need with what the rows have; call it before anything is spent.

        Raises:
            RewardError: columns that are missing, all of them, each with the rewards that need it, or that bear the
                name of an argument of TRL's.
        """
        taken = sorted(set(columns) & {*CALL_KEYWORDS, *self.asked} - set(NOT_PASSED))
        if taken:
            raise RewardError(
                f"The rows have columns called {taken}, but rewards get other things under these names. Rename the "
                "columns."
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
        *,
        group: Sequence[tuple[int, int]] | None = None,
        completion_logps: Sequence[float | None] | None = None,
        **kwargs: Any,
    ) -> RewardTable:
        """Score N completions.

        Args:
            completions: N transcripts as the model wrote them, or TRL's conversational form.
            completion_ids: their tokens.
            columns: of the data set, by name, N values each (a row's value repeated for each of its completions). The
                column `prompt`, where there is one, becomes `prompts`; else prompts are "".
            where: N places of rows, for error messages.
            group: of each completion its row and its number among that row's hypotheses, both from 0; all hypotheses
                of a row are there. For rewards that ask for it by name.
            completion_logps: log-probability of each completion, nats; None where it is unknown.
            kwargs: passed on to every reward, `trainer_state` for example.

        Raises:
            RewardError: a reward asks for `group`, which is missing or lacks hypotheses; a reward raised (its exception
                is the cause), took longer than `timeout`, or returned something else than N numbers between -1e15 and
                1e15 or None; the message names reward and row.
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
        named = {
            "group": self._checked_group(group, where),
            "completion_logps": [None] * len(where) if completion_logps is None else list(completion_logps),
        }
        if any(len(values) != len(where) for values in named.values()):
            raise ValueError(
                f"group and completion_logps have one value for each of {len(where)} completions; got "
                f"{ {name: len(values) for name, values in named.items()} }. Give one each."
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
            named=named,
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

    def _checked_group(self, group: Sequence[tuple[int, int]] | None, where: Sequence[str]) -> list[Any]:
        """A cut group would be judged by what is left of it, and by other values in each batch."""
        asking = self.asked.get("group")
        if group is None or asking is None:
            if asking is not None:
                raise RewardError(
                    f"{asking} compare the hypotheses of a clip with each other, but were not told which belong to "
                    "one clip. Call the rewards with group=[(row, hypothesis), ...]."
                )
            return [None] * len(where)
        members: dict[int, list[int]] = {}
        for row, number in group:
            members.setdefault(row, []).append(number)
        for place, (row, _) in enumerate(group):
            found = sorted(members[row])
            if found != list(range(len(found))):
                raise RewardError(
                    f"{asking} compare all hypotheses of a clip with each other, but of {where[place]} there are only "
                    f"those numbered {found}. Reward whole groups in one call, numbered from 0."
                )
        return list(group)

    def _total(self, values: Sequence[float | None]) -> float:
        total, scored, cap = 0.0, False, math.inf
        for reward, weight, value in zip(self.rewards, self.weights, values, strict=True):
            if value is None or weight == 0:
                continue
            scored = True
            total += weight * value
            if value < 0 and is_overriding(reward):
                cap = min(cap, weight * value)
        return min(total, cap) if scored else math.nan


def is_overriding(reward: Reward) -> bool:
    """Whether a value below 0 is the most that the total can be."""
    return bool(getattr(reward, "overrides", False))


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
