"""Granite Speech: padding, batch norm, its own adapter, its multipliers, its features, what it refuses."""

from __future__ import annotations

import importlib

import numpy as np
import peft
import pytest
import torch
import transformers
from packaging.version import Version
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from audiorl import DPOConfig, DPOTrainer
from audiorl.datasets import BadRowsError
from audiorl.models import disable_dropout, granite_speech, granite_speech5, speech_family
from audiorl.models.granite_speech import GraniteSpeechFamily, MelSpectrogram, merge_speech_adapter
from audiorl.models.granite_speech5 import GraniteSpeech5Family
from audiorl.testing.case import group_batch
from tests import oracles_features
from tests.tiny_audio_llms import GRANITE_AUDIO, stock_answer_logps, stock_inputs, tiny_audio_llm
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import tiny_clips

TEXTS = [["the quick brown fox", "dog"], ["a fox", ""], ["so", "dogs"]]


@pytest.mark.parametrize("kind", ["granite_speech", "granite_speech_plus"])
def test_clips_of_unequal_lengths_in_a_batch_have_the_stock_scores_of_each_alone(kind):
    """Multipliers of the language model, features of intermediate layers and batch norm in training mode included."""
    model, processor = tiny_audio_llm(kind)
    family = speech_family(model, processor)
    assert type(family) is GraniteSpeechFamily and model.config.text_config.logits_scaling != 1
    clips = [tiny_clips(1, seconds=seconds)[0] for seconds in (0.9, 0.31, 0.9)]
    batch = group_batch(family, clips, TEXTS)
    assert batch["audio_tokens"].tolist() == [16, 6, 16]
    found = family.score_groups(model, batch)
    for b, group in enumerate(TEXTS):
        for k, text in enumerate(group):
            expected = stock_answer_logps(model, processor, stock_inputs(kind, family, clips[b], {}), text)
            torch.testing.assert_close(found.logps[b, k][found.keep[b, k]], expected, rtol=1e-4, atol=1e-4)


def test_with_sharded_weights_each_clip_is_a_call_so_that_no_process_waits_for_another_s_lengths(monkeypatch):
    model, processor = tiny_audio_llm("granite_speech")
    family = speech_family(model, processor)
    batch = group_batch(family, [*tiny_clips(2), tiny_clips(1)[0]], TEXTS)
    calls = []
    model.model.encoder.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    expected = family.encode(model, batch)
    monkeypatch.setattr("audiorl.models.granite_speech.is_sharded", lambda base: True)
    torch.testing.assert_close(family.encode(model, batch), expected, rtol=1e-5, atol=1e-5)
    assert sorted(calls[:2]) == [1, 2] and calls[2:] == [1, 1, 1]


def test_training_mode_neither_uses_nor_moves_the_statistics_of_a_batch():
    model, processor = tiny_audio_llm("granite_speech")
    family = speech_family(model, processor)
    batch = group_batch(family, tiny_clips(3), TEXTS)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    expected = family.encode(model, batch)
    disable_dropout(model)
    model.train()
    torch.testing.assert_close(family.encode(model, batch), expected, rtol=1e-6, atol=1e-6)
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.fixture(scope="module")
def with_own_adapter(tmp_path_factory):
    """A checkpoint that brings an adapter for speech: its files beside those of the bare model."""
    wanted = getattr(transformers.integrations.peft, "MIN_PEFT_VERSION", "0")
    if Version(wanted) > Version(peft.__version__):
        pytest.skip(f"transformers {transformers.__version__} loads such adapters with PEFT {wanted} or newer only")
    folder = str(tmp_path_factory.mktemp("own-adapter"))
    model, processor = tiny_audio_llm("granite_speech")
    model.config.has_lora_adapter = True
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = folder
    transformers.PreTrainedModel.save_pretrained(model, folder)
    return folder


