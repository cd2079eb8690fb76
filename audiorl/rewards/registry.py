"""From what a user names as a reward to something that can be called: name, dotted path, plug-in or callable."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from audiorl.plugins import find_plugin, registered_names
from audiorl.rewards.base import RewardError
from audiorl.rewards.consensus import Agreement, Confidence, Consensus
from audiorl.rewards.error_rate import (
    ExactMatch,
    ExpCER,
    LengthHallucination,
    LengthRatio,
    NegativeCER,
    NegativeEdits,
    NegativeWER,
    OneMinusWER,
    SoftOverlong,
)
from audiorl.rewards.funasr import FunASR
from audiorl.rewards.hallucination import Hallucination, NoStockPhrases
from audiorl.rewards.judge import PROMPT, Judge
from audiorl.rewards.keywords import (
    ContextKeywords,
    EntityScore,
    KeywordPrecision,
    KeywordRecall,
    KeywordScore,
    OneMinusKeywordWER,
)
from audiorl.rewards.labels import AnswerMatch, LabelMatch, LabelSetMatch
from audiorl.rewards.language import RightScript

# None = the reward abstains
Reward = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]

ENTRY_POINT_GROUP = "audiorl.rewards"

# name -> the shipped reward with its default settings
REWARDS: dict[str, Reward] = {
    reward.__name__: reward
    for reward in (
        OneMinusWER(),
        NegativeWER(),
        NegativeCER(),
        ExpCER(),
        NegativeEdits(),
        ExactMatch(),
        KeywordScore(),
        KeywordPrecision(),
        KeywordRecall(),
        OneMinusKeywordWER(),
        ContextKeywords(),
        EntityScore(),
        EntityScore(name="sounding_entities", phonetic=True),
        Hallucination(),
        RightScript(),
        NoStockPhrases(),
        LengthRatio(),
        LengthHallucination(),
        SoftOverlong(),
        LabelMatch(),
        LabelMatch(name="fuzzy_label_match", min_similarity=0.8),
        LabelSetMatch(),
        AnswerMatch(),
        AnswerMatch(name="answer_f1", partial=True),
        FunASR(),
        Consensus(),
        Consensus(name="consensus_cer", unit="character"),
        Confidence(),
        Agreement(),
    )
}


@dataclass(frozen=True)
class NamedReward:
    """A callable that has no `__name__` of its own, such as a `functools.partial`, with one."""

    function: Callable[..., Any]
    __name__: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def load_reward(reward: str | Callable[..., Any]) -> Reward:
    """The reward that a name, a dotted path or a callable stands for.

    Args:
        reward: one of
            * the name of a shipped reward, a key of `REWARDS`;
            * a name that an installed package registered under the entry-point group "audiorl.rewards";
            * a dotted path, "package.module.name" or "package.module:name"; modules in the working directory are found;
            * a callable with TRL's signature.
            A class stands for its instance with default settings.

    Returns:
        A callable with a `__name__`; a `functools.partial` is named after its function, an instance after its class,
        as in TRL.

    Raises:
        RewardError: nothing has this name, or what has it cannot be imported or called.
    """
    if not isinstance(reward, str):
        return _callable(reward, repr(reward))
    if reward in REWARDS:
        return REWARDS[reward]
    if (found := find_plugin("reward", ENTRY_POINT_GROUP, reward, RewardError)) is not None:
        return _callable(found, reward)
    if reward == "judge":
        raise RewardError(
            "The reward 'judge' asks a server: pass Judge(url=..., model=...), on the command line --judge_url and "
            "--judge_model."
        )
    known = reward_names()
    near = get_close_matches(reward, known, n=1)
    raise RewardError(
        f"No reward is called {reward!r}; there are {', '.join(known)}. "
        + (f"Did you mean {near[0]!r}? " if near else "")
        + "A function of your own is named by its dotted path, my_module.my_reward."
    )


@dataclass
class RewardFlags:
    """Settings of shipped rewards on the command line."""

    reward_keywords: str | None = field(
        default=None,
        metadata={
            "help": "Text file of keywords, one a line, for the shipped rewards that read keywords. Unset: each "
            "row's column `keywords`."
        },
    )
    judge_url: str | None = field(
        default=None,
        metadata={"help": "Server of the reward `judge`, with POST /v1/chat/completions: http://127.0.0.1:8000."},
    )
    judge_model: str | None = field(default=None, metadata={"help": "The model that this server is asked for."})
    judge_prompt: str | None = field(
        default=None,
        metadata={
            "help": "Text file with the judge's prompt: {hypothesis} and any {column} of the rows; it asks for a "
            "number from 0 to 10. Unset: a prompt that asks how likely it is that a person said this."
        },
    )
    judge_cache: str | None = field(
        default=None, metadata={"help": "SQLite file that keeps the judge's answers. Unset: none."}
    )
    judge_api_key_variable: str | None = field(
        default=None,
        metadata={"help": "Environment variable that holds the judge's API key. No output contains the key."},
    )
    judge_prices: list[float] | None = field(
        default=None,
        metadata={"help": "Prices of a million prompt and completion tokens, two numbers, for the cost in the log."},
    )

    def configured(self, reward_funcs: Sequence[str | Callable[..., Any]]) -> list[str | Callable[..., Any]]:
        """The rewards with these settings.

        Raises:
            RewardError: a setting of a reward that is not among them, or one that is missing.
        """
        rewards = [self._configured(reward) for reward in reward_funcs]
        given = [one.name for one in fields(RewardFlags) if getattr(self, one.name) is not None]
        unused = [name for name in given if name.startswith("judge_")]
        if unused and "judge" not in reward_funcs:
            raise RewardError(
                f"{unused} are settings of the reward judge, which is not asked for. Add it to reward_funcs, or leave "
                "them out."
            )
        if self.reward_keywords is not None and not any(self._reads_keywords(reward) for reward in reward_funcs):
            known = [name for name in REWARDS if self._reads_keywords(name)]
            raise RewardError(
                f"reward_keywords={self.reward_keywords!r} are for shipped rewards that read keywords, and none of "
                f"{list(reward_funcs)} does. Add one of {known}, or leave the file out."
            )
        return rewards

    def _reads_keywords(self, reward: Any) -> bool:
        return isinstance(reward, str) and hasattr(REWARDS.get(reward), "keywords")

    def _configured(self, reward: str | Callable[..., Any]) -> str | Callable[..., Any]:
        if reward == "judge":
            return self._judge()
        if self.reward_keywords is not None and self._reads_keywords(reward):
            shipped: Any = REWARDS[str(reward)]
            return replace(shipped, keywords=self.reward_keywords)
        return reward

    def _judge(self) -> Judge:
        if self.judge_url is None or self.judge_model is None:
            raise RewardError("The reward judge asks a server for a model. Pass --judge_url and --judge_model.")
        try:
            prompt = PROMPT if self.judge_prompt is None else Path(self.judge_prompt).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RewardError(
                f"judge_prompt {self.judge_prompt!r} cannot be read: {error}. Name a UTF-8 text file."
            ) from error
        prices = self.judge_prices
        if prices is not None and len(prices) != 2:
            raise RewardError(f"judge_prices are two numbers, of prompt and completion tokens; got {prices}. Give two.")
        return Judge(
            url=self.judge_url,
            model=self.judge_model,
            prompt=prompt,
            cache=self.judge_cache,
            api_key_variable=self.judge_api_key_variable,
            prices=None if prices is None else (prices[0], prices[1]),
        )


def reward_names() -> list[str]:
    """Shipped rewards and those that installed packages registered."""
    return [*REWARDS, *sorted(registered_names(ENTRY_POINT_GROUP) - set(REWARDS))]


def callable_name(function: Callable[..., Any]) -> str:
    """TRL's name of a reward: its `__name__`, that of the function inside a partial, or its class's."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _callable(reward: Any, described: str) -> Reward:
    if inspect.isclass(reward):
        try:
            reward = reward()
        except TypeError as error:
            raise RewardError(
                f"{described} is a class and cannot be made without arguments ({error}). Pass an instance of it."
            ) from error
    if not callable(reward):
        raise RewardError(
            f"A reward is called with completions and columns; {described} is a {type(reward).__name__}, which cannot "
            "be called. Name a function, or a class with __call__."
        )
    return reward if hasattr(reward, "__name__") else NamedReward(reward, callable_name(reward))
