"""Fun-ASR-Nano beyond what every audio language model is tested for: its frames, its window, how it is asked.

Filter banks are the stand-in of `tests/kaldi_stand_in.py` where torchaudio is missing.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.utils import is_torchaudio_available

from audiorl import DPOConfig, DPOTrainer
from audiorl.datasets import BadRowsError
from audiorl.models import speech_family
from audiorl.models.audio_llms import FunASRFamily
from audiorl.testing.case import group_batch
from tests.kaldi_stand_in import EXTRACTOR, extraction, fbank, lazy_modules
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_models import tiny_clips

RATE = 16_000


@pytest.fixture
def fun_asr():
    """(model, its family)."""
    model, processor = tiny_audio_llm("fun_asr")
    return model, speech_family(model, processor)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).standard_normal(samples).astype(np.float32) * 0.1


def test_the_family_takes_the_model_without_a_warning(caplog):
    model, processor = tiny_audio_llm("fun_asr")
    model.config.adaptor_config._attn_implementation = "eager"
    speech_family(model, processor)
    assert model.config.adaptor_config._attn_implementation == "sdpa" and not caplog.records


@pytest.mark.parametrize("samples", [400, 401, 1359, 1360, 16_000, 14_321])
def test_an_audio_token_stands_for_six_frames_of_ten_milliseconds(samples, fun_asr):
    _, family = fun_asr
    frames = 1 + (samples - 400) // 160  # whole windows of 25 ms
    heard = family.features([noise(samples)])
    assert heard["audio_tokens"].tolist() == [math.ceil(frames / 6)]
    assert heard["input_features"].shape == (1, 7 * 16, math.ceil(frames / 6))


def test_stacked_frames_by_hand(fun_asr):
    """Token t holds the frames 6t - 3 .. 6t + 3; the first and the last frame stand for those outside."""
    _, family = fun_asr
    clip = noise(400 + 160 * 13)
    settings = {"frame_length": 25, "frame_shift": 10, "sample_frequency": RATE, "window_type": "hamming"}
    frames = extraction().torchaudio.compliance.kaldi.fbank(torch.tensor(clip)[None], num_mel_bins=16, **settings)
    stacked = family.features([clip])["input_features"][0].mT
    assert len(frames) == 14 and len(stacked) == 3
    for t, found in enumerate(stacked):
        expected = torch.cat([frames[min(max(6 * t + i, 0), 13)] for i in range(-3, 4)])
        torch.testing.assert_close(found, expected)


def test_the_stand_in_is_the_logarithm_of_energies_under_kaldis_filters():
    """A tone lies in the filter around its frequency, and ten times the amplitude adds log 100 to every energy."""
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(4000) / RATE)[None]
    settings = {"frame_length": 25, "frame_shift": 10, "sample_frequency": RATE, "window_type": "hamming"}
    quiet, loud = (fbank(scale * tone, num_mel_bins=16, **settings) for scale in (0.1, 1.0))
    torch.testing.assert_close(loud - quiet, torch.full_like(quiet, math.log(100)), atol=1e-2, rtol=0)
    mels = [1127 * math.log(1 + hertz / 700) for hertz in (20, 1000, 8000)]
    centre = (mels[1] - mels[0]) / (mels[2] - mels[0]) * 17 - 1
    assert abs(loud[5].argmax().item() - centre) <= 0.5


def test_a_clip_alone_is_what_it_is_in_a_batch(fun_asr):
    model, family = fun_asr
    clips = [noise(5_000), noise(30_000), noise(900)]
    states = family.encode(model, group_batch(family, clips, [["a"]] * 3))
    for b, clip in enumerate(clips):
        alone = family.encode(model, group_batch(family, [clip], [["a"]]))[0]
        torch.testing.assert_close(states[b, : len(alone)], alone, rtol=1e-4, atol=1e-5)
        assert not states[b, len(alone) :].any()
    assert (states[0, :5] - states[1, :5]).abs().max() > 0.1  # they do differ


def test_the_longest_and_the_shortest_clip_fit_and_others_are_bad_rows(fun_asr, tmp_path):
    model, family = fun_asr
    longest, shortest = round(family.max_seconds * RATE), round(family.min_seconds * RATE)
    assert (longest, shortest) == (400 + 160 * (64 * 6 - 1), 400)  # 65 positions, the first of which is not used
    states = family.encode(model, group_batch(family, [noise(longest), noise(shortest)], [["a"], ["a"]]))
    assert states.shape[1] == 64 and torch.isfinite(states).all()
    with pytest.raises(RuntimeError):
        family.encode(model, group_batch(family, [noise(longest + 160)], [["a"]]))
    lengths = (longest, longest + 160, shortest, shortest - 1)
    given = [
        {"audio": {"array": noise(samples), "sampling_rate": RATE}, "chosen": "a", "rejected": "so"}
        for samples in lengths
    ]
    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(BadRowsError) as told:
        DPOTrainer(model, args=args, train_dataset=given, processing_class=family.processor)
    assert {fault.row_id for fault in told.value.faults} == {1, 3}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"language": "en"},
        {"language": "Chinese", "prompt": "A talk on foxes."},
        {"language": "日文", "hotwords": ["Fox", "Dachs"]},
        {"prompt": "A talk on foxes.", "hotwords": ["Fox"]},
    ],
)
def test_the_prompt_is_the_one_that_the_processor_asks_with(asked, fun_asr):
    """`keywords` is the processor's own option for hot words."""
    _, family = fun_asr
    (clip,) = tiny_clips(1)
    options = {"keywords" if name == "hotwords" else name: value for name, value in asked.items()}
    expected = family.processor.apply_transcription_request(audio=clip, **options)["input_ids"]
    prompt = family.prompt_text(asked.get("language"), family.row_prompt(asked))
    assert family.processor(text=[prompt], audio=[clip])["input_ids"].tolist() == expected.tolist()


def test_a_language_is_named_as_in_training_and_may_be_left_out(fun_asr):
    _, family = fun_asr
    assert "语音转写成英文：" in family.prompt_text("English", None)  # noqa: RUF001
    assert "语音转写：" in family.prompt_text(None, None)  # noqa: RUF001
    with pytest.raises(ValueError, match=r"unknown language 'german'.*Use one of .*'ja'.*leave it out"):
        family.tokenize("a fox", language="german")
    family.set_defaults(language="ja")
    assert family.tokenize("a fox") == family.tokenize("a fox", language="日文")


def test_the_processor_loads_with_its_filter_banks_and_says_what_is_missing_without(fun_asr, tmp_path, monkeypatch):
    _, family = fun_asr
    family.processor.save_pretrained(tmp_path)
    again = FunASRFamily.load_processor(str(tmp_path))
    (clip,) = tiny_clips(1)
    heard = [made(text=["<|audio_pad|>"], audio=[clip])["input_features"] for made in (family.processor, again)]
    assert torch.equal(*heard)
    if is_torchaudio_available():
        return
    for place in lazy_modules():
        monkeypatch.delattr(place, EXTRACTOR)  # as transformers is without the stand-in
    with pytest.raises(ImportError, match=r"torchaudio cannot be used here.*does not load.*Install the torchaudio"):
        FunASRFamily.load_processor(str(tmp_path))
