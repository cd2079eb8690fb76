"""Examples are scripts to copy: short, straight, public calls only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
# What a script needs of audiorl: the package itself, rows, flags, the demo, how a program ends
PUBLIC = {
    "audiorl",
    "audiorl.datasets",
    "audiorl.demo",
    "audiorl.elsewhere",
    "audiorl.exits",
    "audiorl.flags",
    "audiorl.models",
    "audiorl.pairs",
}
STEPS = ("Flags", "Model by the class", "Rows", "Trainer", "WER before", "Train;", "Save", "WER after", "Push")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_read_from_top_to_bottom(path):
    text = path.read_text()
    assert 60 <= len(text.splitlines()) <= 90
    places = [text.index(f". {step}") for step in STEPS]
    assert places == sorted(places)
    for call in ("load_from_flags", "train_rows", "Trainer(", "trainer.decode", "trainer.train", "trainer.save_model"):
        assert call in text, call
    assert "tuning" not in text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_uses_public_names_only(path):
    tree = ast.parse(path.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.startswith("audiorl")} <= PUBLIC
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not any(name.startswith("_") for name in attributes)
