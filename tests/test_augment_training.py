"""Augmentation in collator, loader and trainer: which rows, which epoch, what the model hears."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from audiorl.augment import load_augmentation
from audiorl.batch import GroupBatch
from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, speech_rows
from audiorl.models import speech_family
from tests.families.toys import ToyCTC, build_toy
from tests.tiny_models import SAMPLING_RATE, tiny_whisper
from tests.trainers.pair_rows import pair_rows, trainer

NOISE = {"noise": {"std": [0.01, 0.1]}, "speed": {"factor": [0.9, 1.1]}, "time_mask": {"seconds": [0.05, 0.2]}}


@pytest.fixture
def family():
    return speech_family(*tiny_whisper())


def heard_by_row(batches) -> dict[int, torch.Tensor]:
    return {row: mel for batch in batches for row, mel in zip(batch.row_ids.tolist(), batch.audio, strict=True)}


def same(a: dict[int, torch.Tensor], b: dict[int, torch.Tensor]) -> list[bool]:
    assert a.keys() == b.keys()
    return [torch.equal(a[row], b[row]) for row in a]


# ---- collator ----


def test_chosen_and_rejected_hear_the_one_augmented_clip(family):
    rows = list(speech_rows(pair_rows(3)))
    plain, noisy = SpeechCollator(family)(rows), SpeechCollator(family, augmentation=load_augmentation(NOISE))(rows)
    assert noisy.tokens.shape[:2] == (3, 2) and noisy.audio.shape == plain.audio.shape
    assert not any(same(heard_by_row([plain]), heard_by_row([noisy])))
    assert torch.equal(plain.tokens, noisy.tokens) and torch.equal(plain.keep, noisy.keep)


def test_masks_reach_the_clips_own_frames_and_never_the_padding(family):
    rows = list(speech_rows(pair_rows(5)))
    masks = load_augmentation(
        {"time_mask": {"seconds": 0.3, "count": 3, "max_share": 1}, "frequency_mask": {"bins": 20}}
    )
    plain, masked = SpeechCollator(family)(rows), SpeechCollator(family, augmentation=masks)(rows)
    for i, row in enumerate(rows):
        frames = len(pair_rows(5)[i]["audio"]["array"]) // 160
        assert torch.equal(plain.audio[i, :, frames:], masked.audio[i, :, frames:]), row["where"]
        assert not torch.equal(plain.audio[i], masked.audio[i])
    assert any(frames < plain.audio.shape[-1] for frames in [len(r["audio"]["array"]) // 160 for r in pair_rows(5)])


def test_a_model_that_hears_the_waveform_has_its_waveform_masked():
    toy = speech_family(*build_toy(ToyCTC))
    clip = np.ones(1000, dtype=np.float32)
    rows = [{"audio": {"array": clip, "sampling_rate": 1000}, "chosen": "ab", "rejected": "b"}]
    augmentation = load_augmentation({"time_mask": {"seconds": 0.2, "max_share": 1}})
    batch = SpeechCollator(toy, augmentation=augmentation)(list(speech_rows(rows)))
    assert int((batch.audio == 0).sum()) == pytest.approx(195, abs=5)
    with pytest.raises(ValueError, match=r"frequency_mask.*hears the waveform"):
        SpeechCollator(toy, augmentation=load_augmentation({"frequency_mask": {"bins": 2}}))


# a machine with one core is told that two workers are many
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="fork"),
        pytest.param({"multiprocessing_context": "spawn"}, id="spawn", marks=pytest.mark.slow),  # imports torch twice
    ],
)
def test_persistent_workers_hear_of_the_epoch_and_equal_no_workers(family, options):
    rows = speech_rows(pair_rows(4))
    augmentation = load_augmentation(NOISE, seed=3)
    loader = DataLoader(
        rows,
        batch_size=1,
        collate_fn=SpeechCollator(family, augmentation=augmentation),
        num_workers=2,
        persistent_workers=True,
        **options,
    )
    epochs = []
    for epoch in (0, 1, 0):
        augmentation.set_epoch(epoch)
        epochs.append(heard_by_row(loader))
    assert not any(same(epochs[0], epochs[1])) and all(same(epochs[0], epochs[2]))
    alone = load_augmentation(NOISE, seed=3)
    alone.set_epoch(1)
    one_batch = SpeechCollator(family, augmentation=alone)([rows[i] for i in (3, 1, 0, 2)])
    assert all(same(epochs[1], heard_by_row([one_batch])))


# ---- trainer ----


def recording_trainer(folder, **changes):
    """A DPO trainer and what its model heard: (row, spectrogram) in the order of training, and of evaluation."""
    dpo = trainer(folder, **changes)
    heard: dict[bool, list[tuple[int, torch.Tensor]]] = {True: [], False: []}
    compute = dpo.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        batch = GroupBatch(inputs)
        heard[model.training] += zip(batch.row_ids.tolist(), batch.audio.clone(), strict=True)
        return compute(model, inputs, *args, **kwargs)

    dpo.compute_loss = compute_loss
    return dpo, heard


def test_training_rows_are_augmented_anew_in_each_epoch_and_evaluation_rows_never(tmp_path):
    dpo, heard = recording_trainer(
        tmp_path, augmentation=NOISE, num_train_epochs=2, eval_strategy="epoch", trainer_eval_dataset=pair_rows(4)
    )
    dpo.train()
    plain = heard_by_row([SpeechCollator(dpo.family)(list(dpo.train_dataset))])
    first, second = (dict(heard[True][start : start + 8]) for start in (0, 8))
    assert not any(same(first, second)) and not any(same(first, plain)) and not any(same(second, plain))
    assert len(heard[False]) == 8
    assert all(torch.equal(mel, plain[row]) for row, mel in heard[False])
    assert all(
        torch.equal(mel, plain[row]) for row, mel in heard_by_row([dpo.data_collator(list(dpo.eval_dataset))]).items()
    )


@pytest.mark.parametrize(
    ("stop", "workers"),
    [pytest.param(3, 1, marks=pytest.mark.slow), pytest.param(6, 0, marks=pytest.mark.slow), (6, 1)],
)
def test_resuming_in_the_middle_of_an_epoch_hears_what_an_uninterrupted_run_hears(tmp_path, stop, workers):
    settings = {"augmentation": NOISE, "num_train_epochs": 2, "seed": 5}
    settings |= {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}
    whole, heard = recording_trainer(tmp_path / "whole", **settings)
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": stop}
    recording_trainer(tmp_path / "run", **settings, **saving)[0].train()
    resumed, after = recording_trainer(tmp_path / "run", **settings, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{stop}"))
    assert len(heard[True]) == 16 and len(after[True]) == 16 - 2 * stop
    for (row, mel), (row_again, mel_again) in zip(heard[True][2 * stop :], after[True], strict=True):
        assert row == row_again and torch.equal(mel, mel_again)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


@pytest.mark.slow
def test_the_seed_is_the_datas_where_that_is_set(tmp_path):
    def first_clip(**seeds):
        dpo, heard = recording_trainer(tmp_path, augmentation=NOISE, max_steps=4, **seeds)
        dpo.train()
        return dict(heard[True])

    seven, same_data, other = first_clip(seed=7), first_clip(seed=8, data_seed=7), first_clip(seed=8)
    assert all(same(seven, same_data)) and not any(same(seven, other))


def test_clips_that_may_outgrow_the_window_are_found_before_training(tmp_path):
    """Clips of 0.54 to 0.9 s in a window of 1 s: 0.9 times the speed fits exactly, 0.8 times is too slow for four."""
    trainer(tmp_path, augmentation={"speed": {"factor": 0.9}}).train()
    with pytest.raises(BadRowsError, match=r"4 faults in 4 rows.*\n.*row 0: the clip is 0\.90 s long, up to 1\.13 s"):
        trainer(tmp_path, augmentation={"speed": {"factor": [0.8, 1.2]}})
    skipping = trainer(tmp_path / "skip", augmentation={"speed": {"factor": [0.8, 1.2]}}, on_bad_rows="skip")
    assert len(skipping.train_dataset) == 4 and skipping.skipped.count() == 4
    kept = trainer(
        tmp_path, augmentation={"speed": {"factor": [0.8, 1.2]}, "too_long": "unaugmented"}, num_train_epochs=3
    )
    assert kept.train().global_step == 12
    # evaluation clips are never slowed, so they need no room
    trainer(
        tmp_path / "eval",
        pair_rows(8)[1:5],
        augmentation={"speed": {"factor": 0.85}},
        trainer_eval_dataset=pair_rows(1),
    )


def test_rows_of_a_stream_are_judged_with_room_for_slowing(family):
    rows = list(speech_rows([{**pair_rows(1)[0], "audio": {"array": np.ones(15200), "sampling_rate": SAMPLING_RATE}}]))
    SpeechCollator(family)(rows)
    with pytest.raises(BadRowsError, match=r"0\.95 s long, up to 1\.06 s slowed; the model hears 1 s. Cut the clip"):
        SpeechCollator(family, augmentation=load_augmentation({"speed": {"factor": 0.9}}))(rows)


def test_speed_makes_timestamps_wrong_and_noise_does_not():
    timed = speech_family(*tiny_whisper("multilingual"))
    rows = pair_rows(1)
    rows[0] |= {"chosen": "<|0.00|>all year<|0.80|>", "rejected": "year", "language": "en"}
    rows = list(speech_rows(rows))
    SpeechCollator(timed, augmentation=load_augmentation({"noise": {"std": 0.1}}))(rows)
    with pytest.raises(BadRowsError, match=r"chosen has timestamps, which other speeds make wrong. Leave speed out"):
        SpeechCollator(timed, augmentation=load_augmentation({"speed": {"factor": 1.1}}))(rows)


def test_what_does_not_go_with_augmentation_is_refused_when_the_trainer_is_built(tmp_path):
    with pytest.raises(ValueError, match=r"precompute_ref_log_probs.*augmentation.*Turn one of them off"):
        trainer(tmp_path, augmentation=NOISE, precompute_ref_log_probs=True)
    with pytest.raises(ValueError, match=r"augmentation, of clips, histories and hot words, acts in SpeechCollator"):
        trainer(tmp_path, augmentation=NOISE, trainer_data_collator=lambda rows: rows)
    with pytest.raises(ValueError, match=r"frequency_mask.bins reaches 80.*at most 79"):
        trainer(tmp_path, augmentation={"frequency_mask": {"bins": 80}})


def test_a_collator_of_the_users_own_is_augmented_and_stays_as_it_is(tmp_path, family):
    mine = SpeechCollator(family, distinct=True)
    dpo, heard = recording_trainer(tmp_path, augmentation=NOISE, trainer_data_collator=mine)
    dpo.train()
    plain = heard_by_row([mine(list(dpo.train_dataset))])
    assert mine.augmentation is None and dpo.data_collator is mine
    assert not any(same(dict(heard[True]), plain))
