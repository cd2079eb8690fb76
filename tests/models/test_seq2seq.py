"""Moonshine, Speech2Text, Canary and their kin as a user meets them: exact beside stock, tuned, saved, loaded back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, GenerationConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from audiorl import DPOConfig, DPOTrainer
from audiorl.datasets import BadRowsError
from audiorl.models import speech_family
from audiorl.models.padding import encode_by_length
from audiorl.testing.case import group_batch
from tests.tiny_models import tiny_clips
from tests.tiny_seq2seq import KINDS, tiny_seq2seq

HERE = pytest.mark.skipif("cohere_asr" not in KINDS, reason="this release of transformers has no Cohere Transcribe")
STREAMING = pytest.mark.skipif("moonshine_streaming" not in KINDS, reason="nor Moonshine Streaming")
TEXTS = ["the quick brown fox", "dog", "the lazy dog jumps", "so", "a fox", "dogs", "jumps over", "the dog"]
SETTINGS = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}


def rows(count: int) -> list[dict]:
    clips = tiny_clips(count)
    return [
        {
            "audio": {"array": clip, "sampling_rate": 16_000},
            "text": TEXTS[i],
            "chosen": TEXTS[i],
            "rejected": TEXTS[i - 1],
            "language": "en",
        }
        for i, clip in enumerate(clips)
    ]


def stock_logps(model, processor, kind: str, clip: np.ndarray, tokens: torch.Tensor) -> torch.Tensor:
    """Of one clip and one hypothesis, by the model's own processor and forward."""
    if kind == "moonshine":
        heard = {"input_values": torch.tensor(clip)[None]}
    elif kind == "moonshine_streaming":
        heard = dict(processor(audio=clip, sampling_rate=16_000))
    else:
        heard = dict(processor.feature_extractor([clip], sampling_rate=16_000, return_tensors="pt"))
        heard.pop("audio_chunk_index", None)
    logits = model(**heard, decoder_input_ids=tokens[None, :-1]).logits[0]
    return logits.log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_stock_forwards_of_unpadded_clips_give(kind):
    model, processor = tiny_seq2seq(kind)
    family = speech_family(model, processor)
    clips = [clip[: 14_000 - 900 * i] for i, clip in enumerate(tiny_clips(3))]
    texts = [["the quick brown fox", "dog"], ["a fox", "so so"], ["", "dogs"]]
    batch = group_batch(family, clips, texts, [{"language": "en"}] * 3)
    scores = family.score_groups(model, batch)
    with torch.no_grad():
        for b, group in enumerate(texts):
            for k, text in enumerate(group):
                ids, first_kept = family.tokenize(text, language="en")
                expected = stock_logps(model, processor, kind, clips[b], torch.tensor(ids))
                found = scores.logps[b, k, first_kept - 1 : len(expected)]
                torch.testing.assert_close(found, expected[first_kept - 1 :], rtol=1e-5, atol=2e-5)


def test_padding_moves_the_stock_model_and_not_the_family():
    """The reason why clips are encoded without their neighbours' padding."""
    model, processor = tiny_seq2seq("moonshine")
    family = speech_family(model, processor)
    long, short = tiny_clips(2)[0], tiny_clips(2)[1][:6000]
    alone = family.encode(model, group_batch(family, [short], [["a"]]))
    both = family.encode(model, group_batch(family, [long, short], [["a"], ["a"]]))
    torch.testing.assert_close(both[1, : alone.shape[1]], alone[0], rtol=1e-5, atol=1e-5)
    made = family.features([long, short])
    stock = model.get_encoder()(made["input_values"], attention_mask=made["audio_mask"]).last_hidden_state
    assert (stock[1, : alone.shape[1]] - alone[0]).abs().max() > 1e-3


