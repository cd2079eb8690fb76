"""What the code says of itself, on pages: families of models, a module, what rewards withstand."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Where a docstring stops telling and begins to list.
_LISTS = re.compile(r"^(Args|Attributes|Returns|Raises|Engines|Detectors):$", re.MULTILINE)


def in_words() -> str:
    """A heading for each kind of family, and one for each family of that kind.

    Raises:
        LookupError: a registered family cannot be imported, or says nothing of itself.
    """
    from audiorl.models.registry import FAMILIES

    names: dict[type, list[str]] = {}
    for name, family in FAMILIES.items():
        names.setdefault(_loaded(family), []).append(name)
    kinds: dict[type, list[type]] = {}
    for family in names:
        kinds.setdefault(_kind(family), []).append(family)
    said: set[str] = set()
    return "\n\n".join(part for kind, families in kinds.items() for part in _kind_in_words(kind, families, names, said))


def _kind_in_words(kind: type, families: Sequence[type], names: dict[type, list[str]], said: set[str]) -> Iterator[str]:
    yield f"### {kind.__name__}"
    homes = [family.__module__ for family in families]
    # a module of several families is about all of them
    for module in dict.fromkeys([kind.__module__, *(home for home in homes if homes.count(home) > 1)]):
        yield from _module_in_words(module, said)
    for family in families:
        yield f"#### {family.__name__}"
        yield f"Answers for {', '.join(f'`{name}`' for name in names[family])}."
        yield from _module_in_words(family.__module__, said)
        yield _docstring(family, family.__name__)
        yield _facts(family)


def _facts(family: Any) -> str:
    """What the class says of itself by its attributes."""
    from audiorl.models.classifier import ClassifierFamily

    said = "token by token" if family.token_level else "as a whole"
    if issubclass(family, ClassifierFamily):
        said = "as one token, the label"
    prompts = "with" if family.decodes_with_prompts else "without"
    steps = ", ".join(f"`{name}`" for name in family.engines)
    return (
        f"Hypotheses are scored {said}; `transcribe` works {prompts} prompts; engines of sampling: {steps}. "
        f"{_hotwords(family)}"
    )


def _hotwords(family: Any) -> str:
    """What a family makes of a row's hot words."""
    from audiorl.models.family import SpeechFamily

    write = family.prompt_with_hotwords
    if write is SpeechFamily.prompt_with_hotwords:
        return "Rows with hot words are refused."
    return f"Hot words: {inspect.cleandoc(write.__doc__)}" if write.__doc__ else "Hot words stand in the prompt."


def _kind(family: type) -> type:
    """The class below the seam that a family is built on; itself, where it stands on the seam."""
    from audiorl.models.audio_llm import PromptedAnswers
    from audiorl.models.family import AutoregressiveFamily, SpeechFamily

    seam = (SpeechFamily, AutoregressiveFamily, PromptedAnswers)
    return [base for base in family.__mro__ if issubclass(base, SpeechFamily) and base not in seam][-1]


def _loaded(family: str | type) -> type:
    if not isinstance(family, str):
        return family
    module, _, name = family.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def _module_in_words(module: str, said: set[str]) -> Iterator[str]:
    """What a module says of itself, once."""
    if module not in said:
        said.add(module)
        yield _docstring(importlib.import_module(module), module)


def _docstring(described: Any, name: str) -> str:
    """The prose of a docstring, without its lists."""
    text = described.__doc__ and inspect.cleandoc(described.__doc__)
    if not text:
        raise LookupError(f"{name} has no docstring, and the page of models shows it. Write one.")
    return "\n".join(map(_shown, _LISTS.split(text)[0].strip().split("\n")))


def _shown(line: str) -> str:
    """A line of prose as Markdown that holds no markup: angle brackets outside of code are what they are."""
    if line.startswith("    "):
        return line
    return re.sub(r"`[^`]*`|<", lambda found: "&lt;" if found[0] == "<" else found[0], line)


def docstring(name: str) -> str:
    """The docstring of a module, as it stands in the code."""
    try:
        text = inspect.getdoc(importlib.import_module(name))
    except ImportError as error:
        raise LookupError(f"There is no module {name!r} ({error}). Name what took its place.") from error
    if not text:
        raise LookupError(f"{name} has no docstring, and a page shows it. Write one.")
    return f"```text\n{text}\n```"


def adversaries() -> str:
    """Which hypotheses that did not listen each reward ranks below an honest one, in all scenes of the tests."""
    from audiorl.rewards import REWARDS
    from tests.rewards.examples import OF_GROUPS, RANGES, SCENES

    attacks = list(next(iter(SCENES.values())).attacks)
    lines = [["reward", "range", "reads", *attacks], ["---"] * (3 + len(attacks))]
    for name, reward in REWARDS.items():
        ends = ("-∞" if end == -float("inf") else f"{end:g}" for end in RANGES[name])
        reads = ", ".join(f"`{column}`" for column in getattr(reward, "needed_columns", ())) or (
            "hypotheses" if name in OF_GROUPS else "tokens"
        )
        marks = ["+" if _withstands(name, attack) else "-" for attack in attacks]
        lines.append([f"`{name}`", " to ".join(ends), reads, *marks])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _withstands(name: str, attack: str) -> bool:
    from tests.rewards.examples import OF_GROUPS, SCENES, WHOLE_SENTENCE, score, score_one, with_labels

    def below(row: dict[str, Any], honest: str, attacks: dict[str, str]) -> bool:
        row = with_labels(row)
        best = row["text"] if name in WHOLE_SENTENCE else honest
        if name in OF_GROUPS:  # which judge a hypothesis by the others: two honest ones and this one
            first, second, third = score(name, [best, row["text"], attacks[attack]], row)
            return third < min(first, second)
        return score_one(name, attacks[attack], **row) < score_one(name, best, **row)

    return all(below(*scene) for scene in SCENES.values())


TABLES: dict[str, Callable[..., str]] = {
    "families_in_words": in_words,
    "docstring": docstring,
    "adversaries": adversaries,
}
