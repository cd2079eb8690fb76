"""Flags from dataclasses: YAML, what overrides what, and what is said of mistakes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from audiorl.flags import parse


@dataclass
class Cooking:
    minutes: float = 10.0
    dish_name: str | None = None
    spices: list[str] = field(default_factory=list)
    salted: bool = True


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
        (["--xyzzy"], "unknown flag --xyzzy; --help lists all"),
        (["--oven"], "--oven: there is none here"),
        (["--config"], "--config has no value"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_flags_end_with_a_message_and_2(argv, told, capsys):
    with pytest.raises(SystemExit) as end:
        parsed(*argv, refused={"--oven": "there is none here"})
    assert end.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("minuts: 3", "unknown flag --minuts in --config; did you mean --minutes?"),
        ("- minutes", "holds no flags"),
        ("minutes: [", "is not YAML"),
        ("dish_name: no", "dish_name in --config is False"),
    ],
)
def test_a_wrong_file_ends_with_a_message_and_2(recipe, text, told, capsys):
    recipe.write_text(text)
    with pytest.raises(SystemExit) as end:
        parsed("--config", str(recipe))
    assert end.value.code == 2
    assert told in capsys.readouterr().err
