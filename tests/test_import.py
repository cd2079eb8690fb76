"""Importing the package, its losses or its rewards costs little and changes nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import audiorl
from audiorl.lazy import MOVED


def loaded_after(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_neither_torch_nor_transformers():
    assert {"torch", "transformers"}.isdisjoint(loaded_after("import audiorl"))


def test_importing_losses_does_not_load_transformers():
    assert {"transformers", "trl", "datasets"}.isdisjoint(loaded_after("from audiorl.losses import CombinedObjective"))


def test_every_public_name_exists():
    for name in audiorl.__all__:
        assert getattr(audiorl, name) is not None
    assert audiorl.__version__.count(".") == 2


ROOMS = ["audiorl", *(f"audiorl.{room}" for room in ("audio", "datasets", "evaluation", "models", "pairs", "text"))]


def names_for_checkers(package: str) -> set[str]:
    """What the imports under `if TYPE_CHECKING` re-export."""
    source = Path(importlib.import_module(package).__file__ or "").read_text(encoding="utf-8")
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    names = [alias for block in blocks for line in block.body for alias in getattr(line, "names", ())]
    assert all(alias.asname == alias.name for alias in names), "`X as X` is what checkers take for public"
    return {alias.name for alias in names}


@pytest.mark.parametrize("package", ROOMS)
def test_checkers_and_editors_see_the_names_of_the_table(package):
    room = importlib.import_module(package)
    names = room._HOMES.keys() | getattr(room, "_FORMER", {}).keys()
    assert names_for_checkers(package) == names
    assert set(room.__all__) - {"__version__"} == set(room._HOMES)
    for name in names:
        assert getattr(room, name) is not None


def test_the_package_offers_what_a_script_needs():
    assert len(audiorl.__all__) <= 35
    assert audiorl.GroupBatch.__module__ == "audiorl.batch", "names that went to their rooms can still be imported"


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("from audiorl import DPOTrianer", "'DPOTrainer'"),
        ("from audiorl import dpotrainer", "'DPOTrainer'"),
        ("from audiorl.pairs import mine_pair", "'mine_pairs'"),
        ("import audiorl.trainer", "'trainers'"),
        ("from audiorl.trainers import dpoo", "'dpo'"),
    ],
)
def test_a_misspelt_import_is_answered_with_the_right_name(statement, told):
    with pytest.raises(ImportError, match=f"Did you mean {told}"):
        exec(statement)


def test_a_misspelt_attribute_is_answered_with_the_right_name():
    with pytest.raises(AttributeError, match=r"'audiorl' has no attribute 'GRPOTrainr'\. Did you mean 'GRPOTrainer'"):
        audiorl.GRPOTrainr  # noqa: B018
    with pytest.raises(AttributeError, match=r"has no attribute 'xyz'$"):
        audiorl.xyz  # noqa: B018
    assert not hasattr(audiorl, "DPOTrianer")


def test_a_name_like_no_other_is_missing_as_anywhere():
    with pytest.raises(ImportError, match="cannot import name 'xyz'"):
        exec("from audiorl import xyz")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'audiorl\.xyz'"):
        importlib.import_module("audiorl.xyz")


@pytest.mark.parametrize("name", MOVED)
def test_a_module_that_moved_is_found_by_its_former_name(name):
    home = importlib.import_module(MOVED[name])
    spec = home.__spec__
    parent, _, own = name.rpartition(".")
    taken = vars(importlib.import_module(parent)).get(own, home)
    assert taken is home, "the import system would put the module in the place of what is called so"
    assert importlib.import_module(name) is home
    assert home.__spec__ is spec and home.__name__ == MOVED[name]


def test_names_of_modules_that_moved_are_found():
    script, tuning = importlib.import_module("audiorl.script"), importlib.import_module("audiorl.tuning")
    for name in ("RewardScriptArguments", "load_from_flags", "mined_source", "parse", "test_rows", "with_pairs"):
        assert callable(getattr(script, name))
    assert callable(tuning.tune_on_pairs) and callable(tuning.tune_on_rewards)
