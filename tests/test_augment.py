"""What each transform does to a clip, measured; where the random numbers come from."""

from __future__ import annotations

import random

import numpy as np
import pytest
import soundfile
import torch

from audiorl.audio import AudioFault
from audiorl.augment import load_augmentation

RATE = 16_000


def tone(frequency: float = 440.0, seconds: float = 1.5) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def noisy(seconds: float = 1.5, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def peak_hertz(clip: np.ndarray) -> float:
    """The strongest frequency: the oracle is a Fourier transform."""
    spectrum = np.abs(np.fft.rfft(clip * np.hanning(len(clip))))
    return float(spectrum.argmax() * RATE / len(clip))


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(signal, dtype=float)) / np.mean(np.square(noise, dtype=float))))


def augment(description, clip: np.ndarray, row_id: int = 0, **options) -> np.ndarray:
    heard = load_augmentation(description).clip(clip, RATE, row_id, **options)
    assert heard.dtype == np.float32 and heard.ndim == 1
    return heard


def write(path, samples: np.ndarray, rate: int = RATE) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return str(path)


# ---- noise ----


@pytest.mark.parametrize("snr_db", [-5, 7.5, 30])
def test_gaussian_noise_has_the_stated_ratio(snr_db):
    clip = tone()
    noise = augment({"noise": {"snr_db": snr_db}}, clip) - clip
    assert decibels(clip, noise) == pytest.approx(snr_db, abs=0.01)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.05  # white


def test_the_short_form_adds_noise_of_the_stated_deviation():
    clip = tone()
    noise = augment({"noise": {"type": "gaussian", "std": 0.01}}, clip) - clip
    assert noise.std() == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize("seconds", [0.3, 4.0])
def test_noise_from_files_has_the_stated_ratio_whether_shorter_or_longer_than_the_clip(tmp_path, seconds):
    write(tmp_path / "noises" / "deep" / "a.wav", tone(1000, seconds))
    (tmp_path / "noises" / "notes.txt").write_text("no sound")
    clip = noisy()
    noise = augment({"noise": {"type": "files", "path": str(tmp_path / "noises"), "snr_db": 3}}, clip) - clip
    assert decibels(clip, noise) == pytest.approx(3, abs=0.01)
    assert peak_hertz(noise) == pytest.approx(1000, abs=10)