def test_clips_go_back_to_their_places_and_equal_lengths_together():
    calls = []

    def encode(clips: torch.Tensor) -> torch.Tensor:
        calls.append(len(clips))
        return clips[:, ::2, None]

    audio = torch.arange(1.0, 25.0).view(4, 6)
    found = encode_by_length(encode, audio, [2, 6, 4, 2])
    assert calls == [2, 1, 1]
    assert found.squeeze(-1).tolist() == [[1, 0, 0], [7, 9, 11], [13, 15, 0], [19, 0, 0]]
    assert torch.equal(encode_by_length(encode, audio, [2, 6, 4, 2], together=False), found)
    assert calls[3:] == [1, 1, 1, 1]


@STREAMING
def test_a_streaming_encoder_hears_a_clip_alone_through_its_windows():
    """A stock batch lets a neighbour's padding into the windows of the last states; without a mask there are none."""
    model, processor = tiny_seq2seq("moonshine_streaming")
    family = speech_family(model, processor)
    long, short = tiny_clips(2)[0][:14_010], tiny_clips(2)[1][:6010]
    alone = family.encode(model, group_batch(family, [short], [["a"]]))
    both = family.encode(model, group_batch(family, [long, short], [["a"], ["a"]]))
    torch.testing.assert_close(both[1, : alone.shape[1]], alone[0], rtol=1e-5, atol=1e-5)
    encoder = model.get_encoder()
    one = processor(audio=short, sampling_rate=16_000)
    torch.testing.assert_close(encoder(**one).last_hidden_state, alone, rtol=1e-5, atol=1e-5)
    made = processor(audio=[long, short], sampling_rate=16_000)
    assert (encoder(**made).last_hidden_state[1, : alone.shape[1]] - alone[0]).abs().max() > 1e-3
    assert (encoder(one["input_values"]).last_hidden_state - alone).abs().max() > 1e-2
    ready = group_batch(family, [short], [["a fox"]])
    states = family.encode(model, ready)
    kept = states.clone()
    family.score_groups(model, ready, states=states)
    assert torch.equal(states, kept), "the stock decoder adds its positions to what it is given"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("moonshine_streaming", "cohere_asr")])
def test_steps_of_sampling_do_not_project_the_states_again(kind):
    """Both decoders have a layer between the states and their cross-attention, whose keys and values are kept."""
    model, processor = tiny_seq2seq(kind)
    family = speech_family(model, processor)
    batch = group_batch(family, tiny_clips(2), [["a"], ["a"]], [{"language": "en"}] * 2)
    states, lengths = family.encode(model, batch), []
    model.get_decoder().proj.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    family.sample_groups(model, batch, torch.rand(2, 3, 6, dtype=torch.float64), states=states)
    assert lengths[0] == states.shape[1] > 1 and len(lengths) > 2 and set(lengths[1:]) == {1}


@HERE
def test_a_run_on_a_checkpoint_with_the_released_names_resumes_and_keeps_them(tmp_path):
    """Cohere's files call weights otherwise than transformers' model; the tuned checkpoint speaks as they do."""
    model, processor = tiny_seq2seq("cohere_asr")
    model._weight_conversions = get_checkpoint_conversion_mapping("cohere_asr")
    model.save_pretrained(tmp_path / "base")

    def names(folder) -> set[str]:
        with safe_open(folder / "model.safetensors", "pt") as file:
            return set(file.keys())

    def run(folder, **more) -> dict[str, torch.Tensor]:
        base = type(model).from_pretrained(tmp_path / "base")
        args = DPOConfig(str(folder), max_steps=4, **{**SETTINGS, "save_strategy": "steps", "save_steps": 2}, **more)
        trainer = DPOTrainer(base, args=args, train_dataset=rows(4), processing_class=processor)
        trainer.train(resume_from_checkpoint=more.get("resume_from_checkpoint"))
        return {name: weight.clone() for name, weight in base.state_dict().items()}

    released = names(tmp_path / "base")
    assert any("transf_decoder" in name for name in released) and released != set(model.state_dict())
    whole = run(tmp_path / "run")
    assert names(tmp_path / "run" / "checkpoint-2") == released
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    again = run(tmp_path / "run", resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for name, weight in whole.items():
        torch.testing.assert_close(again[name], weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "speech2text"])
