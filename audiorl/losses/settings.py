"""Losses by name, and their settings: found, checked, and a loss of your own tried out, before a run begins.

A loss is a function of a batch's scores; its settings are its keyword-only arguments. It is named as rewards are: by a
key of the shipped table, by an entry point of the group "audiorl.losses", by a dotted path, or passed itself.
"""

from __future__ import annotations

import inspect
import math
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any, TypeVar

import torch
import yaml

from audiorl.elsewhere import LOSSES
from audiorl.plugins import find_plugin, registered_names

ENTRY_POINT_GROUP = "audiorl.losses"

Entry = TypeVar("Entry")


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


# ---- losses by name ----


def loss_name(loss: Any) -> str:
    """What a loss is called in logs and on the card: its key or path, or the function's `__name__`."""
    if isinstance(loss, str):
        return loss
    function = getattr(loss, "function", loss)
    return getattr(function, "__name__", type(function).__name__)


def find_loss(
    loss: Any,
    known: Mapping[str, Entry],
    wrap: Callable[[Callable[..., Any]], Entry],
    also: Iterable[str] = (),
) -> Entry:
    """The entry of a loss's table that a key, a path or a function stands for.

    Args:
        loss: a key of `known`, the name of an entry point, a dotted path, a function, or an entry of its own.
        known: the shipped losses.
        wrap: makes an entry of a function.
        also: other names that a message should offer.

    Raises:
        LossSettingError: nothing has this name, it cannot be called, or a checkpoint could not hold it.
    """
    if isinstance(loss, str) and loss in known:
        return known[loss]
    entry = type(next(iter(known.values())))
    found = find_plugin("loss", ENTRY_POINT_GROUP, loss, LossSettingError) if isinstance(loss, str) else loss
    if isinstance(found, entry):
        return found
    if found is None or not (callable(found) or isinstance(loss, str)):
        known_name("loss_type", loss, [*known, *also, *registered_names(ENTRY_POINT_GROUP)])
    if not callable(found) or inspect.isclass(found):
        raise LossSettingError(
            f"loss_type {loss_name(loss)!r} is a {type(found).__name__}, which is not called with scores. Name a "
            f"function, or one of: {', '.join(known)}."
        )
    if not isinstance(loss, str):
        _check_kept(found)
    return wrap(found)


def named_losses(value: Any) -> Any:
    """Functions and entries by name, alone or in a list; other values as they are: for logs, cards and checkpoints."""
    if isinstance(value, list | tuple) and not hasattr(value, "function"):
        return [named_losses(one) for one in value]
    return loss_name(value) if callable(value) or hasattr(value, "function") else value


def is_own(loss: Any, known: Mapping[str, Any]) -> bool:
    """Whether a loss is not one of the shipped ones."""
    return not (isinstance(loss, str) and loss in known)


def _check_kept(function: Callable[..., Any]) -> None:
    """A checkpoint holds the settings of its run, a function by where it is defined."""
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise LossSettingError(
            f"loss_type is {loss_name(function)!r}, which checkpoints cannot keep: {error}. Define it with def at the "
            "top of a module or notebook cell, not as a lambda or inside another function."
        ) from error


# ---- settings ----


def read_loss_settings(given: Mapping[str, Any] | Sequence[str] | str | None) -> dict[str, Any]:
    """Settings of losses from a dict or from texts of the form `name=value`, values as YAML reads them.

    Raises:
        LossSettingError: something else, or one name twice.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items()}
    texts = [given] if isinstance(given, str) else list(given)
    found: dict[str, Any] = {}
    for text in texts:
        name, is_one, value = str(text).partition("=")
        if not (name and is_one and value) or name in found:
            raise LossSettingError(
                f"loss_settings says each setting of a loss once, as name=value; got {text!r}. Write --loss_settings "
                "gamma=0.5 margin=2, in Python loss_settings={'gamma': 0.5, 'margin': 2}."
            )
        found[name] = yaml.safe_load(value)
    return found


def check_loss_settings(given: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]], own: set[str]) -> None:
    """Whether each setting is one that a loss reads and no field of the config sets.

    Args:
        given: from `read_loss_settings`.
        functions: the losses of a run, by name.
        own: names of settings that the config has fields for.

    Raises:
        LossSettingError: a setting that no loss reads, that is a field, or that is text where a number belongs.
    """
    parameters = {
        p.name: p
        for function in functions.values()
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    for name, value in given.items():
        if name in own:
            raise LossSettingError(
                f"loss_settings has {name!r}, which is a setting of its own: {name}={value!r}, --{name} {value}. Take "
                "it out of loss_settings."
            )
        free = sorted(set(parameters) - own)
        if name not in parameters:
            near = get_close_matches(name, free, n=1)
            guess = f"Did you mean {near[0]!r}? " if near else ""
            raise LossSettingError(
                f"loss_settings has {name!r}, which no loss of {list(functions)} reads. {guess}"
                f"They read: {', '.join(free) or 'none'}; a setting is a keyword-only argument of the loss."
            )
        default, annotation = parameters[name].default, str(parameters[name].annotation)
        is_number = isinstance(default, Real) and not isinstance(default, bool)
        if is_number or (default is inspect.Parameter.empty and annotation in ("float", "int")):
            finite_number(f"loss_settings[{name!r}]", value)


# ---- a trial ----


def try_loss(name: str, function: Callable[..., Any], scores: Any, *shapes: tuple[int, ...]) -> None:
    """Call a loss once on made-up scores, so that what is wrong with it shows before anything is spent.

    Args:
        name: of the loss.
        function: with its settings bound.
        scores: what it is called with; some tensor of it has a graph.
        shapes: those that the tensor it returns, or the tensor `loss` of its tuple, may have.

    Raises:
        LossSettingError: it raises, returns something else, or a value without a graph.
    """
    try:
        found = function(scores)
    except Exception as error:
        raise LossSettingError(
            f"loss_type {name!r} failed on made-up scores of two clips: {type(error).__name__}: {error}. It is "
            f"called with {type(scores).__name__} (see audiorl.losses) and its settings."
        ) from error
    values = getattr(found, "loss", found)
    if not isinstance(values, torch.Tensor) or tuple(values.shape) not in shapes:
        got = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        wanted = " or ".join(map(str, shapes))
        raise LossSettingError(
            f"loss_type {name!r} returns {got} for two clips; it has to return {wanted}, one value for each "
            "and not reduced: the trainer divides by the counts of the whole step."
        )
    if not values.requires_grad:
        raise LossSettingError(
            f"loss_type {name!r} returns a value without a graph, so it would train nothing. Compute it from `logps` "
            "without detach, item or numpy."
        )