def test_noise_at_another_rate_is_resampled_and_different_rows_hear_different_files(tmp_path):
    paths = [write(tmp_path / f"{hertz}.flac.wav", tone(hertz)[::2], RATE // 2) for hertz in (500, 1500)]
    clip = noisy()
    description = {"noise": {"type": "files", "path": paths, "snr_db": 0}}
    heard = {round(peak_hertz(augment(description, clip, row) - clip), -2) for row in range(12)}
    assert heard == {500, 1500}


def test_a_pause_in_a_recording_is_not_taken_for_noise(tmp_path):
    """The recording is silent but for its last tenth, so most draws would be silent."""
    recording = np.zeros(10 * RATE, dtype=np.float32)
    recording[-RATE:] = tone(800, 1.0)
    path = write(tmp_path / "mostly_silent.wav", recording)
    clip = noisy()
    for row in range(6):
        noise = augment({"noise": {"type": "files", "path": path, "snr_db": 10}}, clip, row) - clip
        assert decibels(clip, noise) == pytest.approx(10, abs=0.01)


def test_a_recording_that_breaks_on_decoding_is_named_and_no_fault_of_the_row(tmp_path):
    path = write(tmp_path / "silent.wav", np.zeros(RATE, dtype=np.float32))
    with pytest.raises(ValueError, match=r"recording for augmentation.*silent\.wav") as error:
        augment({"noise": {"type": "files", "path": path, "snr_db": 10}}, noisy())
    assert not isinstance(error.value, AudioFault)


# ---- speed, pitch, gain ----


@pytest.mark.parametrize("keep_pitch", [False, True])
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_speed_scales_the_duration_and_the_pitch_unless_kept(factor, keep_pitch):
    clip = tone(440)
    heard = augment({"speed": {"factor": factor, "keep_pitch": keep_pitch}}, clip)
    assert abs(len(heard) - len(clip) / factor) <= 1
    assert peak_hertz(heard) == pytest.approx(440 if keep_pitch else 440 * factor, rel=0.005)


@pytest.mark.parametrize("keep_pitch", [False, True])
@pytest.mark.parametrize("factor", [0.7, 0.9, 1.2])
def test_slowing_cuts_nothing_the_ends_are_where_they_belong(factor, keep_pitch):
    """Two bursts of 60 ms, at the very beginning and the very end, in silence."""
    clip = np.zeros(2 * RATE, dtype=np.float32)
    burst = tone(600, 0.06)
    clip[: len(burst)], clip[-len(burst) :] = burst, burst
    heard = augment({"speed": {"factor": factor, "keep_pitch": keep_pitch}}, clip)
    middle = len(heard) // 2
    for half, place in ((heard[:middle], 0.03), (heard[middle:], 1.97 - middle * factor / RATE)):
        energy = np.square(half, dtype=float)
        centre = (energy * np.arange(len(half))).sum() / energy.sum() / RATE * factor
        assert centre == pytest.approx(place, abs=0.025)
        assert energy.sum() * factor == pytest.approx(np.square(burst, dtype=float).sum(), rel=0.35)


@pytest.mark.parametrize("steps", [-7, -2, 2, 7])
def test_pitch_moves_by_semitones_and_the_duration_stays(steps):
    clip = tone(440)
    heard = augment({"pitch": {"steps": steps}}, clip)
    assert len(heard) == len(clip)
    assert peak_hertz(heard) == pytest.approx(440 * 2 ** (steps / 12), rel=0.01)


@pytest.mark.parametrize("db", [-12, 6])
def test_gain_in_decibels(db):
    assert decibels(augment({"gain": {"db": db}}, noisy()), noisy()) == pytest.approx(db, abs=1e-3)


# ---- reverb ----


def test_a_room_keeps_length_power_and_the_place_of_the_direct_sound_and_decays_as_stated():
    impulse = np.zeros(2 * RATE, dtype=np.float32)
    impulse[1000] = 0.5
    heard = augment({"reverb": {"decay_seconds": 0.5, "direct_db": 0}}, impulse)
    assert len(heard) == len(impulse) and np.abs(heard).argmax() == 1000
    assert np.abs(heard[:1000]).max() < 1e-6
    assert decibels(heard, impulse) == pytest.approx(0, abs=0.01)
    direct, tail = heard[1000] ** 2, np.square(heard[1001:], dtype=float)
    assert 10 * np.log10(direct / tail.sum()) == pytest.approx(0, abs=0.01)
    # 60 dB in half a second: 30 dB from the first to the sixth twentieth of a second
    parts = [tail[int(start * RATE) :][: RATE // 20].mean() for start in (0.0, 0.25)]
    assert 10 * np.log10(parts[0] / parts[1]) == pytest.approx(30, abs=1.5)
    assert np.square(heard[1002 + RATE // 2 :]).sum() < 1e-9


def test_a_recorded_impulse_response_does_not_shift_the_speech(tmp_path):
    response = np.zeros(RATE, dtype=np.float32)
    response[3000], response[4600] = 0.8, 0.4  # the microphone was 3000 samples away, an echo follows
    path = write(tmp_path / "hall.wav", response)
    impulse = np.zeros(RATE, dtype=np.float32)
    impulse[500] = 1.0
    heard = augment({"reverb": {"path": path}}, impulse)
    assert np.abs(heard).argmax() == 500
    assert heard[2100] / heard[500] == pytest.approx(0.5, rel=1e-3)
    assert decibels(heard, impulse) == pytest.approx(0, abs=0.01)


# ---- masks ----


def test_time_masks_cover_all_bins_of_some_frames_with_the_mean():
    augmentation = load_augmentation({"time_mask": {"seconds": 0.3, "max_share": 1}})
    mel = torch.randn(80, 100)
    before, mean = mel.clone(), mel.mean()
    augmentation.mask_spectrogram(mel, 1.0, 3)
    changed = (mel != before).any(0)
    assert int(changed.sum()) == 30
    assert torch.equal(mel[:, changed], mean.expand(80, 30))
    assert changed.int().diff().abs().sum() <= 2  # one stretch


def test_frequency_masks_cover_all_frames_of_some_bins():
    augmentation = load_augmentation({"frequency_mask": {"bins": 12, "count": 2}})
    mel = torch.randn(80, 100)
    before = mel.clone()
    augmentation.mask_spectrogram(mel, 1.0, 3)
    changed = (mel != before).any(1)
    assert 12 <= int(changed.sum()) <= 24
    assert (mel != before)[changed].all()


def test_masks_are_at_most_a_share_of_the_clip():
    augmentation = load_augmentation({"time_mask": {"seconds": [5, 10], "max_share": 0.25}})
    mel = torch.randn(80, 100)
    before = mel.clone()
    augmentation.mask_spectrogram(mel, 1.0, 0)
    assert int((mel != before).any(0).sum()) == 25


def test_waveforms_are_silenced_for_a_time_without_clicks():
    clip = np.ones(RATE, dtype=np.float32)
    heard = augment({"time_mask": {"seconds": 0.1}}, clip, mask=True)
    silent = heard == 0
    assert 0.08 * RATE < silent.sum() < 0.1 * RATE
    assert (heard < 1).sum() == pytest.approx(0.1 * RATE, abs=2)
    assert np.abs(np.diff(heard)).max() < 0.02
    assert np.array_equal(augment({"time_mask": {"seconds": 0.1}}, clip), clip)  # the spectrogram's task


@pytest.mark.parametrize(("bins", "mel_bins", "message"), [(10, None, "hears the waveform"), (80, 80, "at most 79")])
def test_frequency_masks_that_do_not_fit_the_model_are_refused(bins, mel_bins, message):
    with pytest.raises(ValueError, match=message):
        load_augmentation({"frequency_mask": {"bins": [0, bins]}}).require_fit(mel_bins)


# ---- random numbers ----

EVERYTHING = {
    "speed": {"factor": [0.8, 1.2], "p": 0.7},
    "pitch": {"steps": [-2, 2], "p": 0.7},
    "reverb": {"decay_seconds": [0.1, 0.3], "p": 0.7},
    "noise": {"snr_db": [0, 20]},
    "gain": {"db": [-6, 6]},
    "time_mask": {"seconds": [0, 0.3]},
}


def test_global_generators_are_not_touched_and_do_not_matter():
    clip, found = noisy(0.5), []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        augmentation = load_augmentation({**EVERYTHING, "frequency_mask": {"bins": [0, 20]}})
        found.append(augmentation.clip(clip, RATE, 4))
        augmentation.mask_spectrogram(torch.zeros(80, 50), 0.5, 4)
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert np.array_equal(*found)


def test_a_clip_depends_on_seed_epoch_and_row_and_on_nothing_before_it():
    clip, first, second = noisy(0.5), load_augmentation(EVERYTHING), load_augmentation(EVERYTHING)
    first.set_epoch(2)
    alone = first.clip(clip, RATE, 5)
    second.clip(clip, RATE, 4)
    second.set_epoch(2)
    assert np.array_equal(second.clip(clip, RATE, 5), alone)
    second.set_epoch(3)
    others = [
        first.clip(clip, RATE, 6),
        second.clip(clip, RATE, 5),
        load_augmentation(EVERYTHING, seed=1).clip(clip, RATE, 5),
    ]
    assert not any(len(other) == len(alone) and np.allclose(other, alone) for other in others)


def test_the_transforms_before_one_do_not_change_its_numbers():
    clip = noisy(0.5)
    with_gain = augment([{"gain": {"db": 0}}, {"noise": {"std": 0.1}}], clip)
    never = augment([{"gain": {"db": 20, "p": 0}}, {"noise": {"std": 0.1}}], clip)
    assert np.array_equal(with_gain, never)


def test_transforms_act_in_the_order_they_are_written_in():
    loud = {"gain": {"db": 20}}
    quiet_noise = {"noise": {"std": 0.01}}
    clip = np.zeros(RATE, dtype=np.float32)
    assert augment([loud, quiet_noise], clip).std() == pytest.approx(0.01, rel=0.05)
    assert augment([quiet_noise, loud], clip).std() == pytest.approx(0.1, rel=0.05)


def test_probability_is_the_share_of_rows_that_change():
    augmentation = load_augmentation({"gain": {"db": 6, "p": 0.3}})
    clip = noisy(0.01)
    changed = sum(augmentation.clip(clip, RATE, row) is not clip for row in range(2000))
    assert 0.25 < changed / 2000 < 0.35


def test_ranges_are_drawn_over_their_whole_width():
    augmentation = load_augmentation({"gain": {"db": [-6, 6]}})
    clip = noisy(0.01)
    drawn = [decibels(augmentation.clip(clip, RATE, row), clip) for row in range(300)]
    assert -6.01 < min(drawn) < -5.7 and 5.7 < max(drawn) < 6.01
    assert abs(np.mean(drawn)) < 0.7


def test_the_clip_that_comes_in_is_not_written_to():
    clip = noisy(0.5)
    clip.flags.writeable = False
    augment(EVERYTHING, clip, mask=True)


# ---- the window ----


def test_a_clip_that_outgrows_the_window_is_a_fault_or_stays_as_it_is():
    clip = noisy(0.95)
    with pytest.raises(AudioFault, match=r"augmented clip is 1\.06 s long, the model hears 1 s") as fault:
        augment({"speed": {"factor": 0.9}}, clip, max_seconds=1.0)
    assert "unaugmented" in fault.value.remedy
    kept = augment({"speed": {"factor": 0.9}, "gain": {"db": 6}, "too_long": "unaugmented"}, clip, max_seconds=1.0)
    assert np.array_equal(kept, clip)


@pytest.mark.parametrize("keep_pitch", [False, True])
def test_a_clip_that_fills_the_window_exactly_when_slowed_fits(keep_pitch):
    clip = noisy(0.9)
    heard = augment({"speed": {"factor": 0.9, "keep_pitch": keep_pitch}}, clip, max_seconds=1.0)
    assert len(heard) == RATE


def test_growth_is_what_the_slowest_speed_makes_of_a_clip():
    assert load_augmentation({"speed": {"factor": [0.8, 1.2]}}).growth == pytest.approx(1.25)
    assert load_augmentation({"speed": {"factor": [1.1, 1.2]}}).growth == 1.0
    assert load_augmentation({"speed": {"factor": 0.5, "p": 0}, "gain": {"db": 1}}).growth is None
    assert load_augmentation({"speed": {"factor": 0.5}, "too_long": "unaugmented"}).growth == 1.0
