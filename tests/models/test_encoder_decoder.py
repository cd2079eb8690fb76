"""Whisper in groups, against stock Whisper called once for each hypothesis, and sampling against a loop over tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from audiorl.audio import load_audio
from audiorl.batch import GroupBatch
from audiorl.models import disable_dropout, speech_family
from audiorl.models.sampling import draw
from audiorl.testing.case import group_batch, perturb
from tests.tiny_models import tiny_clips, tiny_whisper

TEXTS = [["the quick fox", "a fox", ""], ["dog", "the lazy dog jumps over", "do g"]]
MIXED_TEXTS = [
    ["der Fuchs springt", "Fuchs", "ein"],
    ["你好世界", "你好", ""],
    ["the dog", "dog", "dogs run"],
]
# rows of unequal prefixes, and the prefix of each as its tokens, written by hand
MIXED_ROWS = [
    {"language": "de", "prompt": "braune Hunde"},
    {"language": "zh"},
    {"language": "en", "task": "translate"},
]
MIXED_PREFIXES = [
    [
        "<|startofprev|>",
        " braune Hunde",
        "<|startoftranscript|>",
        "<|de|>",
        "<|transcribe|>",
        "<|notimestamps|>",
    ],
    ["<|startoftranscript|>", "<|zh|>", "<|transcribe|>", "<|notimestamps|>"],
    ["<|startoftranscript|>", "<|en|>", "<|translate|>", "<|notimestamps|>"],
]
ENGLISH_PREFIX = ["<|startoftranscript|>", "<|notimestamps|>"]
LARGE_V3_PREFIX = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]

BATCHES = {
    "english": (TEXTS, [{}, {}], [ENGLISH_PREFIX] * 2),
    "multilingual": (MIXED_TEXTS, MIXED_ROWS, MIXED_PREFIXES),
    "large_v3": (TEXTS, [{"language": "en"}] * 2, [LARGE_V3_PREFIX] * 2),
}


def ids_of(processor: WhisperProcessor, parts: list[str]) -> list[int]:
    """Special tokens by name, everything else as text."""
    tokenizer, vocab = processor.tokenizer, processor.tokenizer.get_vocab()
    return [
        i
        for part in parts
        for i in ([vocab[part]] if part in vocab else tokenizer(part, add_special_tokens=False).input_ids)
    ]


def transcript_parts(text: str) -> list[str]:
    spaced = text if not text or ord(text[0]) > 0x3000 else f" {text}"
    return [spaced, "<|endoftext|>"]


def grouped(kind: str):
    """(family, model, batch) of a tiny Whisper."""
    texts, rows, _ = BATCHES[kind]
    model, processor = tiny_whisper(kind)
    family = speech_family(model, processor)
    return family, model, group_batch(family, tiny_clips(len(texts)), texts, rows)


@pytest.mark.parametrize("kind", BATCHES)
def test_every_row_equals_a_stock_whisper_forward_on_it_alone(kind):
    texts, _, prefixes = BATCHES[kind]
    stock, processor = tiny_whisper(kind)
    family, model, batch = grouped(kind)
    with torch.no_grad():
        scores = family.score_groups(model, batch)
        for b, clip in enumerate(tiny_clips(len(texts))):
            features = processor(clip, sampling_rate=16_000, return_tensors="pt").input_features
            prefix = ids_of(processor, prefixes[b])
            for k, text in enumerate(texts[b]):
                said = ids_of(processor, transcript_parts(text))
                ids = torch.tensor([prefix + said])
                logits = stock(input_features=features, decoder_input_ids=ids[:, :-1]).logits
                expected = logits.log_softmax(-1)[0].gather(-1, ids[0, 1:, None])[len(prefix) - 1 :, 0]
                first, last = len(prefix) - 1, len(prefix) - 1 + len(said)
                torch.testing.assert_close(scores.logps[b, k, first:last], expected, rtol=1e-5, atol=1e-5)
                assert not scores.logps[b, k, :first].any() and not scores.logps[b, k, last:].any()


def sample_by_loops(stock, processor, features, prefix: list[int], noise: np.ndarray, temperature: float):
    """One full forward of the stock model for each token: (ids, log-probabilities)."""
    ids, logps = list(prefix), []
    for uniform in noise:
        with torch.no_grad():
            logits = stock(input_features=features, decoder_input_ids=torch.tensor([ids])).logits[0, -1] / temperature
        log_probabilities = logits.double().log_softmax(-1).numpy()
        token, below = 0, np.exp(log_probabilities[0])
        while below <= uniform:
            token += 1
            below += np.exp(log_probabilities[token])
        ids.append(token)
        logps.append(log_probabilities[token])
        if token == processor.tokenizer.eos_token_id:
            break
    return ids, logps


@pytest.mark.parametrize("kind", BATCHES)
def test_samples_equal_a_loop_over_tokens_with_the_same_noise(kind):
    texts, _, prefixes = BATCHES[kind]
    stock, processor = tiny_whisper(kind)
    family, model, batch = grouped(kind)
    noise = torch.rand(len(texts), 3, 7, dtype=torch.float64)
    samples = family.sample_groups(model, batch, noise, temperature=0.8)
    for b, clip in enumerate(tiny_clips(len(texts))):
        features = processor(clip, sampling_rate=16_000, return_tensors="pt").input_features
        prefix = ids_of(processor, prefixes[b])
        for k in range(3):
            ids, logps = sample_by_loops(stock, processor, features, prefix, noise[b, k].numpy(), 0.8)
            assert samples.tokens[b, k, : len(ids)].tolist() == ids
            kept = samples.keep[b, k]
            assert kept.nonzero().flatten().tolist() == list(range(len(prefix) - 1, len(ids) - 1))
            np.testing.assert_allclose(samples.logps[b, k][kept].numpy(), logps, rtol=1e-4, atol=1e-4)
            assert bool(samples.finished[b, k]) == (ids[-1] == family.end_token)


def test_sampling_stops_where_the_decoder_has_no_more_positions():
    """48 positions read 48 tokens and predict the one behind the last."""
    family, model, batch = grouped("multilingual")
    # high numbers draw late tokens, never the end
    noise = 0.999 + 0.0009 * torch.rand(3, 2, 100, dtype=torch.float64)
    samples = family.sample_groups(model, batch, noise)
    assert samples.tokens.shape == (3, 2, 49)
    assert not samples.finished.any() and samples.keep[..., -1].all()
    scores = family.score_groups(model, batch.replace(tokens=samples.tokens, keep=samples.keep))
    torch.testing.assert_close(scores.logps, samples.logps, rtol=1e-4, atol=1e-4)


def test_sampling_stops_early_once_all_have_ended():
    family, model, batch = grouped("english")
    end_only = model.get_decoder().layer_norm.bias
    with torch.no_grad():
        end_only.add_(20 * model.get_input_embeddings().weight[family.end_token])
    samples = family.sample_groups(model, batch, torch.full((2, 4, 40), 0.9))
    assert samples.tokens.shape[-1] == len(ENGLISH_PREFIX) + 1
    assert samples.finished.all() and family.text(samples.tokens, samples.keep) == [[""] * 4] * 2


def test_log_probabilities_of_all_continuations_sum_to_one():
    """Every token as a hypothesis of its own: K = V of them share one clip."""
    family, model, batch = grouped("english")
    every = torch.arange(model.config.vocab_size)
    prefix = batch.tokens[:1, :1, :2].expand(1, len(every), 2)
    tokens = torch.cat([prefix, every[None, :, None]], -1)
    keep = torch.zeros(1, len(every), 2, dtype=torch.bool)
    keep[..., 1] = True
    one = GroupBatch(input_features=batch.audio[:1], tokens=tokens, keep=keep, row_ids=torch.tensor([0]))
    for temperature in (1.0, 0.5):
        logps = family.score_groups(model, one, temperature=temperature).logps
        assert logps[keep].exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_half_precision_model_scores_and_samples_near_the_float32_one():
    family, model, batch = grouped("multilingual")
    expected = family.score_groups(model, batch).logps.detach()
    model.bfloat16()
    scores = family.score_groups(model, batch)
    assert scores.logps.dtype == scores.entropy.dtype == torch.float32
    assert scores.states.dtype == torch.bfloat16
    difference = (scores.logps - expected).abs()
    assert 0 < difference.max() < 0.5 and difference.mean() < 0.05
    scores.logps.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    samples = family.sample_groups(model, batch, torch.rand(3, 4, 6, dtype=torch.float64))
    again = family.score_groups(model, batch.replace(tokens=samples.tokens, keep=samples.keep)).logps
    assert (samples.logps - again).abs().max() < 0.2


def test_layerdrop_and_masking_of_audio_touch_no_score_in_training():
    """SpecAugment sits in the stock forward and is on by config; layerdrop would drop every other layer."""
    model, processor = tiny_whisper(
        "english", decoder_layerdrop=0.5, encoder_layerdrop=0.5, apply_spec_augment=True, mask_time_prob=0.9
    )
    family = speech_family(model, processor)
    batch = group_batch(family, tiny_clips(2), TEXTS)
    expected = family.score_groups(model, batch).logps
    model.train()
    seen = {tuple(family.score_groups(model, batch).logps.flatten().tolist()) for _ in range(8)}
    assert len(seen) > 1, "layerdrop does nothing here"
    disable_dropout(model)
    for _ in range(8):
        torch.testing.assert_close(family.score_groups(model, batch).logps, expected)


def test_features_are_those_of_the_processor_padded_to_the_window():
    for kind, bins, frames in (("english", 80, 100), ("multilingual", 80, 200), ("large_v3", 128, 100)):
        model, processor = tiny_whisper(kind)
        clips = tiny_clips(2, seconds=0.5)
        family = speech_family(model, processor)
        features = family.features(clips)["input_features"]
        assert features.shape == (2, bins, frames)
        assert family.max_seconds == frames / 100 and family.sampling_rate == 16_000
        for clip, made in zip(clips, features, strict=True):
            alone = processor(clip, sampling_rate=16_000, return_tensors="pt").input_features[0]
            assert torch.equal(made, alone)


def test_transcripts_equal_those_of_generate_and_the_processor():
    stock, processor = tiny_whisper("multilingual")
    model, _ = tiny_whisper("multilingual")
    # a trained Whisper says no timestamps where none are asked for; at one, its `generate` would begin a new segment
    first = stock.generation_config.no_timestamps_token_id + 1
    for one in (stock, model):
        one.generation_config.suppress_tokens = list(range(first, one.config.vocab_size))
    family = speech_family(model, processor)
    audio = family.features(tiny_clips(4))
    languages = ["de", "zh", "en", "hi"]
    tasks = ["transcribe", "translate", None, "translate"]
    found = family.transcribe(model, audio, languages=languages, tasks=tasks, max_new_tokens=9)
    expected = []
    for features, language, task in zip(audio["input_features"], languages, tasks, strict=True):
        ids = stock.generate(features[None], language=language, task=task or "transcribe", max_new_tokens=9)
        expected.append(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
    assert found == expected and len(set(found)) > 1


def test_language_and_task_change_the_transcript():
    model, processor = tiny_whisper("multilingual")
    family = speech_family(model, processor)
    audio = family.features(tiny_clips(3))

    def texts(**row) -> list[str]:
        return family.transcribe(model, audio, max_new_tokens=9, **{name: [value] * 3 for name, value in row.items()})

    german = texts(languages="de", tasks="transcribe")
    assert texts(languages="zh", tasks="transcribe") != german
    assert texts(languages="de", tasks="translate") != german
    family.set_defaults(language="german", task="transcribe")
    assert family.transcribe(model, audio, max_new_tokens=9) == german


def test_an_english_checkpoint_refuses_to_transcribe_german():
    model, processor = tiny_whisper("english")
    family = speech_family(model, processor)
    audio = family.features(tiny_clips(2))
    with pytest.raises(ValueError, match="only transcribes English"):
        family.transcribe(model, audio, languages=["en", "de"])
    assert family.transcribe(model, audio, languages=["en", None]) == family.transcribe(model, audio)


def test_processor_of_another_model_is_refused():
    model, _ = tiny_whisper("english")
    _, other = tiny_whisper("large_v3")
    with pytest.raises(ValueError, match=r"128 mel bins x 100 frames.*80 x 100.*own checkpoint"):
        speech_family(model, other)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_draws_are_as_frequent_as_their_probability(temperature):
    """Pearson's chi-square over 12 tokens, 40,000 draws: 11 degrees of freedom, 31.3 is the 99.9 % point."""
    logits = torch.randn(12) / temperature
    count = 40_000
    token, logps = draw(logits.expand(1, count, 12), torch.rand(1, count, dtype=torch.float64))
    probabilities = logits.softmax(-1)
    torch.testing.assert_close(logps.exp(), probabilities[token], rtol=1e-5, atol=1e-7)
    expected = probabilities * count
    assert ((torch.bincount(token[0], minlength=12) - expected).square() / expected).sum() < 31.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_number_draws_a_token_of_probability_zero(dtype):
    """Impossible tokens at the front, in the middle and at the back; numbers at both ends of the interval."""
    possible = [2, 5, 6]
    logits = torch.full((1, 1, 9), -torch.inf, dtype=dtype)
    logits[..., possible] = torch.tensor([0.3, -1.0, 0.7], dtype=dtype)
    below_one = [1 - 2**-53, 1 - 2**-24, 1 - 1e-9, 1.0]
    uniform = torch.tensor([[0.0, 1e-300, *below_one, *np.linspace(0, 1, 500, endpoint=False)]], dtype=torch.float64)
    token, logps = draw(logits.expand(1, uniform.shape[1], 9), uniform)
    assert set(token.flatten().tolist()) == set(possible)
    assert torch.isfinite(logps).all()
    assert token[0, :2].tolist() == [2, 2] and token[0, 2:6].tolist() == [6, 6, 6, 6]


