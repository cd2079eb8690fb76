"""Which rows a run sees and how often, and which hot words it is told with them."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, IterableDataset

from audiorl.collator import HotwordChanges
from audiorl.text.keywords import changed_hotwords, distinct_hotwords
from audiorl.trainers.distributed import BalancedRows, balanced_order
from tests.trainers import grpo_rows, pair_rows, raft_rows
from tests.trainers.pair_rows import largest_difference, weights

SPEAKERS = ["a", "a", "a", "a", "a", "b", "b", "c"]


@pytest.mark.parametrize("length", [1, 3, 8, 30])
def test_every_value_comes_equally_often(length):
    order = balanced_order(SPEAKERS, length, [0, 1])
    counts = Counter(SPEAKERS[place] for place in order)
    assert len(order) == length and max(counts.values()) - min(counts.get(v, 0) for v in "abc") <= 1
    # in each round of three every value once; a row comes again when all of its value have come
    assert all(
        len({SPEAKERS[place] for place in order[i : i + 3]}) == len(order[i : i + 3]) for i in range(0, length, 3)
    )
    of_a = [place for place in order if SPEAKERS[place] == "a"]
    assert len(set(of_a[:5])) == len(of_a[:5])
    assert order == balanced_order(SPEAKERS, length, [0, 1])


def test_an_epoch_has_an_order_of_its_own_and_as_many_rows():
    rows = BalancedRows(SPEAKERS, seed=3)
    first = list(rows)
    rows.epoch = 1
    assert len(rows) == len(first) == 8 and list(rows) != first and None not in first
    assert sorted(balanced_order([None, "x"], 2, [0])) == [0, 1]  # rows without a value are one more value


def seen_by(trainer):
    """The rows of each training batch, as they come."""
    seen = []
    collate = trainer.data_collator.__class__.__call__

    class Noting(trainer.data_collator.__class__):
        def __call__(self, rows):
            seen.append([row["row_id"] for row in rows])
            return collate(self, rows)

    trainer.data_collator.__class__ = Noting
    return seen


BALANCED = {"balance_column": "speaker", "per_device_train_batch_size": 2}


@pytest.mark.parametrize("method", ["dpo", "grpo", "grpo, two updates", "raft"])
def test_trainers_balance_a_column(tmp_path, method):
    if method == "dpo":
        found = pair_rows.trainer(tmp_path, pair_rows.pair_rows(8, speaker=SPEAKERS), num_train_epochs=2, **BALANCED)
    elif method == "raft":
        found = raft_rows.trainer(
            tmp_path, grpo_rows.rows(8, speaker=SPEAKERS), num_cycles=1, epochs_per_cycle=3, **BALANCED
        )
    else:
        repeats = {"num_iterations": 2} if "two" in method else {}
        found = grpo_rows.trainer(
            tmp_path, grpo_rows.rows(8, speaker=SPEAKERS), num_train_epochs=2, **BALANCED, **repeats
        )
    seen = seen_by(found)
    found.train()
    # RAFT hears each clip once to sample, then balances what it kept
    rows = [row for batch in seen for row in batch][8 if method == "raft" else 0 :]
    counts = Counter(SPEAKERS[row] for row in rows)
    assert len(counts) == 3 and max(counts.values()) - min(counts.values()) <= 4 < len(rows) // 3, counts


def test_a_resumed_run_goes_on_with_the_same_rows(tmp_path):
    """Stopped in the middle of the second epoch."""
    settings = {**BALANCED, "max_steps": 7, "save_strategy": "steps", "save_steps": 5, "hotword_dropout": 0.0}
    rows = pair_rows.pair_rows(8, speaker=SPEAKERS)
    whole = pair_rows.trainer(tmp_path / "whole", rows, **settings)
    seen = seen_by(whole)
    whole.train()
    again = pair_rows.trainer(tmp_path / "whole", rows, **settings)
    resumed = seen_by(again)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert resumed[:2] == seen[5:7]  # the loader reads one ahead
    assert largest_difference(weights(whole.model), weights(again.model)) == 0


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (None, {"balance_column": "accent"}, r"balance_column='accent' balances.*got rows with the columns"),
        ("stream", {"balance_column": "speaker"}, "got a stream"),
        (None, {"hotword_dropout": 0.5}, "the rows do not have it. Load rows with hotwords"),
        ("stream", {"hotword_distractors": 2}, "the rows are a stream"),
        (None, {"hotword_dropout": 1.5}, "hotword_dropout is a share"),
        (None, {"hotword_distractors": -1}, "hotword_distractors"),
        (None, {"balance_column": "speaker", "train_sampling_strategy": "sequential"}, "Leave one of them out"),
    ],
)
def test_what_cannot_be_chosen_is_refused_before_anything_is_spent(tmp_path, rows, changes, message):
    given = pair_rows.pair_rows(4, speaker=SPEAKERS[:4])
    if rows == "stream":
        data = Dataset.from_list(given)
        given = IterableDataset.from_generator(lambda: iter(data))
        changes = {**changes, "max_steps": 1}
    with pytest.raises(ValueError, match=message):
        pair_rows.trainer(tmp_path, given, **changes)


# ---- hot words ----

POOL = ["Nguyen", "Okafor", "Mbeki", "noon", "Zagreb", "Oslo", "Lima"]


def changed(words, text="call Nguyen at noon", dropout=0.0, distractors=0, seed=0):
    rng = np.random.default_rng(seed)
    return changed_hotwords(words, POOL, text, dropout=dropout, distractors=distractors, rng=rng)


def test_hot_words_are_left_out_and_mixed_with_those_of_other_rows():
    assert sorted(changed(["Nguyen", "Oslo"])) == ["Nguyen", "Oslo"]
    assert changed(["Nguyen"], dropout=1.0) == []
    found = changed(["Nguyen"], distractors=3)
    # neither the row's own nor what is spoken
    assert "Nguyen" in found and len(found) == 4 and not {"noon", "nguyen"} & set(found) and set(found) <= set(POOL)
    assert changed(["nguyen"], distractors=50)[:0] == [] and len(changed(["nguyen"], distractors=50)) == 6
    places = {changed(["Nguyen"], distractors=3, seed=seed).index("Nguyen") for seed in range(20)}
    assert places == {0, 1, 2, 3}  # it is not told by its place
    kept = sum("Nguyen" in changed(["Nguyen"], dropout=0.25, seed=seed) for seed in range(400))
    assert 270 < kept < 330
    assert distinct_hotwords([["a", "b"], None, "b, c"]) == ["a", "b", "c"]


@pytest.mark.parametrize("column", ["text", "chosen", "completion"])
def test_words_of_what_is_said_are_no_distractors_whatever_the_rows_are_for(column):
    changes = HotwordChanges(dropout=0.0, distractors=5, seed=0)
    changes.pool = ["Nguyen", "noon"]
    said = changes({"row_id": 0, column: "call Nguyen at noon", "hotwords": None})
    assert said["hotwords"] == []


def test_rewards_see_what_the_model_was_told_and_a_row_has_its_own_changes_each_epoch(tmp_path):
    told = []

    def reward(completions, hotwords, **columns):
        told.append([tuple(words) for words in hotwords][::4])
        return [float(len(said)) for said in completions]

    rows = grpo_rows.rows(2, text=["a", "b"], hotwords=[["d"], ["c", "f"]])
    settings = {"hotword_dropout": 0.5, "hotword_distractors": 1, "num_train_epochs": 3, "trainer_kind": "multilingual"}
    found = grpo_rows.trainer(
        tmp_path / "a", rows, trainer_reward_funcs=[reward], per_device_train_batch_size=2, language="en", **settings
    )
    found.train()
    first, told[:] = list(told), []
    assert len(first) == 3 and len({tuple(sorted(step)) for step in first}) > 1
    words = {word for step in first for row in step for word in row}
    assert words == {"d", "c", "f"}
    # the same whatever the batch
    again = grpo_rows.trainer(
        tmp_path / "b",
        rows,
        trainer_reward_funcs=[reward],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        language="en",
        **settings,
    )
    again.train()
    assert [sorted(step) for step in told] == [sorted(step) for step in first]
    # held-out rows are told what they are told
    assert again.data_collator.hotwords is None
