"""A Whisper that hears less: cropped, saved, loaded by plain transformers, and tuned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from audiorl import DPOConfig, DPOTrainer, shorten_window
from audiorl.datasets import BadRowsError
from audiorl.models import speech_family
from tests.tiny_models import tiny_clips, tiny_whisper


def rows(count: int, seconds: float = 0.9) -> list[dict]:
    return [
        {"audio": {"array": clip, "sampling_rate": 16_000}, "chosen": "the lazy dog", "rejected": f"dog {i}"}
        for i, clip in enumerate(tiny_clips(count, seconds))
    ]


def test_the_encoder_hears_the_first_positions_and_pays_for_no_more():
    model, processor = tiny_whisper("multilingual")  # 2 s
    before = model.model.encoder.embed_positions.weight.clone()
    shorten_window(model, processor, 1)
    family = speech_family(model, processor)
    assert family.max_seconds == 1.0
    features = family.features([np.zeros(8000, dtype=np.float32)])["input_features"]
    assert features.shape == (1, 80, 100)
    positions = model.model.encoder.embed_positions
    assert torch.equal(positions.weight, before[:50]) and not positions.weight.requires_grad
    assert model.model.encoder(features).last_hidden_state.shape == (1, 50, 32)


def test_the_same_window_changes_nothing():
    (model, processor), (changed, its_processor) = tiny_whisper(), tiny_whisper()
    shorten_window(changed, its_processor, 1)
    features = speech_family(model, processor).features(tiny_clips(2))
    assert torch.equal(
        speech_family(changed, its_processor).features(tiny_clips(2))["input_features"], features["input_features"]
    )
    ids = torch.tensor([[1, 2, 3]] * 2)
    with torch.no_grad():
        assert torch.equal(
            model(**features, decoder_input_ids=ids).logits, changed(**features, decoder_input_ids=ids).logits
        )


def test_a_shortened_checkpoint_is_tuned_saved_and_loaded_by_plain_transformers(tmp_path):
    model, processor = tiny_whisper("multilingual")
    shorten_window(model, processor, 1)
    args = DPOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        learning_rate=1e-2,
        language="english",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(model, args=args, train_dataset=rows(2), processing_class=processor)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "out", dtype=torch.float32)
    again = AutoProcessor.from_pretrained(tmp_path / "out")
    assert (loaded.config.max_source_positions, again.feature_extractor.chunk_length) == (50, 1)
    inputs = again(tiny_clips(2)[0], sampling_rate=16_000, return_tensors="pt")
    asked = {"language": "en", "max_new_tokens": 8, "do_sample": False}
    found = loaded.generate(inputs.input_features, **asked)
    assert torch.equal(found, trainer.model.generate(inputs.input_features, **asked))


def test_clips_beyond_the_window_are_bad_rows(tmp_path):
    model, processor = tiny_whisper("multilingual")
    shorten_window(model, processor, 1)
    args = DPOConfig(output_dir=str(tmp_path), language="english", use_cpu=True, report_to="none")
    with pytest.raises(BadRowsError, match="hears 1 s"):
        DPOTrainer(model, args=args, train_dataset=rows(1, seconds=1.5), processing_class=processor)


def test_an_adapter_needs_a_base_that_a_checkpoint_holds(tmp_path):
    """What is saved of it is loaded on the base of that name, whose window is the whole one."""
    model, processor = tiny_whisper("multilingual")
    shorten_window(model, processor, 1)
    args = DPOConfig(
        output_dir=str(tmp_path / "out"), language="english", use_cpu=True, report_to="none", disable_tqdm=True
    )
    shared = {"args": args, "train_dataset": rows(2), "peft_config": LoraConfig(r=2)}
    with pytest.raises(ValueError, match=r"this base hears 1 s, shortened from 2 s.*Save the base as it is now"):
        DPOTrainer(model, processing_class=processor, **shared)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    trainer = DPOTrainer(str(tmp_path / "base"), **shared)
    trainer.train()
    trainer.save_model()
    merged = trainer.save_merged()
    assert AutoModelForSpeechSeq2Seq.from_pretrained(merged).config.max_source_positions == 50
    assert AutoProcessor.from_pretrained(merged).feature_extractor.chunk_length == 1


@pytest.mark.parametrize("seconds", [0, 3, -1, 1.5, True])
def test_windows_that_are_not_possible_are_refused(seconds):
    model, processor = tiny_whisper("multilingual")
    with pytest.raises(ValueError, match="Choose whole seconds from 1 to 2"):
        shorten_window(model, processor, seconds)
    assert model.config.max_source_positions == 100


def test_a_model_without_a_window_and_a_processor_of_another_are_refused():
    model, _ = tiny_whisper("multilingual")
    _, other = tiny_whisper("english")
    with pytest.raises(ValueError, match="the model's own checkpoint"):
        shorten_window(model, other, 1)
    model.config.model_type = "moonshine"
    with pytest.raises(ValueError, match="no fixed window"):
        shorten_window(model, other, 1)
