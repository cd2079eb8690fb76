"""Rewards by name, dotted path, plug-in and callable."""

import functools
import sys

import pytest

from audiorl.rewards import REWARDS, OneMinusWER, RewardError, RewardSet, load_reward, reward_names
from audiorl.rewards.registry import callable_name

PLUGIN = """
from dataclasses import dataclass

def shouts(completions, **kwargs):
    return [float(text.isupper()) for text in completions]

class Quiet:
    def __call__(self, completions, **kwargs):
        return [float(text.islower()) for text in completions]

class Needy:
    def __init__(self, level):
        self.level = level

class Holder:
    reward = staticmethod(shouts)

number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module and the record that pip would have left of its package."""
    name = f"plugin_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def register(folder, name, *lines):
    record = folder / f"{name}-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("\n".join(["[audiorl.rewards]", *lines]) + "\n")


def test_shipped_names():
    for name, reward in REWARDS.items():
        assert load_reward(name) is reward
    assert reward_names()[: len(REWARDS)] == list(REWARDS)


def test_packages_register_rewards(tmp_path, package):
    register(tmp_path, "loud", f"shouts = {package}:shouts", f"quiet = {package}:Quiet")
    assert {"shouts", "quiet"} <= set(reward_names())
    rewards = RewardSet(["shouts", "quiet"])
    assert rewards.names == ("shouts", "Quiet")
    assert rewards(["AB", "ab"], [[1], [1]], {}, ["row 0"] * 2).parts == {"shouts": [1, 0], "Quiet": [0, 1]}


def test_plugins_that_cannot_be_loaded_are_named(tmp_path, package):
    register(tmp_path, "loud", f"gone = {package}:nothing", f"shouts = {package}:shouts")
    register(tmp_path, "louder", f"shouts = {package}:Quiet")
    with pytest.raises(RewardError, match="'gone' of loud does not load") as stopped:
        load_reward("gone")
    assert isinstance(stopped.value.__cause__, AttributeError)
    with pytest.raises(RewardError, match="Several packages register a reward 'shouts'"):
        load_reward("shouts")


def test_a_shipped_reward_is_not_replaced_by_a_plugin(tmp_path, package):
    register(tmp_path, "loud", f"funasr = {package}:shouts")
    assert load_reward("funasr") is REWARDS["funasr"]


def test_dotted_paths(package):
    assert load_reward(f"{package}.shouts").__name__ == "shouts"
    assert load_reward(f"{package}:shouts").__name__ == "shouts"
    assert load_reward(f"{package}:Holder.reward").__name__ == "shouts"
    assert load_reward(f"{package}.Quiet")(completions=["a"]) == [1]
    assert load_reward("audiorl.rewards.OneMinusWER") == OneMinusWER()


def test_modules_of_the_working_folder_are_found_and_the_path_is_as_before(tmp_path, monkeypatch):
    (tmp_path / "rewards_of_mine.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(tmp_path))])
    before = list(sys.path)
    try:
        assert load_reward("rewards_of_mine.shouts").__name__ == "shouts"
    finally:
        sys.modules.pop("rewards_of_mine", None)
    assert sys.path == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{}.nothing", "has no such name"),
        ("no_such_package.reward", "cannot be imported"),
        (".reward", "cannot be imported"),
        ("{}.number", "is a int, which cannot be called"),
        ("{}.Needy", "is a class and cannot be made without arguments"),
    ],
)
def test_paths_that_lead_nowhere_are_told(path, message, package):
    with pytest.raises(RewardError, match=message):
        load_reward(path.format(package))


def test_unknown_names_are_told_with_the_nearest():
    with pytest.raises(RewardError, match=r"No reward is called 'keyword'; there are .*Did you mean 'keywords'"):
        load_reward("keyword")


class Judge:
    def __call__(self, completions, **kwargs):
        return [0.0] * len(completions)


def by(completions, factor, **kwargs):
    return [factor * len(text) for text in completions]


def test_callables_have_trls_names():
    from trl.trainer.utils import get_callable_name

    double = functools.partial(functools.partial(by), factor=2)
    for reward, name in ((by, "by"), (double, "by"), (Judge(), "Judge"), (OneMinusWER(name="mine"), "mine")):
        assert load_reward(reward).__name__ == callable_name(reward) == get_callable_name(reward) == name
    assert load_reward(double)(completions=["ab"]) == [4]
    assert load_reward(by) is by
    assert load_reward(Judge)(completions=["a"]) == [0.0]
