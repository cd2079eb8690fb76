"""Objects by name: an entry point of an installed package, or a dotted path; for rewards, losses and families alike."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any


def registered_names(group: str) -> set[str]:
    """Names that installed packages registered under an entry-point group, such as "audiorl.rewards"."""
    return {point.name for point in entry_points(group=group)}


def find_plugin(kind: str, group: str, name: str, error: type[Exception]) -> Any | None:
    """What an installed package registered under a name, or what a dotted path names; None where `name` is neither.

    Args:
        kind: what is looked for, "reward" or "loss"; opens the messages.
        group: the entry-point group.
        name: of an entry point, or "package.module.name" or "package.module:name"; modules in the working folder are
            found.
        error: the exception class to raise.

    Raises:
        error: several packages have the name, or what it names does not load.
    """
    points = [point for point in entry_points(group=group) if point.name == name]
    if not points:
        return imported(kind, name, error) if "." in name or ":" in name else None
    targets = sorted({point.value for point in points})
    if len(targets) > 1:
        raise error(
            f"Several packages register a {kind} {name!r}: {', '.join(targets)}. Name the one you mean by its dotted "
            f"path, {targets[0]!r} for example."
        )
    try:
        return points[0].load()
    except (ImportError, AttributeError) as cause:
        package = points[0].dist.name if points[0].dist else "an installed package"
        raise error(
            f"The {kind} {name!r} of {package} does not load from {targets[0]}: {cause}. Reinstall the package, or use "
            f"another {kind}."
        ) from cause


def imported(kind: str, path: str, error: type[Exception]) -> Any:
    """The object of a dotted path.

    Raises:
        error: the module cannot be imported, or has no such name.
    """
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    remedy = "Write package.module.name; modules are looked for where Python finds them and in the working folder."
    try:
        with _working_folder_importable():
            return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, ValueError) as cause:
        raise error(f"The {kind} {path!r} cannot be imported: {cause}. {remedy}") from cause
    except AttributeError as cause:
        raise error(f"The module of the {kind} {path!r} has no such name: {cause}. {remedy}") from cause


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    """Last in line, so that a user's file shadows no installed package."""
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