def test_an_adapter_of_the_checkpoint_s_own_is_refused_and_merged_says_the_same(with_own_adapter, tmp_path):
    stock = transformers.GraniteSpeechForConditionalGeneration.from_pretrained(with_own_adapter).eval()
    assert any(isinstance(module, BaseTunerLayer) for module in stock.modules())
    processor = GraniteSpeechFamily.load_processor(with_own_adapter)
    with pytest.raises(ValueError, match=r"its own adapter for speech.*merge_speech_adapter"):
        speech_family(stock, processor)
    clip, prompt = tiny_clips(1)[0], f"{GRANITE_AUDIO}what?"
    made = processor(text=[prompt], audio=[clip], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        adapted = stock(**made).logits
        stock.disable_adapters()
        assert (stock(**made).logits - adapted).abs().max() > 1e-2
        stock.enable_adapters()
        merged = merge_speech_adapter(stock)
        torch.testing.assert_close(merged(**made).logits, adapted, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path)
    loaded = transformers.GraniteSpeechForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    with torch.no_grad():
        torch.testing.assert_close(loaded(**made).logits, adapted, rtol=1e-4, atol=1e-4)
    family = speech_family(loaded, processor)
    scores = family.score_groups(loaded, group_batch(family, [clip], [["a fox"]]))
    heard = stock_inputs("granite_speech", family, clip, {})
    expected = stock_answer_logps(loaded, processor, heard, "a fox")
    torch.testing.assert_close(scores.logps[scores.keep], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="no adapter to merge"):
        merge_speech_adapter(loaded)


def test_a_folder_with_an_adapter_of_its_own_is_refused_by_name(with_own_adapter, tmp_path):
    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    rows = [{"audio": {"array": tiny_clips(1)[0], "sampling_rate": 16_000}, "chosen": "dog", "rejected": "so"}]
    with pytest.raises(ValueError, match="its own adapter for speech"):
        DPOTrainer(with_own_adapter, args=args, train_dataset=rows)


def test_a_checkpoint_that_lacks_the_adapter_it_speaks_of_is_refused():
    model, processor = tiny_audio_llm("granite_speech")
    model.config.has_lora_adapter = True
    with pytest.raises(ValueError, match=r"none is loaded.*set has_lora_adapter to false"):
        speech_family(model, processor)


def test_a_language_model_with_recurrent_layers_is_refused():
    model, processor = tiny_audio_llm("granite_speech")
    model.config.text_config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match=r"layers of kind \['linear_attention'\]"):
        speech_family(model, processor)


def test_a_processor_of_another_checkpoint_is_refused():
    model, processor = tiny_audio_llm("granite_speech")
    processor.audio_processor.projector_window_size = 15
    with pytest.raises(ValueError, match=r"\(160, 15, 3\), the model takes \(160, 6, 3\)"):
        speech_family(model, processor)


def test_clips_too_short_for_a_frame_or_too_long_for_the_language_model_are_told(tmp_path):
    model, processor = tiny_audio_llm("granite_speech")
    family = speech_family(model, processor)
    shortest, longest = (round(s * 16_000) for s in (family.min_seconds, family.max_seconds))
    made = family.features([np.zeros(n, dtype=np.float32) for n in (shortest, longest)])
    assert made["audio_tokens"].tolist()[0] == 2 and 0 <= family.max_tokens - made["audio_tokens"][1] < 2
    # torch mirrors no more samples than there are
    with pytest.raises(RuntimeError):
        family.features([np.zeros(shortest - 1, dtype=np.float32)])
    rows = [
        {"audio": {"array": np.zeros(n, dtype=np.float32), "sampling_rate": 16_000}, "chosen": "dog", "rejected": "so"}
        for n in (shortest - 1, shortest, longest + 16_000)
    ]
    with pytest.raises(BadRowsError) as told:
        DPOTrainer(
            model,
            args=DPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none"),
            train_dataset=rows,
            processing_class=processor,
        )
    assert {fault.row_id for fault in told.value.faults} == {0, 2}


def test_the_row_s_prompt_takes_the_place_of_the_request_to_transcribe():
    model, processor = tiny_audio_llm("granite_speech")
    family = speech_family(model, processor)
    assert f"user\n{GRANITE_AUDIO}can you transcribe the speech into a written format?" in family.prompt_text(
        "en", None
    )
    asked = family.prompt_text(None, "Keywords: Bach")
    assert f"user\n{GRANITE_AUDIO}Keywords: Bach<" in asked and "transcribe" not in asked
    processor.tokenizer.chat_template = "{{ messages[0]['content'][2:] }}"
    with pytest.raises(ValueError, match=r"leaves <\|audio\|> out"):
        family.prompt_text(None, None)


def test_the_mel_spectrogram_is_that_of_its_definition():
    clip = tiny_clips(1, seconds=0.05)[0]
    found = MelSpectrogram(16_000, 64, 50, 80, 6)(torch.from_numpy(clip)[None])[0]
    expected = oracles_features.htk_mel_spectrogram(clip, 16_000, bands=6, frame=64, window=50, hop=80)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_where_torchaudio_is_installed_it_is_what_makes_the_features(monkeypatch):
    monkeypatch.setattr(granite_speech, "is_torchaudio_available", lambda: True)
    monkeypatch.setattr(granite_speech.stock, "torchaudio", "theirs", raising=False)
    granite_speech.do_without_torchaudio()
    assert granite_speech.stock.torchaudio == "theirs"


