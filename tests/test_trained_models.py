"""The table of what is trained in the tests, on the page of models, is the tests' own list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.trained_models import COMBINATIONS, NAMES, Trained, table

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("trained", COMBINATIONS, ids=lambda trained: "-".join(trained[:3]))
def test_each_cell_has_a_test(trained: Trained):
    file, _, name = trained.test.partition("::")
    functions = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert name in functions
    assert trained.model in NAMES


def test_the_page_has_the_table():
    assert table() in (ROOT / "docs" / "pages" / "families.md").read_text()


def test_no_cell_is_empty():
    assert all(cell.strip() for line in table().splitlines() for cell in line.strip("|").split("|"))
