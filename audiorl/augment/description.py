"""From a description, in JSON, YAML or a dict, to an `Augmentation`; whatever is wrong with it is said now."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

import yaml

from audiorl.augment.augmentation import TOO_LONG, Augmentation
from audiorl.augment.masks import MASKS
from audiorl.augment.settings import nearest, read_settings
from audiorl.augment.transforms import TRANSFORMS

FILE_SUFFIXES = (".json", ".yaml", ".yml")
_EXAMPLE = '{"speed": {"factor": [0.9, 1.1]}, "noise": {"snr_db": [5, 20], "p": 0.5}}'


def load_augmentation(description: Any, *, seed: int = 0) -> Augmentation:
    """Read a description; `audiorl.augment` says what it may hold.

    Args:
        description: dict, list of dicts, JSON or YAML text, or the path of a file with either.
        seed: an integer >= 0 that every clip's random numbers depend on.

    Raises:
        ValueError: no such file, text that cannot be read, an unknown transform or setting, a value of a wrong type or
            out of range, missing recordings, or a transform whose package is not installed.
    """
    written, folder = _written(description)
    steps = _steps(written)
    too_long = "error"
    transforms, masks = [], []
    for name, settings in steps:
        place = f"augmentation: {name}"
        if name == "too_long":
            if settings not in TOO_LONG:
                raise ValueError(f"{place} is {settings!r}, which is not offered. {nearest(str(settings), TOO_LONG)}")
            too_long = settings
        elif name in TRANSFORMS:
            transforms.append(read_settings(TRANSFORMS[name], settings, place, folder))
        elif name in MASKS:
            masks.append(read_settings(MASKS[name], settings, place, folder))
        else:
            known = (*TRANSFORMS, *MASKS, "too_long")
            raise ValueError(f"augmentation has no transform {name!r}. {nearest(str(name), known)}")
    for once in ("speed", "too_long"):
        if sum(name == once for name, _ in steps) > 1:
            raise ValueError(f"augmentation: {once} is there twice. Write it once.")
    if not transforms and not masks:
        raise ValueError(f"The augmentation names no transform. Leave it out altogether, or write {_EXAMPLE}.")
    return Augmentation(transforms, masks, seed=seed, too_long=too_long)


def _steps(written: Any) -> list[tuple[Any, Any]]:
    """The names and settings in their order."""
    parts = written if isinstance(written, list | tuple) else [written]
    for part in parts:
        if not isinstance(part, Mapping):
            raise ValueError(
                f"The augmentation holds {part!r} ({type(part).__name__}), not a dict of transforms. Write {_EXAMPLE}."
            )
    return [step for part in parts for step in part.items()]


def _written(description: Any) -> tuple[Any, str]:
    """What is written, and the folder that its paths start from."""
    if not isinstance(description, str | os.PathLike):
        return description, ""
    name = os.fspath(description)
    if os.path.isfile(name):
        with open(name, encoding="utf-8") as file:
            return _read(file.read(), f"the file {name}"), os.path.dirname(name)
    if name.lower().endswith(FILE_SUFFIXES) and "\n" not in name:
        raise ValueError(
            f"augmentation: there is no file {name}. Check the path; relative ones start at {os.getcwd()}."
        )
    return _read(name, "the text"), ""


def _read(text: str, source: str) -> Any:
    """YAML, of which JSON is a part but for tabs between its tokens and numbers like 1e-3."""
    try:
        if text.lstrip().startswith(("{", "[")):
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(text, object_pairs_hook=_without_repeats)
        return yaml.load(text, _NoRepeats)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"The augmentation cannot be read from {source}: {error}. Mend it; it looks like {_EXAMPLE}."
        ) from error


def _without_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice in one dict; a transform that occurs twice needs a list of dicts")
    return found


class _NoRepeats(yaml.SafeLoader):
    """PyYAML's safe loader, which by itself keeps the last of several equal names."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        return _without_repeats(
            [(self.construct_object(key, True), self.construct_object(value, True)) for key, value in node.value]
        )
