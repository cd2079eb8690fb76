"""Notebooks: one output with one bar and one table while a model is trained, and results that show themselves."""

from __future__ import annotations

import re
import sys
import types
from collections import Counter
from html.parser import HTMLParser

import pytest
import torch
import transformers.trainer
from transformers import TrainerCallback

from audiorl.evaluation import Decoded, compare
from audiorl.losses import PairScores, PolicyBatch
from audiorl.notebook import html_table
from audiorl.pairs import MinedPairs
from audiorl.rewards import RewardSet
from audiorl.trainers import logs
from audiorl.trainers.logs import Console, NotebookConsole
from tests.evaluation.clips import measured
from tests.trainers import pair_rows, raft_rows
from tests.trainers.grpo_rows import rows as text_rows


class StockCallback(TrainerCallback):
    """In the place of transformers' NotebookProgressCallback, which needs IPython."""


class Outputs:
    """A stand-in for IPython.display: what each output shows, and how often it was drawn."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.drawn = 0

    def display(self, html: str, display_id: bool = False) -> Handle:
        assert display_id
        self.shown.append(html)
        return Handle(self, len(self.shown) - 1)


class Handle:
    def __init__(self, outputs: Outputs, place: int):
        self.outputs, self.place = outputs, place

    def update(self, html: str) -> None:
        self.outputs.shown[self.place] = html
        self.outputs.drawn += 1


@pytest.fixture
def notebook(monkeypatch) -> Outputs:
    outputs = Outputs()
    display = types.ModuleType("IPython.display")
    display.__dict__.update(HTML=str, display=outputs.display)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(logs, "is_in_notebook", lambda: True)
    monkeypatch.setattr(transformers.trainer, "DEFAULT_PROGRESS_CALLBACK", StockCallback)
    return outputs


def cells(html: str) -> list[list[str]]:
    """The rows of the one table in it."""
    found: list[list[str]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag == "tr":
                found.append([])
            elif tag in ("td", "th"):
                found[-1].append("")

        def handle_data(self, data):
            if found and found[-1]:
                found[-1][-1] += data

    assert html.count("<table") == 1
    Reader().feed(html)
    return found


def test_a_notebook_shows_one_output_with_one_bar_and_a_table_with_wer(notebook, tmp_path, capfd):
    tuned = pair_rows.trainer(
        tmp_path,
        max_steps=3,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        eval_wer=True,
        disable_tqdm=False,
        quiet=False,
        trainer_eval_dataset=pair_rows.pair_rows(2),
    )
    kinds = Counter(type(callback) for callback in tuned.callback_handler.callbacks)
    assert kinds[NotebookConsole] == 1 and not kinds[StockCallback] and not kinds[Console]
    tuned.train()
    assert len(notebook.shown) == 1 and notebook.drawn >= 3
    (html,) = notebook.shown
    assert re.findall(r'<progress value="(\d+)" max="(\d+)"', html) == [("3", "3")]
    columns, *steps = cells(html)
    assert columns[0] == "step" and {"loss", "evaluation loss", "WER"} <= set(columns)
    assert [row[0] for row in steps] == ["1", "2", "3"]
    wer = tuned.state.log_history[2]["eval_wer"]
    assert steps[1][columns.index("WER")] == f"{100 * wer:.1f} %" and not steps[0][columns.index("WER")]
    assert f"WER {100 * wer:.1f} %</div>" in html
    told = capfd.readouterr()
    assert "transcribing" not in told.err and "%|" not in told.err and "step 1/3" not in told.out


def test_outside_of_training_a_notebook_shows_lines_and_bars(notebook, tmp_path, capsys):
    tuned = pair_rows.trainer(tmp_path, quiet=False, disable_tqdm=False, trainer_eval_dataset=pair_rows.pair_rows(2))
    tuned.evaluate()
    assert not notebook.shown and "evaluation loss" in capsys.readouterr().out


def test_raft_shows_no_bar_of_sampling_beside_the_output(notebook, tmp_path, capfd):
    raft_rows.trainer(tmp_path, text_rows(2), quiet=False, disable_tqdm=False).train()
    assert len(notebook.shown) == 1
    assert "sampling" not in capfd.readouterr().err


@pytest.mark.parametrize("settings", [{"quiet": True, "disable_tqdm": False}, {"quiet": False, "disable_tqdm": True}])
def test_without_bars_a_notebook_has_no_output(notebook, tmp_path, settings):
    pair_rows.trainer(tmp_path, **settings).train()
    assert not notebook.shown


# ---- results ----


def test_a_table_shows_texts_as_they_are():
    html = html_table(["a<b", "n"], [["<script>&", 0.123456], [None, 7]], "x < y")
    assert "<script>" not in html and "<p>x &lt; y</p>" in html
    assert cells(html) == [["a<b", "n"], ["<script>&", "0.1235"], ["", "7"]]


def test_a_comparison_is_a_table_of_one_row():
    true = ["a b", "c d", "e f", "g h"]
    found = compare(Decoded(true, ["a", "c", "e f", "g x"]), Decoded(true, ["a b", "c", "e", "g x"]))
    columns, row = cells(found._repr_html_())
    shown = dict(zip(columns, row, strict=True))
    assert (shown["before"], shown["after"], shown["difference"]) == ("37.5 %", "37.5 %", "+0.0 points")
    assert (shown["better"], shown["worse"], shown["same"]) == ("1", "1", "2")
    assert len(repr(found)) < 120


def test_a_measurement_is_a_table_of_one_row():
    found = measured(("a b", "a b"), ("a b", "a"), ("a b", "a b"), settings={"resamples": 100})
    columns, row = cells(found._repr_html_())
    shown = dict(zip(columns, row, strict=True))
    assert (shown["error rate"], shown["D"], shown["words"], shown["clips"]) == ("16.7 %", "1", "6", "3")
    assert len(repr(found)) < 120


def test_mined_pairs_show_a_few_and_say_how_many_there_are():
    row = {"chosen": "the dog", "chosen_reward": 1.0, "rejected": "dog <unk>", "rejected_reward": 0.5, "audio": "x"}
    found = MinedPairs([row] * 40, 50, 0.2)
    columns, *rows = cells(found._repr_html_())
    assert columns == ["chosen", "chosen_reward", "rejected", "rejected_reward"] and len(rows) == 5
    assert rows[0] == ["the dog", "1", "dog <unk>", "0.5"]
    assert "40 pairs from 50 clips" in found._repr_html_()
    assert repr(found) == "MinedPairs(40 pairs, clips=50, mean_margin=0.500)"


def test_a_reward_table_shows_the_total_and_each_reward():
    rewards = RewardSet(["one_minus_wer", "length_ratio"], [1.0, 0.5])
    said = ["a b", "a", "c d", "a b", "b", "b"]
    found = rewards(said, [[1]] * 6, {"text": ["a b"] * 6}, [f"row {i}" for i in range(6)])
    columns, *rows = cells(found._repr_html_())
    assert columns == ["total", "one_minus_wer", "length_ratio"] and len(rows) == 5
    assert float(rows[0][0]) == pytest.approx(found.total[0], abs=1e-3)
    assert repr(rewards) == "RewardSet(one_minus_wer x 1, length_ratio x 0.5)"
    assert repr(found).startswith("RewardTable(6 completions, one_minus_wer, length_ratio, mean=")


def test_what_holds_tensors_shows_their_shapes():
    pairs = PairScores(*torch.zeros(3, 8, 2), *[None] * (len(PairScores._fields) - 3))
    assert "logps=(8, 2), ref_logps=(8, 2)" in repr(pairs) and "tensor" not in repr(pairs)
    batch = PolicyBatch(*torch.zeros(3, 8, 2, 5), *[None] * (len(PolicyBatch._fields) - 3))
    assert "keep=(8, 2, 5)" in repr(batch) and "tensor" not in repr(batch)
