"""Names that load when they are first asked for (PEP 562), modules that have moved, and answers to misspelt names.

A package lists its public names once, in `_HOMES`: name -> module. `__all__`, `dir` and loading follow from it; the
imports under `if TYPE_CHECKING`, which editors and mypy read, are held to the same names by a test.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Modules that other code may import by their former name -> where their names are now
MOVED = {
    "audiorl.adapters.checks": "audiorl.adapters",
    "audiorl.adapters.flags": "audiorl.adapters",
    "audiorl.audio_features": "audiorl.audio.features",
    "audiorl.augment.augmentation": "audiorl.augment",
    "audiorl.augment.masks": "audiorl.augment.transforms",
    "audiorl.demo.settings": "audiorl.demo",
    "audiorl.losses.own": "audiorl.losses.settings",
    "audiorl.losses.policy_batch": "audiorl.losses.policy_losses",
    "audiorl.model_card.facts": "audiorl.model_card.card",
    "audiorl.models.footprint": "audiorl.models.forward",
    "audiorl.models.fun_asr": "audiorl.models.audio_llms",
    "audiorl.models.plain_text": "audiorl.models.encoder_decoder",
    "audiorl.normalisers": "audiorl.text.normalizers",
    "audiorl.pairs.strategies": "audiorl.pairs.settings",
    "audiorl.quiet": "audiorl.exits",
    "audiorl.report.page_data": "audiorl.report.page",
    "audiorl.rewards.calling": "audiorl.rewards.reward_set",
    "audiorl.script": "audiorl.commands.train",
    "audiorl.text.hotwords": "audiorl.text.keywords",
    "audiorl.text.pairs": "audiorl.text.error_rates",
    "audiorl.tuning": "audiorl.commands.train",
    "audiorl.evaluation.labels": "audiorl.evaluation.measurement",
    "audiorl.evaluation.probe": "audiorl.evaluation.systems",
    "audiorl.evaluation.results": "audiorl.evaluation.run",
    "audiorl.evaluation.table": "audiorl.evaluation.document",
    "audiorl.datasets.columns": "audiorl.datasets.formats",
    "audiorl.datasets.corpus_table": "audiorl.datasets.corpus",
    "audiorl.datasets.length_filter": "audiorl.datasets.checks",
    "audiorl.trainers.decoding": "audiorl.trainers.metrics",
    "audiorl.trainers.rewarded": "audiorl.trainers.rollout_trainer",
}
# package -> the names that it offers, for answers to a misspelt one
_OFFERED: dict[str, list[str]] = {}


def lazy_names(
    package: str, homes: Mapping[str, str], former: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package: its `__name__`.
        homes: public name -> the module of the package that holds it, or the full name of one elsewhere.
        former: names that are imported like those of `homes`, but belong to another room now: `__all__` omits them.
    """
    everything = {**(former or {}), **homes}
    listed = sorted(homes)
    _OFFERED[package] = listed

    def get(name: str) -> Any:
        if name not in everything:
            raise AttributeError(f"module {package!r} has no attribute {name!r}{_meant(name, everything)}")
        home = everything[name]
        return getattr(importlib.import_module(home if "." in home else f"{package}.{home}"), name)

    return get, lambda: listed, listed


def _meant(name: str, known: Iterable[str]) -> str:
    """A suggestion for an unknown name; "" if no known name is near."""
    by_lower = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.75)
    return f". Did you mean {by_lower[near[0]]!r}?" if near else ""


class _MovedModule(Loader):
    """Loads a module by its former name: the module itself, not a copy."""

    def __init__(self, home: str):
        self.home = home

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.module = importlib.import_module(self.home)
        self.own = self.module.__spec__
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own  # the import system has put the former name there


class _FormerNames(MetaPathFinder):
    """Finds modules of audiorl by their former names; Python asks it when no file is found."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module under its new name; None if there is none.

        Raises:
            ModuleNotFoundError: the package has a name, or a module, with nearly this spelling.
        """
        package, _, own = name.rpartition(".")
        if package.split(".")[0] != "audiorl":
            return None
        if name in MOVED:
            return importlib.util.spec_from_loader(name, _MovedModule(MOVED[name]))
        # `from audiorl import DPOTrianer` looks for a module of that name when the package has none
        if told := _meant(own, [*_OFFERED.get(package, ()), *_modules(path)]):
            raise ModuleNotFoundError(f"cannot import {own!r} from {package!r}{told}")
        return None


def _modules(path: Sequence[str] | None) -> list[str]:
    import pkgutil

    return [module.name for module in pkgutil.iter_modules(path)]


def answer_former_names() -> None:
    """Make imports by former names work. The finder is asked last, so it costs other imports nothing."""
    if not any(isinstance(finder, _FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(_FormerNames())
