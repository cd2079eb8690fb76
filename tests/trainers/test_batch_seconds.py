"""Training with a budget of seconds: what a batch holds, resuming, accumulation, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import HfArgumentParser

from audiorl.audio import row_audio_seconds
from audiorl.datasets import EpochPlan
from audiorl.trainers import config
from audiorl.trainers.batch_budget import fits_memory, pads_to_window
from audiorl.trainers.dpo import DPOTrainer
from audiorl.trainers.grpo import GRPOConfig
from audiorl.trainers.raft_cycle import KEPT_FILE, KeptBatches
from tests.tiny_ctc import tiny_ctc
from tests.trainers import ctc_rows, grpo_rows, pair_rows, raft_rows
from tests.trainers.pair_rows import PLAIN_STEPS, largest_difference, logged, weights

# Eight clips of 0.54 to 0.9 s.
BUDGET = {"max_batch_seconds": 1.85, "per_device_train_batch_size": 8}


def make(method, folder, rows=None, **changes):
    if method == "dpo":
        return pair_rows.trainer(folder, rows or pair_rows.pair_rows(8), **{**BUDGET, **changes})
    if method == "raft":
        return raft_rows.trainer(folder, rows or grpo_rows.rows(8), **{**BUDGET, **changes})
    return grpo_rows.trainer(folder, rows or grpo_rows.rows(8), **{**BUDGET, **changes})


def seen_by(trainer):
    """The rows of each training batch and the longest of its clips, in seconds, as they come."""
    seen = []

    class Noting(type(trainer.data_collator)):
        def __call__(self, rows):
            longest = max(row_audio_seconds(row) for row in rows)
            seen.append(([row["row_id"] for row in rows], longest))
            return super().__call__(rows)

    trainer.data_collator.__class__ = Noting
    return seen


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_batches_keep_the_budget_and_hold_every_row_once_an_epoch(tmp_path, method):
    found = make(method, tmp_path, num_train_epochs=2)
    seen = seen_by(found)
    found.train()
    assert max(len(rows) * longest for rows, longest in seen) <= 1.85
    half = len(seen) // 2
    for epoch in (seen[:half], seen[half:]):
        assert sorted(row for rows, _ in epoch for row in rows) == list(range(8))
    assert seen[:half] != seen[half:] and half < 8
    assert found.state.global_step == found.state.max_steps == 2 * half
    assert found.clips_per_step == round(8 / half)


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_a_run_resumed_within_an_epoch_ends_as_one_that_did_not_stop(tmp_path, method):
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 5, "gradient_accumulation_steps": 1}
    if method == "grpo":  # checkpoint 5 lies between two updates from the same rollouts
        settings |= {"num_iterations": 2, "max_steps": 8}
    whole = make(method, tmp_path, **settings)
    seen = seen_by(whole)
    whole.train()
    again = make(method, tmp_path, **settings)
    resumed = seen_by(again)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert resumed[:2] == seen[5:7]
    assert largest_difference(weights(whole.model), weights(again.model)) == 0


@pytest.mark.parametrize("method", ["dpo", "grpo", "raft"])
def test_micro_batches_of_a_step_are_one_batch_of_it(tmp_path, method):
    """The loss is divided over the whole step, however many clips its micro-batches hold."""
    clips = [row["audio"]["array"] for row in pair_rows.pair_rows(4)]
    # 0.9, 0.81, 0.72 and 0.63 s: one micro-batch of three clips and one of one, against all four at once
    assert [round(len(clip) / 16000, 2) for clip in clips] == [0.9, 0.81, 0.72, 0.63]
    rows = (pair_rows.pair_rows if method == "dpo" else grpo_rows.rows)(4)
    once = {**PLAIN_STEPS, "num_train_epochs": 1}
    if method == "raft":  # both sample in batches of one clip
        once = {**PLAIN_STEPS, "num_cycles": 1, "max_kept_per_clip": 2, "rollout_batch_size": 1}
    parts = make(method, tmp_path / "a", rows, max_batch_seconds=2.8, gradient_accumulation_steps=2, **once)
    together = make(method, tmp_path / "b", rows, max_batch_seconds=3.7, **once)
    seen, start = seen_by(parts), weights(parts.model)
    parts.train()
    together.train()
    assert sorted(len(batch) for batch, _ in seen[-2:]) == [1, 3]
    assert len(seen) == (6 if method == "raft" else 2)
    assert parts.state.global_step == together.state.global_step == 1
    assert largest_difference(weights(parts.model), weights(together.model)) < 2e-6
    assert largest_difference(weights(parts.model), start) > 1e-3


def test_seconds_come_from_the_duration_or_from_the_header(tmp_path):
    rows = pair_rows.pair_rows(4, duration=[0.9, None, 0.71, None])
    found = make("dpo", tmp_path, rows)
    assert found.train_dataset["duration"][:] == [0.9, 0.81, 0.71, 0.63]
    assert "duration" not in pair_rows.trainer(tmp_path, pair_rows.pair_rows(4)).train_dataset.column_names


def test_what_the_budget_brings_is_told(tmp_path, caplog):
    logger = "audiorl.trainers.batch_budget"
    with caplog.at_level("WARNING", logger=logger):
        make("dpo", tmp_path, per_device_train_batch_size=1, num_train_epochs=1).train()
    told = [record.message for record in caplog.records if record.name == logger]
    assert "max_batch_seconds=1.85: 8 clips in 8 batches an epoch; 0.0% of the seconds are padding." in told
    assert any("have room for more clips than per_device_train_batch_size=1 allows. Raise it." in line for line in told)
    assert sum("WhisperFamily pads every clip to the same window" in line for line in told) == 1


def test_only_a_fixed_window_makes_as_many_features_of_every_clip(tmp_path):
    model, processor = tiny_ctc("wav2vec2")
    ctc = pair_rows.trainer(
        tmp_path, ctc_rows.pairs(2), trainer_model=model, trainer_processing_class=processor, **BUDGET
    )
    assert not pads_to_window(ctc.family, 0.5, 0.9)
    assert pads_to_window(make("dpo", tmp_path).family, 0.5, 0.9)


def stream():
    data = Dataset.from_list(pair_rows.pair_rows(4))
    return IterableDataset.from_generator(lambda: iter(data))


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (stream, {"max_steps": 1}, r"lengths of all clips, and the rows are a stream.*Load them whole"),
        (
            pair_rows.pair_rows,
            {"max_batch_seconds": 0.85},
            r"less than a single clip: .*row 0.* has 0\.90 s\. Raise max_batch_seconds to 1 or more.*max_audio_seconds",
        ),
        (
            lambda: pair_rows.pair_rows(5)[2:],  # at most 0.72 s
            {"max_batch_seconds": 0.8, "augmentation": {"speed": {"factor": [0.8, 1.0]}}},
            r"has 0\.90 s where augmentation slows it most",
        ),
        (
            pair_rows.pair_rows,  # those that would outgrow the window of 1 s stay as they are, others need not
            {"max_batch_seconds": 1.1, "augmentation": {"speed": {"factor": [0.8, 1.0]}, "too_long": "unaugmented"}},
            r"has 1\.1[23] s where augmentation slows it most",
        ),
        (pair_rows.pair_rows, {"max_batch_seconds": 0.0}, "finite number above 0, or 'auto'; got 0.0. Set it to"),
        (pair_rows.pair_rows, {"max_batch_seconds": float("inf")}, "finite number above 0"),
        (pair_rows.pair_rows, {"balance_column": "chosen"}, "so does balance_column='chosen'. Leave one of them out"),
        (pair_rows.pair_rows, {"train_sampling_strategy": "sequential"}, "so does train_sampling_strategy"),
        (pair_rows.pair_rows, {"dataloader_drop_last": True}, "so does dataloader_drop_last=True"),
    ],
)
def test_what_has_no_plan_is_refused_before_anything_is_spent(tmp_path, rows, changes, message):
    with pytest.raises(ValueError, match=message):
        make("dpo", tmp_path, rows(), **changes)


@pytest.fixture
def small_memory(monkeypatch):
    """A device on which more than three clips are out of memory; the numbers of clips that were tried."""
    monkeypatch.setattr(config, "has_memory_limit", lambda device: True)
    tried = []
    plain = DPOTrainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        tried.append(len(inputs["row_ids"]))
        loss = plain(self, model, inputs, *args, **kwargs)
        if tried[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss

    monkeypatch.setattr(DPOTrainer, "compute_loss", compute_loss)
    return tried


def test_a_budget_that_was_found_trains_like_the_number_it_is(tmp_path, small_memory, caplog):
    settings = {"num_train_epochs": 1, "disable_dropout": False, "save_strategy": "steps", "save_steps": 2}
    with caplog.at_level("WARNING", logger="audiorl.trainers.batch_budget"):
        found = make("dpo", tmp_path / "auto", max_batch_seconds="auto", **settings)
        found.train()
    assert small_memory[:3] == [1, 2, 4] and small_memory[3] == 3
    # 0.9 of three clips of 0.9 s, down to a tenth
    assert found.budget.seconds == 2.4 and any("--max_batch_seconds 2.4" in line for line in caplog.messages)
    told = make("dpo", tmp_path / "told", max_batch_seconds=2.4, **settings)
    told.train()
    assert largest_difference(weights(found.model), weights(told.model)) == 0
    assert logged(found, "loss") == logged(told, "loss") and logged(found, "entropy") == logged(told, "entropy")
    # a resumed run tries nothing
    again = make("dpo", tmp_path / "auto", max_batch_seconds="auto", **settings)
    small_memory.clear()
    again.train(resume_from_checkpoint=str(tmp_path / "auto" / "checkpoint-2"))
    assert len(small_memory) == found.state.max_steps - 2
    assert largest_difference(weights(found.model), weights(again.model)) == 0


def test_a_trial_leaves_statistics_of_the_model_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "has_memory_limit", lambda device: True)
    model, processor = tiny_ctc("parakeet")
    own = {"trainer_model": model, "trainer_processing_class": processor, "max_batch_seconds": "auto"}
    found = make("dpo", tmp_path, ctc_rows.pairs(4), **own)
    before = {name: buffer.clone() for name, buffer in found.model.named_buffers()}
    assert fits_memory(found, found.train_dataset)
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in found.model.named_buffers())
    assert all(weight.grad is None for weight in found.model.parameters())


def test_a_clip_that_fits_no_memory_is_told(tmp_path, small_memory, monkeypatch):
    def too_much(self, rows):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DPOTrainer, "try_batch", too_much)
    with pytest.raises(ValueError, match=r"longest clip alone \(0\.90 s\) do not fit.*max_audio_seconds"):
        make("dpo", tmp_path, max_batch_seconds="auto").train()


def test_what_cannot_be_tried_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'auto' tries how many clips fit a GPU.*on cpu.*Give a number"):
        make("dpo", tmp_path, max_batch_seconds="auto")
    monkeypatch.setattr(config, "has_memory_limit", lambda device: True)
    for method, name in (("grpo", "GRPOConfig"), ("raft", "RAFTConfig")):
        with pytest.raises(ValueError, match=rf"before anything is sampled.*{name}"):
            make(method, tmp_path, max_batch_seconds="auto")
    slowed = {"augmentation": {"speed": {"factor": [0.8, 1.0]}}}
    with pytest.raises(ValueError, match=r"tries the clips as they are.*Give a number"):
        make("dpo", tmp_path, pair_rows.pair_rows(5)[2:], max_batch_seconds="auto", **slowed)
    with pytest.raises(ValueError, match=r"or 'auto'; got 'much'"):
        make("dpo", tmp_path, max_batch_seconds="much")
    flags = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--max_batch_seconds"]
    (parsed,) = HfArgumentParser(GRPOConfig).parse_args_into_dataclasses([*flags, "1.85"])
    assert parsed.max_batch_seconds == 1.85
    with pytest.raises(ValueError, match="before anything is sampled"):
        HfArgumentParser(GRPOConfig).parse_args_into_dataclasses([*flags, "auto"])


def test_a_cycle_of_raft_samples_and_learns_within_the_budget(tmp_path):
    """With `sft_weight` it learns from every clip: a cycle has each row once in rollouts and once in steps."""
    found = make("raft", tmp_path, num_cycles=2, sft_weight=0.3, rollout_batch_size=1)
    seen = seen_by(found)
    found.train()
    assert max(len(rows) * longest for rows, longest in seen) <= 1.85
    steps = found.state.global_step // 2
    cycles = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for cycle in cycles:
        for part in (cycle[:-steps], cycle[-steps:]):
            assert sorted(row for rows, _ in part for row in rows) == list(range(8))
        assert len(cycle) == 8 + steps
    assert steps == len(EpochPlan(found.train_dataset["duration"][:], 1.85, max_clips=8)) < 8
    assert cycles[0] != cycles[1] and found.clips_per_step == round(8 / steps)
    assert [log["raft/passes"] for log in found.state.log_history if "raft/passes" in log] == [1, 1]


def test_kept_clips_go_round_in_batches_until_the_steps_of_a_cycle_are_full():
    seconds = np.array([0.5, 2.0, 1.0, 1.9, 0.6, 1.8, 1.0, 0.5])
    rows = [7, 2, 5, 4]  # 0.5, 1.0, 1.8, 0.6 s

    def plan(some):
        return EpochPlan(seconds[some], 2.0)

    def batches(cycle, some=rows, length=6):
        return list(KeptBatches(length, lambda: (cycle, some), plan))

    of_a_pass = len(plan(rows))
    assert 1 < of_a_pass < 4 and len(KeptBatches(6, lambda: (0, rows), plan)) == 6 == len(batches(0))
    found = batches(0, length=5 * of_a_pass)
    passes = [found[start : start + of_a_pass] for start in range(0, len(found), of_a_pass)]
    for part in passes:
        assert sorted(row for batch in part for row in batch) == sorted(rows)
    assert all(len(batch) * seconds[batch].max() <= 2.0 for batch in found)
    assert len({str(part) for part in passes}) > 1
    assert batches(0) == batches(0) != batches(1)
    # one clip is all that was kept
    assert batches(0, [3]) == [[3]] * 6


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_raft_resumed_from_any_checkpoint_ends_as_one_that_did_not_stop(tmp_path, stop):
    """Two cycles of three steps, which go over what was kept more than once."""
    settings = {"steps_per_cycle": 3, "num_cycles": 2, "keep_top_percent": 0.6, "gradient_accumulation_steps": 2}
    settings |= {"save_strategy": "steps", "save_steps": 1}
    whole = make("raft", tmp_path, **settings)
    seen = seen_by(whole)
    whole.train()
    checkpoint = tmp_path / f"checkpoint-{stop}"
    assert (checkpoint / KEPT_FILE).exists()
    again = make("raft", tmp_path / "again", **settings)
    resumed = seen_by(again)
    again.train(resume_from_checkpoint=str(checkpoint))
    left = 2 * (3 - stop % 3)  # batches of the cycle's own steps
    assert resumed[:left] == (seen[len(seen) // 2 - left : len(seen) // 2] if stop < 3 else seen[-left:])
    assert largest_difference(weights(whole.model), weights(again.model)) == 0


def test_rewards_and_losses_see_groups_that_are_whole(tmp_path):
    """Every clip's hypotheses come together, whatever the number of clips in a batch."""
    called = []

    def reward(completions, row_id=None, **columns):
        called.append(len(completions))
        return [float(len(said)) for said in completions]

    found = make("grpo", tmp_path, trainer_reward_funcs=[reward], num_generations=4, max_batch_seconds=2.8)
    found.train()
    assert called and all(number % 4 == 0 for number in called) and sum(called) == 8 * 4
    assert len(set(called)) > 1 and np.isfinite(logged(found, "loss")).all()