def test_a_worker_s_fresh_process_needs_no_torchaudio_either(monkeypatch):
    model, processor = tiny_audio_llm("granite_speech")
    family = speech_family(model, processor)
    expected = family.features(tiny_clips(1))["input_features"]
    monkeypatch.setattr(granite_speech.stock, "requires_backends", transformers.utils.requires_backends)
    monkeypatch.delattr(granite_speech.stock, "torchaudio")
    assert torch.equal(family.features(tiny_clips(1))["input_features"], expected)


# ---- Granite Speech 5.0 ----


@pytest.mark.parametrize("window", [3, 5, 9])
def test_deltas_are_slopes_of_straight_lines(window):
    features = np.random.default_rng(window).standard_normal((3, 7))
    found = granite_speech5.deltas(torch.from_numpy(features), window)
    np.testing.assert_allclose(found.numpy(), oracles_features.regression_deltas(features, window), atol=1e-12)


def test_features_of_granite_5_are_those_of_a_clip_alone_whatever_lies_beside_it():
    """In a batch of the stock extractor the last frames of a short clip see its padding."""
    model, processor = tiny_ctc("granite_speech5")
    family = speech_family(model, processor)
    long, short = tiny_clips(2)[0], tiny_clips(2)[1][:8100]  # 50 mel frames and a rest
    alone = processor.feature_extractor([short], sampling_rate=16_000, return_tensors="pt").input_features[0]
    made = family.features([long, short])
    count = int(made["audio_mask"][1].sum())
    assert count == len(alone) == 25 and torch.equal(made["input_features"][1, :, :count].T, alone)
    both = processor.feature_extractor([long, short], sampling_rate=16_000, return_tensors="pt").input_features[1]
    assert (both[:count] - alone).abs().max() > 1e-3


def test_a_fresh_process_finds_granite_5_s_extractor_without_torchaudio(monkeypatch, tmp_path):
    model, processor = tiny_ctc("granite_speech5")
    expected = speech_family(model, processor).features(tiny_clips(1))["input_features"]
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    stock = importlib.import_module("transformers.models.granite_speech5.feature_extraction_granite_speech5")
    monkeypatch.delattr(stock, "torchaudio")
    for place in (transformers, importlib.import_module("transformers.models.granite_speech5")):
        monkeypatch.setattr(place, "GraniteSpeech5FeatureExtractor", None)
    loaded = GraniteSpeech5Family.load_processor(str(tmp_path))
    assert torch.equal(speech_family(model, loaded).features(tiny_clips(1))["input_features"], expected)
    monkeypatch.setattr(granite_speech5, "is_torchaudio_available", lambda: True)
    monkeypatch.setattr(stock, "torchaudio", "theirs")
    granite_speech5.do_without_torchaudio()
    assert stock.torchaudio == "theirs"


def test_a_processor_of_another_granite_5_is_refused():
    model, processor = tiny_ctc("granite_speech5")
    processor.feature_extractor.num_mel_bins = 80
    with pytest.raises(ValueError, match="80 mel bins, the model hears 16"):
        speech_family(model, processor)


def test_the_head_of_granite_5_is_part_of_its_encoder(tmp_path):
    """So a frozen encoder leaves nothing to train, and no adapter goes into weights that have two readers."""
    model, processor = tiny_ctc("granite_speech5")
    rows = [
        {"audio": {"array": clip, "sampling_rate": 16_000}, "chosen": "a dog", "rejected": "a"}
        for clip in tiny_clips(2, 1.6)
    ]
    options = {"train_dataset": rows, "processing_class": processor}
    settings = {"use_cpu": True, "report_to": "none", "max_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    with pytest.raises(ValueError, match="freeze_encoder leaves nothing of it to train"):
        DPOTrainer(model, args=DPOConfig(str(tmp_path / "a"), freeze_encoder=True, **settings), **options)
    model.requires_grad_(True)
    args = DPOConfig(str(tmp_path / "b"), **settings)
    with pytest.raises(ValueError, match="reads the weights of ctc_head without calling"):
        DPOTrainer(model, args=args, peft_config=LoraConfig(target_modules=["ctc_head", "q_proj"]), **options)
    made = DPOTrainer(model, args=args, peft_config=LoraConfig(init_lora_weights=False), **options)
    adapted = {name.split(".lora_")[0] for name, p in made.model.named_parameters() if p.requires_grad}
    assert adapted and not any(name.endswith((".out", ".ctc_head")) for name in adapted)
    batch = made.data_collator([made.train_dataset[i] for i in range(2)])
    expected = made.family.score_groups(made.model.eval(), batch).logps
    merged = made.model.merge_and_unload().eval()
    torch.testing.assert_close(made.family.score_groups(merged, batch).logps, expected, rtol=1e-4, atol=1e-4)
