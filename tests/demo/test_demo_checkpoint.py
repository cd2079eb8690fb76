"""The shipped checkpoint: a strong base on its own voices, a weak one on the others."""

from __future__ import annotations

import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from audiorl.demo import CHECKPOINT, WINDOW_SECONDS, demo_rows
from audiorl.demo.rows import VOCABULARY
from audiorl.demo.train_base import transcribe_rows, word_error_rate

Loaded = tuple[WhisperForConditionalGeneration, WhisperProcessor]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    model = WhisperForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    return model, WhisperProcessor.from_pretrained(CHECKPOINT)


def test_the_folder_is_under_six_megabytes_and_in_half_precision() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.rglob("*") if path.is_file()) < 6_000_000
    stored = WhisperForConditionalGeneration.from_pretrained(CHECKPOINT)
    assert {parameter.dtype for parameter in stored.parameters()} == {torch.float16}


def test_the_model_has_one_to_three_million_parameters_and_the_demos_window(loaded: Loaded) -> None:
    model, processor = loaded
    assert 1_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 3_000_000
    assert model.config.max_source_positions == 50 * WINDOW_SECONDS
    assert processor.feature_extractor.n_samples == WINDOW_SECONDS * 16_000


def test_the_tokenizer_adds_the_english_only_prefix_and_keeps_text_and_end(loaded: Loaded) -> None:
    tokenizer = loaded[1].tokenizer
    ids = tokenizer("send thirteen red boats").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[:2]) == ["<|startoftranscript|>", "<|notimestamps|>"]
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "send thirteen red boats"
    for word in VOCABULARY:
        assert tokenizer.decode(tokenizer(word, add_special_tokens=False).input_ids) == word


def test_the_generation_config_decodes_greedily_and_stops_at_the_end_token(loaded: Loaded) -> None:
    model, processor = loaded
    config = model.generation_config
    assert config.eos_token_id == processor.tokenizer.eos_token_id
    assert not config.do_sample and (config.num_beams or 1) == 1
    hypotheses = transcribe_rows(model, processor, demo_rows("base", 8, seed=3))
    assert all(3 <= len(hypothesis.split()) <= 10 for hypothesis in hypotheses)


def test_base_wer_is_at_most_ten_per_cent_on_its_voices_and_higher_on_the_held_out_ones(
    loaded: Loaded,
) -> None:
    own = word_error_rate(*loaded, demo_rows("base", 80, seed=2))
    held_out = word_error_rate(*loaded, demo_rows("held_out", 80, seed=2))
    assert own <= 0.10
    assert held_out > own + 0.10