def test_draw_follows_the_cumulative_distribution_by_hand():
    """Probabilities 1/2, 1/4, 1/4: [0, 0.5) draws 0, [0.5, 0.75) draws 1, the rest draws 2."""
    logits = torch.log(torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    uniform = torch.tensor([[0.0, 0.49, 0.51, 0.74, 0.76, 0.99]], dtype=torch.float64)
    token, _ = draw(logits.expand(1, 6, 3), uniform)
    assert token[0].tolist() == [0, 0, 1, 1, 2, 2]


def test_rare_tokens_behind_a_probable_one_are_drawn_at_their_place():
    """100,000 tokens of 1e-8 behind one of 0.999: float32 has a number for one in six of their boundaries."""
    probabilities = torch.tensor([0.999, *[1e-8] * 100_000], dtype=torch.float64)
    places = torch.tensor([1, 10, 5_003, 50_001, 99_990])
    uniform = 0.999 + (places.double() - 0.5) * 1e-8
    token, _ = draw(probabilities.log().expand(1, 5, -1), uniform[None])
    assert token[0].tolist() == places.tolist()


@pytest.mark.real_speech
def test_real_whisper_scores_real_speech_as_stock_whisper_does(test_data):
    folder = test_data / "models" / "whisper-tiny-regrown"
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    stock = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = WhisperProcessor.from_pretrained(folder)
    family = speech_family(model, processor)
    data = test_data / "data" / "librispeech-mini"
    lines = (data / "validation.jsonl").read_text().splitlines()
    row = next(row for row in map(json.loads, lines) if row["duration"] < 6)
    clip = load_audio(str(data / row["audio"]), family.sampling_rate)
    texts = [row["text"], row["text"].split(" ", 1)[1]]
    batch = group_batch(family, [clip], [texts])
    with torch.no_grad():
        scores = family.score_groups(model, batch)
        for k in range(2):
            length = int(batch.keep[0, k].nonzero().max()) + 2
            ids = batch.tokens[:, k, :length]
            logits = stock(input_features=batch.audio, decoder_input_ids=ids[:, :-1]).logits
            expected = logits.log_softmax(-1)[0].gather(-1, ids[0, 1:, None])[1:, 0]
            torch.testing.assert_close(scores.logps[0, k, 1 : length - 1], expected, rtol=1e-4, atol=1e-4)
        perturb(model.get_encoder())
        assert (family.score_groups(model, batch).logps - scores.logps).abs().max() > 0.1
