"""Classifiers against stock forwards; batches against clips alone; labels in and out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from audiorl.batch import GroupBatch
from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, check_rows, speech_rows
from audiorl.models import disable_dropout, speech_family
from audiorl.models.classifier import label_scores
from audiorl.models.padding import read_waveforms, shortest_clip, waveform_features
from audiorl.testing.case import gradients, group_batch
from tests.oracles_labels import label_statistics
from tests.tiny_classifiers import DIGITS, KINDS, WAVLM_MASKS, tiny_classifier
from tests.tiny_models import SAMPLING_RATE, tiny_clips


def rows(*texts: str, seconds: float = 0.5) -> list[dict]:
    clips = tiny_clips(len(texts), seconds)
    return [
        {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": text}
        for clip, text in zip(clips, texts, strict=True)
    ]


def stock_logits(model: nn.Module, extractor, clip: np.ndarray) -> torch.Tensor:
    """What a user's script computes for one clip, by the checkpoint's own extractor: nothing is padded."""
    heard = extractor(clip, sampling_rate=SAMPLING_RATE, return_tensors="pt")
    with torch.no_grad():
        return model(**{name: values.to(model.dtype) for name, values in heard.items()}).logits[0]


@pytest.mark.filterwarnings(WAVLM_MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_scores_each_clip_as_the_stock_model_scores_it_alone(kind):
    model, extractor = tiny_classifier(kind)
    clips = tiny_clips(4)
    expected = [stock_logits(model, extractor, clip).log_softmax(-1) for clip in clips]
    family = speech_family(model, extractor)
    batch = group_batch(family, clips, [list(DIGITS)] * len(clips))
    logps = family.score_groups(model, batch).logps[..., 0]
    torch.testing.assert_close(logps, torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert (logps[1:] - logps[:1]).abs().amax() > 0.1, "the clips do not differ"


@pytest.mark.parametrize("kind", ["wav2vec2-group", "wav2vec2-weighted"])
def test_group_norm_without_our_batches_moves_with_padding(kind):
    """Otherwise there would be nothing to mend: the stock forward of a padded batch, with a mask and without."""
    model, extractor = tiny_classifier(kind)
    clips = tiny_clips(2)
    alone = stock_logits(model, extractor, clips[1])
    padded = waveform_features(extractor, clips)
    with torch.no_grad():
        for mask in ({}, {"attention_mask": padded["audio_mask"]}):
            assert (model(padded["input_values"], **mask).logits[1] - alone).abs().max() > 1e-3


def test_gradients_of_a_group_norm_batch_are_those_of_its_clips_alone():
    model, extractor = tiny_classifier("wav2vec2-group")
    model = model.double()
    family = speech_family(model, extractor)
    disable_dropout(model)
    clips = [*tiny_clips(3), tiny_clips(1)[0][::-1].copy()]  # two of one length
    model.train()
    together = gradients(model, family.encode(model, group_batch(family, clips, [["one"]] * 4)).sin().sum())
    apart = gradients(
        model, sum(family.encode(model, group_batch(family, [clip], [["one"]])).sin().sum() for clip in clips)
    )
    assert together.keys() == apart.keys()
    for name, gradient in apart.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-8, atol=1e-10)


def test_reading_waveforms_leaves_the_model_as_it_was():
    model, extractor = tiny_classifier("wav2vec2-group")
    family = speech_family(model, extractor)
    batch = group_batch(family, tiny_clips(2), [["one"]] * 2)
    read_waveforms(model.wav2vec2, batch)
    assert "forward" not in vars(model.wav2vec2.feature_extractor)
    hooked = model.wav2vec2.feature_extractor.forward
    model.wav2vec2.feature_extractor.forward = hooked  # as accelerate's hooks do
    read_waveforms(model.wav2vec2, batch)
    assert model.wav2vec2.feature_extractor.forward is hooked


def test_loudness_is_normalised_by_each_clips_own_samples():
    _, extractor = tiny_classifier("wav2vec2-group")
    clips = tiny_clips(2)
    together = waveform_features(extractor, clips)
    for clip, values, mask in zip(clips, together["input_values"], together["audio_mask"], strict=True):
        own = waveform_features(extractor, [clip])["input_values"][0]
        torch.testing.assert_close(values[mask.bool()], own, rtol=1e-5, atol=1e-5)
        assert mask.sum() == len(clip) and not values[~mask.bool()].any()


def test_scores_of_labels_equal_loops_in_float64():
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(2, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[0, 3, 3], [4, 1, 2]])
    tokens = torch.stack([torch.full_like(labels, 5), labels], -1)
    keep = torch.tensor([[True, True, False], [True, True, True]])[..., None]
    batch = GroupBatch(input_values=torch.zeros(2, 8), tokens=tokens, keep=keep, row_ids=torch.arange(2))
    scores = label_scores(logits, batch, torch.zeros(2), 0.7)
    for b in range(2):
        for k in range(3):
            expected = label_statistics(logits[b].tolist(), int(labels[b, k]), 0.7) if keep[b, k] else (0, 0, 0, False)
            found = [field[b, k, 0].item() for field in (scores.logps, scores.entropy, scores.mean_logits)]
            assert found == pytest.approx(expected[:3], abs=1e-12)
            assert bool(scores.is_top1[b, k, 0]) == expected[3]
    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: label_scores(z, batch, torch.zeros(2), 0.7)[:2], leaf)


def test_an_unknown_label_is_a_bad_row_with_the_nearest_one():
    family = speech_family(*tiny_classifier("ast"))
    known = speech_rows(rows("seven", "sevn", "Seven", "ten thousand"))
    faults = check_rows(
        known,
        text_columns=["text"],
        tokenize=family.tokenize_row,
        max_seconds=family.max_seconds,
        distinct=False,
        min_seconds=family.min_seconds,
    )
    assert [fault.row_id for fault in faults] == [1, 2, 3]
    assert faults[0].problem == "text: unknown label 'sevn'; did you mean 'seven'?"
    assert faults[0].remedy.startswith("Use one of the checkpoint's 10 (config.id2label: zero, one, two, three")
    assert faults[1].problem.endswith("did you mean 'seven'?") and "did you mean" not in faults[2].problem
    with pytest.raises(BadRowsError, match="unknown label 'sevn'"):
        SpeechCollator(family, text_columns=["text"])([known[1]])


def test_what_a_row_says_of_its_clip_is_no_matter_and_a_prompt_is_refused():
    family = speech_family(*tiny_classifier("ast"))
    assert family.tokenize_row("two", {"language": "fr", "task": "classification"}) == ([10, 2], 1)
    with pytest.raises(ValueError, match=r"no language, task or prompt\. Leave"):
        family.tokenize_row("two", {"prompt": "loud"})
    with pytest.raises(ValueError, match="no language, task or prompt"):
        family.tokenize("two", language="fr")


@pytest.mark.parametrize(("kind", "milliseconds"), [("wav2vec2-group", 1000 * 425 / 16000), ("ast", 25.0)])
def test_a_clip_shorter_than_a_frame_is_a_bad_row(kind, milliseconds):
    model, extractor = tiny_classifier(kind)
    family = speech_family(model, extractor)
    assert 1000 * family.min_seconds == pytest.approx(milliseconds)
    short, enough = round(family.min_seconds * SAMPLING_RATE) - 1, round(family.min_seconds * SAMPLING_RATE)
    given = [
        {"audio": {"array": np.ones(n, np.float32), "sampling_rate": SAMPLING_RATE}, "text": "one"}
        for n in (short, enough)
    ]
    collate = SpeechCollator(family, text_columns=["text"])
    first, second = speech_rows(given)
    with pytest.raises(BadRowsError, match=rf"the clip is .* ms long, the model needs {milliseconds:g} ms"):
        collate([first])
    assert torch.isfinite(family.score_groups(model, collate([second])).logps).all()


def test_the_shortest_clip_makes_one_frame():
    model, extractor = tiny_classifier("wav2vec2-group")
    samples = shortest_clip(model.config)
    one = waveform_features(extractor, [tiny_clips(1)[0][:samples]])["input_values"]
    assert model.wav2vec2.feature_extractor(one).shape[-1] == 1
    with pytest.raises(RuntimeError):
        model.wav2vec2.feature_extractor(one[:, 1:])


def test_the_window_of_a_spectrogram_is_whole_and_its_own_part_is_found():
    family = speech_family(*tiny_classifier("ast"))
    longest = np.ones(round(family.max_seconds * SAMPLING_RATE), np.float32) * 0.1
    longest[::7] = -0.1
    features = family.features([longest, longest[:8000]])
    assert features["input_features"].shape == (2, 32, 100)
    whole, half = family.spectrograms(features, [len(longest), 8000])
    assert (whole.shape[1], half.shape[1]) == (100, 50)
    half.zero_()
    assert not features["input_features"][1, :, :50].any() and features["input_features"][0].any()


def test_checkpoints_that_cannot_be_told_apart_are_refused():
    model, extractor = tiny_classifier("ast")
    model.config.id2label = dict.fromkeys(range(10), "same")
    with pytest.raises(ValueError, match=r"needs two labels or more, all different.*id2label"):
        speech_family(model, extractor)
    model, extractor = tiny_classifier("ast")
    extractor.max_length = 50
    with pytest.raises(ValueError, match=r"32 mel bins x 50 frames, the model hears 32 x 100"):
        speech_family(model, extractor)


def test_the_best_labels_are_all_labels_at_most():
    model, extractor = tiny_classifier("ast")
    family = speech_family(model, extractor)
    batch = group_batch(family, tiny_clips(2), [["one"]] * 2)
    found = family.beam_groups(model, batch, 10, max_tokens=4)
    assert all(sorted(texts) == sorted(DIGITS) for texts in family.text(found.tokens, found.keep))
    torch.testing.assert_close(found.scores.exp().sum(-1), torch.ones(2))
    with pytest.raises(ValueError, match=r"has 10 labels, in one group; got num_beams=11.*Lower num_beams"):
        family.beam_groups(model, batch, 11, max_tokens=4)


def test_a_frozen_encoder_asks_for_no_gradient_in_training():
    """Wav2Vec2 marks its input in training, and would hold the graph of an encoder of which nothing trains."""
    model, extractor = tiny_classifier("wav2vec2-group")
    family = speech_family(model, extractor)
    family.freeze_encoder(model)
    model.train()
    scores = family.score_groups(model, group_batch(family, tiny_clips(2), [["one", "two"]] * 2))
    assert not scores.states.requires_grad and scores.logps.requires_grad


@pytest.mark.parametrize("kind", ["wav2vec2-group", "hubert-layer", "ast"])
def test_every_trained_parameter_has_a_gradient(kind):
    """DDP would wait for one without."""
    model, extractor = tiny_classifier(kind)
    family = speech_family(model, extractor)
    disable_dropout(model)
    model.train()
    found = gradients(model, family.score_groups(model, group_batch(family, tiny_clips(2), [["one"]] * 2)).logps.sum())
    assert set(found) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
