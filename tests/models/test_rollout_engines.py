"""Engines for rollouts, as far as they can be tested without vLLM; with it, see `tests/engines`."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from audiorl.models import speech_family
from audiorl.models.engines import row_seeds, vllm
from audiorl.trainers.grpo import GRPOConfig
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import tiny_whisper
from tests.trainers.grpo_rows import config, trainer


@pytest.fixture
def installed(monkeypatch):
    """As if vLLM were there."""
    monkeypatch.setattr(vllm, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)


def test_numbers_come_back_from_the_spectrogram_of_their_sound():
    _, processor = tiny_whisper()
    for number in (0, 1, 0b1010101010101010, 0b0101010101010101, 40503, 2**16 - 1):
        sound = vllm.number_as_sound(number, 16_000)
        mel = processor.feature_extractor(sound, sampling_rate=16_000, return_tensors="pt").input_features[0]
        assert vllm.read_number(mel) == number
        assert vllm.read_number(mel.to(torch.bfloat16)) == number


def test_seeds_are_those_of_the_row_whatever_lies_beside_it():
    together, alone = row_seeds([3, 5, -1], 7, 2), row_seeds([5], 7, 2)
    assert together[1] == alone[0] and len({*together, *row_seeds([3, 5], 7, 3), *row_seeds([3, 5], 8, 2)}) == 7


def test_served_weights_are_those_of_a_checkpoint_with_the_adapter_merged():
    plain, processor = tiny_whisper()
    part = speech_family(plain, processor).served_part(plain)
    expected = {name for name in plain.state_dict() if name != "proj_out.weight"}
    assert {name for name, _ in vllm.served_weights(plain, part)} == expected
    adapted = get_peft_model(plain, LoraConfig(target_modules=["q_proj", "fc1"], init_lora_weights=False))
    found = dict(vllm.served_weights(adapted, part))
    merged = adapted.merge_and_unload().state_dict()
    assert found.keys() == expected
    assert all(torch.allclose(weight, merged[name], atol=1e-6) for name, weight in found.items())


@pytest.mark.parametrize("kind", ["qwen3_asr", "qwen2_audio"])
def test_of_an_audio_language_model_the_language_model_is_served(kind):
    model, processor = tiny_audio_llm(kind)
    part = speech_family(model, processor).served_part(model)
    names = {name for name, _ in vllm.served_weights(model, part)}
    assert names == {"lm_head.weight", *(f"model.{name}" for name in model.get_decoder().state_dict())}
    assert part.architecture in ("Qwen3ForCausalLM", "Qwen2ForCausalLM") and not part.config.tie_word_embeddings


def refused(model: Any, processor: Any) -> str:
    with pytest.raises(ValueError, match=r"Use rollout_engine='native'\.") as error:
        vllm.check_vllm(speech_family(model, processor), model)
    return str(error.value)


def test_models_that_vllm_cannot_sample_for_are_refused(installed, monkeypatch):
    assert "this is WaveformCTCFamily" in refused(*tiny_ctc())
    model, processor = tiny_whisper()
    vllm.check_vllm(speech_family(model, processor), model)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    assert "VLLM_ENABLE_V1_MULTIPROCESSING asks for another one" in refused(model, processor)
    monkeypatch.undo()
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    assert "is not installed here" in refused(model, processor)


def test_dora_is_refused(installed):
    model, processor = tiny_whisper()
    dora = get_peft_model(model, LoraConfig(target_modules=["fc1"], use_dora=True))
    with pytest.raises(ValueError, match="uses DoRA"):
        vllm.check_vllm(speech_family(model, processor), dora)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout_engine": "sglang"}, "rollout_engine"),
        ({"rollout_engine": "vllm", "top_p": 0.9}, "draw from another distribution than the policy"),
        ({"rollout_engine": "vllm", "loss_type": "mwer"}, "leaves no place for importance ratios"),
        ({"vllm_gpu_memory_utilization": 1.5}, "is a share above 0, at most 1"),
        ({"vllm_max_model_length": 0}, "vllm_max_model_length"),
        ({"vllm_importance_sampling_mode": "mask"}, "vllm_importance_sampling_mode"),
        ({"vllm_importance_sampling_clip_max": 0}, "vllm_importance_sampling_clip_max"),
    ],
)
def test_settings_are_checked_when_built(tmp_path, changes, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        config(tmp_path, **changes)


def test_a_trainer_asks_before_anything_is_spent(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs vLLM, which is not installed here"):
        trainer(tmp_path, rollout_engine="vllm")
    monkeypatch.setattr(GRPOConfig, "world_size", property(lambda args: 2))
    args = config(tmp_path, rollout_engine="vllm")
    from audiorl.trainers.rollout_trainer import rollout_engine

    with pytest.raises(ValueError, match="works in one process, and there are 2"):
        rollout_engine(None, None, args)


def test_log_probabilities_may_differ_by_what_the_type_rounds():
    keep = torch.tensor([[[True, True, False]]])
    ours = torch.tensor([[[-1.0, -2.0, 9.0]]])
    vllm.check_agreement(ours, ours + 5e-4, keep, torch.float32)
    vllm.check_agreement(ours, ours + 0.03, keep, torch.bfloat16)
    for wrong in (ours + 2e-3, torch.full_like(ours, torch.nan)):
        with pytest.raises(vllm.EngineMismatchError, match=r"Its weights are not the policy's"):
            vllm.check_agreement(ours, wrong, keep, torch.float32)
    vllm.check_agreement(ours, ours - 7, torch.zeros_like(keep), torch.float32)
    model, _ = tiny_whisper()
    assert vllm.computed_in(model) == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert vllm.computed_in(model) == torch.bfloat16