def test_a_tuned_model_loads_in_plain_transformers(kind, tmp_path):
    model, processor = tiny_seq2seq(kind)
    args = DPOConfig(output_dir=str(tmp_path), max_steps=1, **SETTINGS)
    trainer = DPOTrainer(model, args=args, train_dataset=rows(2), processing_class=processor)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path, dtype=torch.float32)
    again, clips = AutoProcessor.from_pretrained(tmp_path), tiny_clips(3)
    # every piece once: what random models like best they write again and again
    said, limits = [], {"min_new_tokens": 6, "max_new_tokens": 12, "no_repeat_ngram_size": 1}
    for clip in clips:
        if kind.startswith("moonshine"):
            heard = again(clip, sampling_rate=16_000, return_tensors="pt")
        elif kind == "cohere_asr":
            heard = again(clip, language="en", sampling_rate=16_000)
        else:
            heard = again.apply_transcription_request(clip, source_language="en")
        ids = loaded.generate(**heard, **limits)
        said.append(again.tokenizer.decode(ids[0], skip_special_tokens=True).strip())
    features = trainer.family.features(clips)
    assert trainer.family.transcribe(trainer.model, features, languages=["en"] * 3, **limits) == said
    assert len(set(said)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_cannot_be_used_are_told(kind, tmp_path):
    model, processor = tiny_seq2seq(kind)
    data = rows(6)
    data[0]["audio"] = {"array": np.full(60, 0.1, dtype=np.float32), "sampling_rate": 16_000}
    data[1]["chosen"] = processor.tokenizer.eos_token + data[1]["chosen"]
    data[2]["task"] = "translate"
    data[3]["prompt"] = "names of animals"
    data[4]["rejected"] = "dog " * 100
    args = DPOConfig(output_dir=str(tmp_path), **SETTINGS)
    with pytest.raises(BadRowsError) as told:
        DPOTrainer(model, args=args, train_dataset=data, processing_class=processor)
    assert {fault.row_id for fault in told.value.faults} == {0, 1, 2, 3, 4}


def test_speech2text_of_several_languages_is_refused():
    model, processor = tiny_seq2seq("speech2text")
    processor.tokenizer.lang_codes = "must_c"
    with pytest.raises(ValueError, match="several languages"):
        speech_family(model, processor)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_has_one_transcript_whatever_the_generation_config_asks_for(kind):
    model, processor = tiny_seq2seq(kind)
    family = speech_family(model, processor)
    audio = family.features(tiny_clips(3))
    asked = {"languages": ["en"] * 3, "max_new_tokens": 6, "num_beams": 2}
    plain = family.transcribe(model, audio, **asked)
    own = model.generation_config
    own.num_return_sequences, own.return_dict_in_generate, own.output_scores = 2, True, True
    assert family.transcribe(model, audio, **asked) == plain
    assert model.generation_config is own and own.num_return_sequences == 2


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_generation_config_a_transcript_may_fill_the_decoder(kind):
    """transformers would cut it after 20 tokens."""
    model, processor = tiny_seq2seq(kind)
    family = speech_family(model, processor)
    model.generation_config = GenerationConfig(suppress_tokens=[family.end_token])
    (text,) = family.transcribe(model, family.features(tiny_clips(1)), languages=["en"])
    assert len(processor.tokenizer(text, add_special_tokens=False).input_ids) > 20 or len(text) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_with_another_end_or_more_tokens_is_refused(kind):
    model, processor = tiny_seq2seq(kind)
    processor.tokenizer.add_tokens([f"more{i}" for i in range(300)])
    with pytest.raises(ValueError, match=r"ids go up to .* own checkpoint"):
        speech_family(model, processor)
    model, processor = tiny_seq2seq(kind)
    model.config.eos_token_id += 1
    with pytest.raises(ValueError, match=r"to another checkpoint: its transcripts end with token"):
        speech_family(model, processor)
