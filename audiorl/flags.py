"""Flags from dataclasses, by TRL's parser: every field a flag, YAML by `--config`, nothing misspelt goes through."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, cast

from audiorl.elsewhere import answer_to_flag
from audiorl.exits import MISTYPED, stop

WITHOUT_VALUE = {"--help", "-h"}
# what names a run of one's own; without any of them a demo's flags are taken
OF_ONES_OWN = ("--model_name_or_path", "--dataset_name", "--config", *WITHOUT_VALUE)

EPILOG = "--config FILE.yaml reads flags from a file, lines like `beta: 0.1`; flags on the command line override it."


def parse(
    configs: Sequence[type],
    demo_arguments: Sequence[str] = (),
    argv: Sequence[str] | None = None,
    *,
    refused: Mapping[str, str] | None = None,
) -> tuple:
    """Dataclasses filled from the command line.

    Flags override `--config FILE.yaml`, which overrides the defaults. Misspelt flags, on the command line and in the
    file, end the program with the nearest one, flags of `refused` with the reason given there; abbreviations are not
    taken.

    Args:
        configs: the dataclasses; every field is a flag.
        demo_arguments: come first where neither a model, a data set nor a config file is named.
        argv: default `sys.argv`.
        refused: flag -> why it is not taken.
    """
    from trl.scripts.utils import TrlParser

    argv = _with_spaces(sys.argv[1:] if argv is None else argv)
    if not any(arg in OF_ONES_OWN for arg in argv):
        argv = [*demo_arguments, *argv]
    names = {f.name for config in configs for f in fields(config)}
    _check_names((arg for arg in argv if arg.startswith("--")), names, refused or {})
    parser = TrlParser(list(configs), allow_abbrev=False, epilog=EPILOG)
    try:
        if "--config" in argv:
            settings = _settings_of(argv)
            _check_names((f"--{name}" for name in settings), names | {"env"}, refused or {}, " in --config")
            _check_truth_values(settings, configs)
        return cast(tuple, parser.parse_args_and_config(argv))
    except (ValueError, OSError) as error:
        stop(str(error), MISTYPED)


def _with_spaces(argv: Sequence[str]) -> list[str]:
    """`--flag=value` as `--flag value`, the one form that `--config` is read in."""
    return [part for arg in argv for part in (arg.split("=", 1) if arg.startswith("--") else [arg])]


def _check_names(flags: Iterable[str], names: set[str], refused: Mapping[str, str], where: str = "") -> None:
    known = {f"--{name}" for name in names} | {"--config", *WITHOUT_VALUE}
    for flag in flags:
        if flag in refused:
            stop(f"{flag}{where}: {refused[flag]}", MISTYPED)
        with_underscores = "--" + flag[2:].replace("-", "_")
        if not {flag, with_underscores, with_underscores.replace("--no_", "--", 1)} & known:
            near = get_close_matches(with_underscores, known, n=1)
            guess = f"did you mean {near[0]}?" if near else "--help lists all"
            stop(f"unknown flag {flag}{where}; {answer_to_flag(flag, names) or guess}", MISTYPED)


def _settings_of(argv: Sequence[str]) -> dict[str, Any]:
    import yaml

    place = argv.index("--config") + 1
    if place == len(argv):
        stop("--config has no value. Name a YAML file behind it.", MISTYPED)
    with open(argv[place], encoding="utf-8") as file:
        try:
            found: Any = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(
                f"--config {argv[place]} is no YAML: {error}. Write lines of the form `flag: value`."
            ) from error
    if not isinstance(found, dict):
        raise ValueError(f"--config {argv[place]} holds no flags. Write lines of the form `flag: value`.")
    return {str(name): value for name, value in found.items()}


def _check_truth_values(settings: Mapping[str, Any], configs: Sequence[type]) -> None:
    types = {f.name: str(f.type) for config in configs for f in fields(config)}
    for name, value in settings.items():
        if isinstance(value, bool) and "bool" not in types.get(name, "bool"):
            raise ValueError(
                f"{name} in --config is {value}: unquoted no, off, yes and on are truth values in YAML. "
                f"Write it in quotes, like {name}: 'no'."
            )
