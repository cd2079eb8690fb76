"""Flags from dataclasses: YAML, what overrides what, and what is said of mistakes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from audiorl.flags import parse


@dataclass
class Cooking:
    minutes: float = 10.0
    dish_name: str | None = None
    spices: list[str] = field(default_factory=list)
    weights: list[float] | None = None
    salted: bool = True
    heat: str = field(default="low", metadata={"choices": ["low", "high"], "help": "Of the oven."})

    former_names: ClassVar[dict[str, str]] = {"time": "minutes"}


def parsed(*argv: str, **settings) -> Cooking:
    (found,) = parse((Cooking,), argv=argv, **settings)
    return found


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("minutes: 20\nspices: [salt, pepper]\n")
    return path


def test_flags_override_the_file_which_overrides_defaults(recipe):
    assert parsed("--config", str(recipe), "--minutes", "5") == Cooking(5.0, None, ["salt", "pepper"])
    assert parsed(f"--config={recipe}") == Cooking(20.0, None, ["salt", "pepper"])
    assert parsed("--dish-name=rice", "--no_salted") == Cooking(dish_name="rice", salted=False)


def test_former_names_are_those_of_today(recipe):
    assert parsed("--time", "5").minutes == parsed("--time=5").minutes == 5
    recipe.write_text("time: 7")
    assert parsed("--config", str(recipe)).minutes == 7
    with pytest.raises(SystemExit):
        parsed("--tme", "5")


def test_a_script_shows_the_flags_of_its_own_classes(capsys):
    with pytest.raises(SystemExit) as end:
        parsed("--help")
    assert not end.value.code
    shown = capsys.readouterr().out
    for words in ("--minutes X", "--heat TEXT\n      Of the oven. One of low, high. Default low.", "--salted\n"):
        assert words in shown


def test_a_demo_s_flags_come_first_where_nothing_of_ones_own_is_named(recipe):
    demo = ["--minutes", "3"]
    assert parsed(demo_arguments=demo).minutes == 3
    assert parsed("--minutes", "4", demo_arguments=demo).minutes == 4
    assert parsed("--config", str(recipe), demo_arguments=demo).minutes == 20


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--minute", "3"], "unknown flag --minute; did you mean --minutes?"),
        (["--minu", "3"], "unknown flag --minu; did you mean --minutes?"),
        (["--xyzzy"], "unknown flag --xyzzy; --help-all lists all"),
        (["--oven"], "--oven: there is none here"),
        (["--config"], "--config has no value"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--minutes", "ten"], "--minutes takes a number; got 'ten'."),
        (["--salted", "maybe"], "--salted takes true or false; got 'maybe'."),
        (["--dish_name"], "--dish_name has no value"),
        (["--heat", "hgih"], "--heat is not 'hgih'. Did you mean high? There are low, high."),
        (["--dish_name", "a", "b"], "--dish_name takes one value; got 'a b'. Put a value with spaces in quotes."),
        (["a", "--minutes", "3"], "'a' is no flag, and no flag before it takes it."),
    ],
)
def test_wrong_flags_end_with_a_message_and_2(argv, told, capsys):
    with pytest.raises(SystemExit) as end:
        parsed(*argv, refused={"--oven": "there is none here"})
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_a_file_s_values_are_read_like_those_of_the_command_line(recipe):
    recipe.write_text("weights: [1, 2e-1]\ndish_name: 2024\nminutes: 1e1\n")
    words = ["--weights", "1", "2e-1", "--dish_name", "2024", "--minutes", "1e1"]
    expected = Cooking(10.0, "2024", weights=[1.0, 0.2])
    assert parsed("--config", str(recipe)) == parsed(*words) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("minuts: 3", "unknown flag --minuts in recipe.yaml; did you mean --minutes?"),
        ("- minutes", "holds no flags"),
        ("minutes: [", "is not YAML"),
        ("dish_name: no", "--dish_name in recipe.yaml is False"),
        ("minutes: ten", "--minutes in recipe.yaml takes a number; got 'ten'."),
        ("minutes: [1, 2]", "--minutes in recipe.yaml takes a number; got '1 2'."),
        ("heat: hgih", "--heat in recipe.yaml is not 'hgih'. Did you mean high?"),
        ("minutes:", "--minutes in recipe.yaml has no value. Write one behind it, or take the line out."),
        ("minutes: {a: 1}", "--minutes in recipe.yaml takes a number; got lines of `name: value`."),
        ("weights: [1, much]", "--weights in recipe.yaml takes a number at each place; got 'much'."),
    ],
)
def test_a_wrong_file_ends_with_a_message_and_2(recipe, text, told, capsys):
    recipe.write_text(text)
    with pytest.raises(SystemExit) as end:
        parsed("--config", str(recipe))
    assert end.value.code == 2
    assert told in capsys.readouterr().err.replace(f"{recipe.parent}{os.sep}", "")
