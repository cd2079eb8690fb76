"""Audio Flamingo 3, the thinkers of Qwen-Omni and VibeVoice-ASR: what of them is unlike other audio language models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoProcessor

from audiorl import DPOConfig, DPOTrainer, evaluate_model
from audiorl.commands.evaluate import main as evaluate
from audiorl.evaluation import read_document
from audiorl.models import model_class, speech_family
from audiorl.models.vibevoice import spoken
from audiorl.testing.case import group_batch
from tests.tiny_audio_llms import KINDS, SOUND, stock_answer_logps, stock_inputs, tiny_audio_llm
from tests.tiny_models import SAMPLING_RATE, tiny_clips
from tests.trained_models import AUDIO_LLMS_LATER
from tests.trainers.pair_rows import pair_rows, settings

LATER = [kind for kind in AUDIO_LLMS_LATER if kind in KINDS]
OMNI = [kind for kind in ("qwen2_5_omni", "qwen3_omni") if kind in KINDS]
needs_flamingo = pytest.mark.skipif("audio_flamingo3" not in KINDS, reason="transformers has no Audio Flamingo 3 here")
needs_vibevoice = pytest.mark.skipif("vibevoice" not in KINDS, reason="transformers has no VibeVoice-ASR here")


def ready(kind: str):
    model, processor = tiny_audio_llm(kind)
    return model, processor, speech_family(model, processor)


# ---- Audio Flamingo 3 ----


@needs_flamingo
@pytest.mark.parametrize("prompt", [None, "Which animal is it?"])
def test_audio_flamingo_is_asked_as_by_its_processor(prompt):
    _, processor, family = ready("audio_flamingo3")
    clip = tiny_clips(1)[0]
    ids = family.tokenize("a fox", prompt=prompt)
    asked = processor.apply_transcription_request(audio=clip, prompt=prompt)["input_ids"][0].tolist()
    place, count = asked.index(family.audio_token_id), asked.count(family.audio_token_id)
    assert count == int(family.features([clip])["audio_tokens"]) > 1
    assert ids.ids[: ids.first_kept] == asked[: place + 1] + asked[place + count :]


@needs_flamingo
def test_audio_flamingo_hears_the_windows_of_a_longer_clip_one_by_one():
    """Beside a shorter clip; its window is 1 s here and 30 s in released checkpoints."""
    model, processor, family = ready("audio_flamingo3")
    clips = [tiny_clips(1, 2.3)[0], tiny_clips(2)[1]]
    scores = family.score_groups(model, group_batch(family, clips, [["dog"], ["a fox"]]))
    for b, text in enumerate(["dog", "a fox"]):
        made = stock_inputs("audio_flamingo3", family, clips[b], {})
        assert len(made["input_features"]) == [3, 1][b]
        expected = stock_answer_logps(model, processor, made, text)
        torch.testing.assert_close(scores.logps[b, 0][scores.keep[b, 0]], expected, rtol=1e-4, atol=1e-4)


@needs_flamingo
def test_audio_flamingo_takes_whole_windows_and_no_clip_is_cut():
    _, processor, family = ready("audio_flamingo3")
    assert family.max_seconds == processor.max_audio_len == 600
    shortest = np.zeros(round(family.min_seconds * SAMPLING_RATE), dtype=np.float32)
    assert family.features([shortest])["audio_tokens"].tolist() == [1]
    assert family.features([shortest[:-160]])["audio_tokens"].tolist() == [0]


@needs_flamingo
@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('The spoken content of the audio is "a fox.".', "a fox."),
        ("The transcription of the audio is 'a fox'.", "a fox"),
        ('The content of the input audio is "a fox"', "a fox"),
        ("a fox.", "a fox."),  # the processor would take the full stop from it
        ("The content of the input audio is a fox", "The content of the input audio is a fox"),
    ],
)
def test_the_transcript_is_read_out_of_audio_flamingos_sentence(written, said):
    _, _, family = ready("audio_flamingo3")
    ids = family.tokenize(written).ids
    assert family._decode(ids[family.tokenize("").first_kept :]) == said
    with pytest.raises(ValueError, match="reads as marks"):
        family.tokenize(f"a {SOUND} fox")


# ---- Qwen-Omni ----


@pytest.mark.parametrize("kind", OMNI)
def test_a_thinker_is_asked_as_its_template_writes_it(kind):
    _, processor, family = ready(kind)
    content = [{"type": "audio", "audio": ""}, {"type": "text", "text": "Transcribe the German audio into text."}]
    turns = [{"role": "user", "content": content}]
    expected = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert family.prompt_text("de", None) == expected == family.prompt_text("German", None)
    assert "Transcribe the audio into text." in family.prompt_text(None, None)
    assert "Who speaks?" in family.prompt_text("de", "Who speaks?") != expected
    with pytest.raises(ValueError, match=r"unknown language 'germn'.*did you mean 'german'\?.*Use a code"):
        family.tokenize("ein Fuchs", language="germn")


@pytest.mark.parametrize("kind", OMNI)
def test_a_thinker_is_loaded_out_of_the_whole_model_and_saved_alone(kind, tmp_path):
    """Weights under the names of released checkpoints: `thinker.` in front, the language model as `model`."""
    model, processor, _ = ready(kind)
    model.save_pretrained(tmp_path / "part")
    weights = load_file(tmp_path / "part/model.safetensors")
    prefix = "" if any(name.startswith("thinker.") for name in weights) else "thinker."
    save_file({prefix + name: x for name, x in weights.items()}, tmp_path / "part/model.safetensors", {"format": "pt"})
    part = json.loads((tmp_path / "part/config.json").read_text())
    whole = {"model_type": {"qwen2_5_omni": "qwen2_5_omni", "qwen3_omni": "qwen3_omni_moe"}[kind]}
    whole |= {"architectures": ["OmniModel"], "thinker_config": part}
    (tmp_path / "part/config.json").write_text(json.dumps(whole))
    processor.save_pretrained(tmp_path / "part")
    assert model_class(AutoConfig.from_pretrained(tmp_path / "part")) is type(model)

    args = DPOConfig(**{**settings(tmp_path / "out"), "max_steps": 2, "save_strategy": "steps", "save_steps": 1})
    trainer = DPOTrainer(str(tmp_path / "part"), args=args, train_dataset=pair_rows(4))
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name))
    trainer.train()
    trainer.save_model()
    again = type(model).from_pretrained(tmp_path / "out")
    assert all(torch.equal(x, trainer.model.state_dict()[name]) for name, x in again.state_dict().items())

    resumed = DPOTrainer(str(tmp_path / "part"), args=args, train_dataset=pair_rows(4))
    resumed.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-1"))
    for name, parameter in resumed.model.named_parameters():
        assert torch.equal(parameter, trainer.model.get_parameter(name)), name


@pytest.mark.skipif("qwen2_5_omni" not in KINDS, reason="transformers has no Qwen2.5-Omni here")
def test_clips_behind_the_window_of_qwen2_5_omni_are_refused_and_those_of_qwen3_omni_are_not():
    _, processor, family = ready("qwen2_5_omni")
    assert family.max_seconds == processor.feature_extractor.chunk_length == 3
    if "qwen3_omni" in KINDS:
        _, _, other = ready("qwen3_omni")
        assert other.max_seconds is None
        clip = np.zeros(31 * SAMPLING_RATE, dtype=np.float32)
        assert other.features([clip])["input_features"].shape[-1] == 3100


@pytest.mark.parametrize("kind", OMNI)
@pytest.mark.parametrize("samples", [14_400, 14_401, 3000, 500])
def test_features_are_the_processors_without_its_silence(kind, samples):
    _, processor, family = ready(kind)
    clip = tiny_clips(1)[0]
    clip = np.concatenate([clip, clip])[:samples]
    asked = {"text": [family.audio_token], "audio": [clip], "sampling_rate": SAMPLING_RATE, "return_tensors": "pt"}
    expected, found = processor(**asked), family.features([clip])
    frames = int(expected["feature_attention_mask"].sum())
    assert found["audio_mask"].tolist() == [[1] * frames]
    torch.testing.assert_close(found["input_features"], expected["input_features"][..., :frames])
    assert int(found["audio_tokens"]) == int((expected["input_ids"] == family.audio_token_id).sum()) > 0
    assert len(clip) >= round(family.min_seconds * SAMPLING_RATE)


@pytest.mark.parametrize("kind", OMNI)
def test_the_image_tower_is_frozen(kind):
    model, _, family = ready(kind)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all(".visual." in f".{name}" or "audio_bos_eos_token" in name for name in frozen)
    towers = [x for name, x in model.named_parameters() if ".audio_tower." in f".{name}"]
    assert list(map(id, family.encoder_parameters(model))) == list(map(id, towers))


@pytest.mark.skipif(not OMNI, reason="transformers has no Qwen-Omni here")
def test_without_torchvision_the_processor_says_what_is_missing(monkeypatch):
    _, _, family = ready(OMNI[0])

    def missing(name):
        raise ValueError("requires torchvision")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", missing)
    monkeypatch.setattr("audiorl.models.qwen_omni.is_torchvision_available", lambda: False)
    with pytest.raises(ImportError, match=r"'some/omni' holds a video processor.*Install the torchvision that belongs"):
        type(family).load_processor("some/omni")
    monkeypatch.setattr("audiorl.models.qwen_omni.is_torchvision_available", lambda: True)
    with pytest.raises(ValueError, match="requires torchvision"):
        type(family).load_processor("some/omni")


# ---- VibeVoice-ASR ----


@needs_vibevoice
@pytest.mark.parametrize("prompt", [None, "lazy dogs"])
def test_vibevoice_is_asked_as_by_its_processor_and_its_answer_is_opened(prompt):
    """The processor writes the clip's length into the request; here it comes where the model runs."""
    _, processor, family = ready("vibevoice")
    clip = tiny_clips(1)[0]
    batch = group_batch(family, [clip], [["a fox"]], [{"prompt": prompt}])
    first = family.tokenize("", prompt=prompt).first_kept
    filled = family._filled(batch.tokens[0, 0, :first], batch, 0).tolist()
    asked = processor.apply_transcription_request(audio=clip, prompt=prompt)["input_ids"][0].tolist()
    place, count = asked.index(family.audio_token_id), asked.count(family.audio_token_id)
    request = asked[: place + 1] + asked[place + count :]
    assert filled[: len(request)] == request
    opening = processor.tokenizer.decode(filled[len(request) :])
    assert opening == '<|im_start|>assistant\n[{"Start":0,"End":0.60,"Speaker":0,"Content":"'
    assert f"{len(clip) / 24_000:.2f}" == "0.60"


