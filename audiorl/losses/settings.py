"""Checks of a loss's settings. They run when an objective is built, never at a training step."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from numbers import Real
from typing import Any

from audiorl.elsewhere import LOSSES


class LossSettingError(ValueError):
    """A loss was requested with an unknown name, or with a weight or number out of range."""


def finite_number(name: str, value: object) -> float:
    """`value` as a float.

    Args:
        name: what the user calls the setting; opens the error message.
        value: any finite real number; a bool is not one.

    Raises:
        LossSettingError: `value` is not a number, or infinite, or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise LossSettingError(f"{name} has to be a finite number; got {value!r}. Set {name} to a plain number.")
    return float(value)


def positive_number(name: str, value: object) -> float:
    """`value` as a float above 0.

    Raises:
        LossSettingError: `value` is not a finite number above 0.
    """
    number = finite_number(name, value)
    if number <= 0:
        raise LossSettingError(f"{name} has to be above 0; got {value!r}. Raise {name}, 0.1 is a usual start.")
    return number


def number_not_below(name: str, value: object, least: float) -> float:
    """`value` as a float of at least `least`.

    Raises:
        LossSettingError: `value` is not a finite number, or below `least`.
    """
    number = finite_number(name, value)
    if number < least:
        raise LossSettingError(f"{name} has to be {least:g} or more; got {value!r}. Set {name} to {least:g} or above.")
    return number


def check_settings(setting: str, name: str, function: Callable[..., Any], given: Collection[str]) -> None:
    """Check that a loss gets every setting it requires; its settings are its keyword-only arguments.

    Args:
        setting, name: how the loss was asked for, "loss_type" and its key.
        given: names of the settings that the objective binds.

    Raises:
        LossSettingError: a setting without a default that nobody sets.
    """
    parameters = inspect.signature(function).parameters.values()
    wanted = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in given]
    if wanted:
        raise LossSettingError(
            f"{setting} {name!r} wants {', '.join(wanted)}, which nothing sets: a loss gets "
            f"{', '.join(sorted(given)) or 'no settings'} from the config. Set it by --loss_settings "
            f"{wanted[0]}=VALUE (loss_settings={{{wanted[0]!r}: ...}} in Python), or give it a default."
        )


def known_name(setting: str, name: object, known: Iterable[str]) -> str:
    """`name`, if it is one of `known`.

    Raises:
        LossSettingError: it is not; the message has the nearest name and the whole list.
    """
    names = sorted(known)
    if isinstance(name, str) and name in names:
        return name
    nearest = get_close_matches(str(name), names, n=1, cutoff=0.5)
    guess = f"Did you mean {nearest[0]!r}? " if nearest else ""
    if setting == "loss_type" and set(re.findall("'(.+?)'", elsewhere := LOSSES.get(str(name), ""))) <= set(names):
        guess = elsewhere or guess
    raise LossSettingError(f"{setting} {name!r} does not exist. {guess}Choose from: {', '.join(names)}.")
