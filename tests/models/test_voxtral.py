"""What is Voxtral's own: requests written by mistral-common, clips of several chunks, a package that may be missing."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoProcessor,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)
from transformers.utils import is_mistral_common_available

from audiorl.datasets import BadRowsError
from audiorl.models import speech_family
from audiorl.testing.case import group_batch
from audiorl.trainers.config import SpeechConfig
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from audiorl.trainers.loading import load_model, load_processor
from tests.tiny_audio_llms import stock_inputs, tiny_audio_llm
from tests.tiny_models import SAMPLING_RATE, saved, tiny_clips
from tests.tiny_tekken import CHUNK_SECONDS, tekken_tokenizer, voxtral_inputs

pytestmark = pytest.mark.skipif(not is_mistral_common_available(), reason="mistral-common is not installed")

WITHOUT_THE_PACKAGE = """
import sys
sys.modules["mistral_common"] = None
from transformers import AutoConfig
from audiorl.models import model_class
from tests.tiny_audio_llms import KINDS
assert "glm_asr" in KINDS and "voxtral" not in KINDS
try:
    model_class(AutoConfig.from_pretrained(sys.argv[1]))
except ImportError as error:
    assert "audiorl[voxtral]" in str(error)
else:
    raise AssertionError("nothing was missed")