@needs_vibevoice
def test_an_answer_of_vibevoice_is_json_that_its_processor_reads():
    _, processor, family = ready("vibevoice")
    text = 'a "fox" \\ dog'
    found = family.tokenize(text)
    written = processor.tokenizer.decode(found.ids[found.first_kept :])
    opening = family.prompt_text(None, None).partition("assistant\n")[2].replace("<|AUDIO_DURATION|>", "0.60")
    assert processor.extract_transcription(opening + written.partition("<|im_end|>")[0]) == text
    assert written.endswith('"}]<|im_end|>\n<|endoftext|>')
    assert family._decode(found.ids[found.first_kept :]) == text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('a fox"}]', "a fox"),
        ("a fo", "a fo"),  # cut by a length limit
        ('a fox"},{"Start":0.5,"End":1,"Speaker":1,"Content":"the dog"}]', "a fox the dog"),
        ('a fox"},{"Start":0.5,"End":1,"Spea', "a fox"),
        ('\\"a\\" \\u00e4"}]', '"a" ä'),
        ("a \\q fox", "a \\q fox"),
        ('"}]', ""),
        ("", ""),
    ],
)
def test_what_is_spoken_in_an_answer_of_vibevoice(written, said):
    assert spoken(written) == said


@needs_vibevoice
def test_vibevoice_hears_without_noise_and_its_tokenizers_stay():
    model, _, family = ready("vibevoice")
    batch = group_batch(family, tiny_clips(2), [["a fox"], ["dog"]])
    assert torch.equal(family.encode(model, batch), family.encode(model, batch))
    trained = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"language_model", "multi_modal_projector", "weight"}
    with pytest.raises(ValueError, match=r"the request has 2 places for the clip's length.*row's prompt"):
        family.tokenize("a fox", prompt="It is <|AUDIO_DURATION|> long.")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "vibevoice")) for kind in LATER]
)
def test_evaluation_measures_what_is_spoken(kind, tmp_path):
    """From a folder, as `audiorl evaluate` does; `evaluate_model` on the loaded model says the same."""
    model, processor, _ = ready(kind)
    model.generation_config.min_new_tokens = 6
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    rows = []
    for i, (clip, text) in enumerate(zip(tiny_clips(3), ["a fox", "dog", "the lazy dog"], strict=True)):
        soundfile.write(tmp_path / f"{i}.wav", clip, SAMPLING_RATE)
        rows.append({"audio": str(tmp_path / f"{i}.wav"), "text": text})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    evaluate(
        [
            *("--model_name_or_path", str(tmp_path / "model"), "--dataset_name", str(tmp_path / "rows.jsonl")),
            *("--output", str(tmp_path / "out.json"), "--max_new_tokens", "8", "--resamples", "200"),
        ]
    )
    (one,) = read_document(tmp_path / "out.json")["measurements"]
    measured = evaluate_model(model, processor, rows, max_new_tokens=8, resamples=200, progress=False)
    said = [clip.hypothesis for clip in measured.rows]
    assert [clip["hypothesis"] for clip in one["clips"]] == said and any(said)
    assert not any("{" in text for text in said)