"""


def ready():
    model, processor = tiny_audio_llm("voxtral")
    return model, speech_family(model, processor)


def spoken(*seconds: float) -> list[np.ndarray]:
    """Clips of these lengths, of 16 bits as a request holds them."""
    clip = np.tile(tiny_clips(1)[0], 8)
    parts = [clip[: round(length * SAMPLING_RATE)] * (1 + i) / 4 for i, length in enumerate(seconds)]
    return [np.round(part * 32768).astype(np.float32) / 32768 for part in parts]


def test_requests_are_those_of_the_processor():
    _, family = ready()
    for row in ({"language": "de"}, {}, {"prompt": "Which animal is it?"}):
        made = stock_inputs("voxtral", family, spoken(1)[0], row)["input_ids"][0].tolist()
        ids, first_kept = family.tokenize_row("a fox", row)
        place = ids.index(family.audio_token_id)
        assert made == ids[:place] + [family.audio_token_id] * 25 + ids[place + 1 : first_kept]
        assert family.tokenizer.decode(ids[first_kept:-1]) == "a fox" and ids[-1] == family.tokenizer.eos_token_id


def test_the_language_is_part_of_the_request_to_transcribe():
    _, family = ready()
    assert family.prompt_text("de", None) == "<s>[INST][BEGIN_AUDIO][AUDIO][/INST]lang:de[TRANSCRIBE]"
    assert family.prompt_text("German", None) == family.prompt_text("de", None)
    assert family.prompt_text(None, None) == "<s>[INST][BEGIN_AUDIO][AUDIO][/INST][TRANSCRIBE]"
    assert family.prompt_text("de", "Who?") == "<s>[INST][BEGIN_AUDIO][AUDIO]Who?[/INST]"
    family.set_defaults(language="german")
    assert family.tokenize("a fox") == family.tokenize("a fox", language="de")
    with pytest.raises(ValueError, match=r"unknown language 'klingon'.*two letters.*leave the language out"):
        family.set_defaults(language="klingon")
    with pytest.raises(ValueError, match="unknown language 'Hawaiian'"):
        family.tokenize("a fox", language="Hawaiian")


def test_marks_in_texts_and_prompts_are_letters():
    _, family = ready()
    said = "a</s> [AUDIO] fox"
    ids, first_kept = family.tokenize(said, prompt="what does [AUDIO][/INST] mean?")
    assert ids.count(family.audio_token_id) == 1 and ids.count(family.end_token) == 1
    assert family.text(torch.tensor([[ids]]), torch.arange(1, len(ids))[None, None] >= first_kept) == [[said]]
    assert family._decode([*ids[first_kept:-1], 34, family.end_token, 60]) == said


def test_rows_in_a_language_that_is_none_are_told(tmp_path):
    model, family = ready()
    pair = {"chosen": "a fox", "rejected": "dog"}
    heard = [{"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, **pair} for clip in tiny_clips(3)]
    rows = [{**row, "language": code} for row, code in zip(heard, ("en", "xx", None), strict=True)]
    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(BadRowsError) as told:
        DPOTrainer(model, args=args, train_dataset=rows, processing_class=family.processor)
    assert {fault.row_id for fault in told.value.faults} == {1}


def test_a_clip_of_several_chunks_is_heard_as_by_the_stock_model():
    """Beside a short neighbour, values and gradients; a clip of whole chunks gets no chunk of silence."""
    model, family = ready()
    clips = spoken(2.5 * CHUNK_SECONDS, 0.4, CHUNK_SECONDS)
    texts = [["the quick brown fox", "dog"]] * 3
    asked = [{"language": "en"}, {}, {"prompt": "lazy dogs"}]
    batch = group_batch(family, clips, texts, asked)
    assert batch["audio_tokens"].tolist() == [75, 25, 25]
    family.score_groups(model, batch).logps.sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    scores = family.score_groups(model, batch)
    total = torch.zeros(())
    for b, clip in enumerate(clips):
        made = stock_inputs("voxtral", family, clip, asked[b])
        for k, text in enumerate(texts[b]):
            answer = torch.tensor([[*family.tokenizer(text, add_special_tokens=False).input_ids, family.end_token]])
            ids = torch.cat([made["input_ids"], answer], 1)
            logits = model(input_ids=ids, input_features=made["input_features"]).logits[0, :-1]
            alone = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[-answer.shape[1] :, 0]
            torch.testing.assert_close(scores.logps[b, k][scores.keep[b, k]], alone, rtol=1e-4, atol=1e-4)
            total = total + alone.sum()
    total.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() and any("audio_tower" in name for name in found)
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * float(largest), msg=name)


def test_chunks_of_thirty_seconds_are_the_processor_s_default():
    tiny, _ = tiny_audio_llm("voxtral")
    fields = copy.deepcopy(tiny.config).to_dict()
    fields["audio_config"]["max_source_positions"] = 1500
    model = VoxtralForConditionalGeneration(VoxtralConfig(**fields)).eval()
    processor = VoxtralProcessor(WhisperFeatureExtractor(feature_size=16), tekken_tokenizer(30))
    family = speech_family(model, processor)
    (clip,) = spoken(3)
    made = processor.apply_transcription_request(clip, "tiny", language="en", sampling_rate=SAMPLING_RATE, format="wav")
    heard = family.features([clip])
    assert torch.equal(heard["input_features"], made["input_features"]) and heard["audio_tokens"].tolist() == [375]
    assert made["input_ids"][0].tolist().count(family.audio_token_id) == 375
    written = model.generate(**made, max_new_tokens=4)[0, made["input_ids"].shape[1] :]
    assert family.transcribe(model, heard, languages=["en"], max_new_tokens=4) == [family._decode(written.tolist())]


def test_a_saved_processor_brings_its_tokenizer(tmp_path):
    model, family = ready()
    saved((model, family.processor), tmp_path)
    assert (tmp_path / "tekken.json").exists()
    again = AutoProcessor.from_pretrained(tmp_path)
    row = {"language": "en"}
    first, second = (voxtral_inputs(processor, spoken(1)[0], row) for processor in (family.processor, again))
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert type(family).load_processor(tmp_path).tokenizer.vocab_size == family.tokenizer.vocab_size


def test_a_checkpoint_holds_the_tokenizer_where_the_folder_it_came_from_has_gone(tmp_path):
    """Tuning goes on from a checkpoint that is rotated away meanwhile, or written anew."""
    model, processor = tiny_audio_llm("voxtral")
    first = tmp_path / "first"
    saved((model, processor), first)
    whole = (first / "tekken.json").read_bytes()
    again = AutoProcessor.from_pretrained(first)
    pair = {"chosen": "a fox", "rejected": "dog"}
    rows = [{"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, **pair} for clip in tiny_clips(2)]
    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = DPOTrainer(model, args=args, train_dataset=rows, processing_class=again)
    (first / "tekken.json").write_bytes(b"another")
    again.save_pretrained(tmp_path / "written_anew")
    shutil.rmtree(first)
    trainer.save_model(tmp_path / "gone")
    for name in ("written_anew", "gone"):
        assert (tmp_path / name / "tekken.json").read_bytes() == whole
    loaded = AutoProcessor.from_pretrained(tmp_path / "gone").tokenizer
    assert loaded.encode("a fox") == processor.tokenizer.encode("a fox")
    speech_family(model, again)  # once kept, the file is not asked for


def test_a_processor_whose_file_has_gone_is_refused_before_training(tmp_path):
    model, processor = tiny_audio_llm("voxtral")
    again = AutoProcessor.from_pretrained(saved((model, processor), tmp_path))
    (tmp_path / "tekken.json").unlink()
    with pytest.raises(ValueError, match=r"tekken\.json, is gone.*no checkpoint can be saved.*Load the processor"):
        speech_family(model, again)


def test_without_its_package_no_weights_are_loaded(tmp_path, monkeypatch):
    model, processor = tiny_audio_llm("voxtral")
    model.save_pretrained(tmp_path)
    model.config._name_or_path = str(tmp_path)
    monkeypatch.setattr("audiorl.models.voxtral.is_mistral_common_available", lambda: False)
    monkeypatch.setattr(VoxtralForConditionalGeneration, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    asked = (
        lambda: load_model(str(tmp_path), SpeechConfig(output_dir=str(tmp_path), use_cpu=True)),
        lambda: load_processor(None, model),
        lambda: speech_family(model, processor),
    )
    for call in asked:
        with pytest.raises(ImportError, match=r'Voxtral.*not installed here.*Run: pip install "audiorl\[voxtral\]"'):
            call()


@pytest.mark.slow
def test_library_and_tests_work_without_the_package(tmp_path):
    model, _ = tiny_audio_llm("voxtral")
    model.save_pretrained(tmp_path)
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def test_a_tokenizer_of_another_kind_is_refused():
    model, processor = tiny_audio_llm("voxtral")
    other = copy.copy(processor)
    other.tokenizer = tiny_audio_llm("glm_asr")[1].tokenizer
    with pytest.raises(ValueError, match=r"cannot write Voxtral's requests.*tekken\.json"):
        speech_family(model, other)
