"""The CTC families against stock forwards, and their hypotheses against all paths counted one by one."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from audiorl.models import disable_dropout, speech_family
from audiorl.models.ctc_search import best_prefixes, collapse, draw_paths
from audiorl.testing.case import group_batch
from tests import oracles_ctc
from tests.tiny_ctc import KINDS, letters_tokenizer, tiny_ctc
from tests.tiny_models import tiny_clips

TEXT = "THE FOX"


def ready(kind: str = "wav2vec2"):
    model, processor = tiny_ctc(kind)
    family = speech_family(model, processor)
    disable_dropout(model)
    return family, model


def stock_logits(model, processor, clip):
    """Of one clip by itself, as a model's card shows it."""
    return model(**processor.feature_extractor([clip], sampling_rate=16_000, return_tensors="pt")).logits[0]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_stock_ctc_losses_of_single_clips_whatever_lies_beside_them(kind):
    """Group norm runs over time: on a padded batch, stock logits of the short clips are off by far more than this."""
    family, model = ready(kind)
    clips = tiny_clips(4)
    texts = [["the fox", "a dog", ""], ["dogs", "so", "jumps"], ["fox", "o", "lazy"], ["the the", "aa", "do"]]
    texts = [[family.ctc_text.case(text) for text in group] for group in texts]
    batch = group_batch(family, clips, texts)
    scores = family.score_groups(model, batch, temperature=0.8)
    for b, clip in enumerate(clips):
        # Parakeet's last mel frame is padding, which may make one more frame
        logits = stock_logits(model, family.processor, clip)[: family.frames_in(len(clip))]
        frame_logps = (logits / 0.8).log_softmax(-1)
        for k, text in enumerate(texts[b]):
            ids = torch.tensor(family.ctc_text.ids(text), dtype=torch.long)
            loss = nn.functional.ctc_loss(
                frame_logps[:, None],
                ids[None],
                torch.tensor([len(frame_logps)]),
                torch.tensor([len(ids)]),
                blank=family.end_token,
                reduction="none",
            )
            assert scores.logps[b, k].item() == pytest.approx(-loss.item(), rel=1e-4)
        entropy = -(frame_logps.exp() * frame_logps).sum(-1).mean().item()
        assert scores.entropy[b, 0].item() == pytest.approx(entropy, rel=1e-4)
        assert scores.mean_logits[b, 0].item() == pytest.approx(logits.mean().item() / 0.8, rel=1e-3, abs=1e-4)


def test_the_best_path_is_what_is_top():
    family, model = ready()
    clips = tiny_clips(3)
    said = family.transcribe(model, family.features(clips))
    batch = group_batch(family, clips, [[text, f"{text} X", "X"] for text in said])
    assert family.score_groups(model, batch).is_top1[..., 0].tolist() == [[True, False, False]] * 3


def tiny_frames(seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.standard_normal((5, 4))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_drawn_and_collapsed_paths_are_as_frequent_as_their_likelihood():
    frame_logps = torch.from_numpy(np.stack([tiny_frames(), tiny_frames(1)]))
    frames, draws = torch.tensor([5, 3]), 20_000
    noise = torch.rand(2, draws, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    symbols, counts = collapse(draw_paths(frame_logps, noise), frames, 2)
    for b in range(2):
        says = oracles_ctc.distribution(frame_logps[b, : frames[b]].tolist(), 2)
        drawn = Counter(tuple(ids[:n].tolist()) for ids, n in zip(symbols[b], counts[b].tolist(), strict=True))
        assert set(drawn) <= set(says)
        for ids, p in says.items():
            assert abs(drawn[ids] / draws - p) < 5 * math.sqrt(p * (1 - p) / draws) + 1e-4


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_most_probable_transcripts_in_order(seed):
    frames = tiny_frames(seed)
    says = oracles_ctc.distribution(frames.tolist(), 2)
    ranked = sorted(says, key=lambda ids: says[ids], reverse=True)
    assert best_prefixes(frames, 300, 2, 5) == ranked
    assert best_prefixes(frames, 300, 2, 2) == [ids for ids in ranked if len(ids) <= 2]


def every_symbol_tried(frames: np.ndarray, width: int, blank: int, longest: int):
    """The search without leaving symbols aside."""
    beams = {(): [0.0, -math.inf]}
    for logps in frames:
        found: dict = {}
        for prefix, (in_blank, in_symbol) in beams.items():
            either = np.logaddexp(in_blank, in_symbol)
            moves = [(prefix, 0, either + logps[blank])]
            if prefix:
                moves.append((prefix, 1, in_symbol + logps[prefix[-1]]))
            for v in range(len(logps)):
                if v != blank and len(prefix) < longest:
                    begun = in_blank if prefix and prefix[-1] == v else either
                    moves.append(((*prefix, v), 1, begun + logps[v]))
            for ids, place, value in moves:
                entry = found.setdefault(ids, [-math.inf, -math.inf])
                entry[place] = np.logaddexp(entry[place], value)
        ranked = sorted(found, key=lambda ids: np.logaddexp(*found[ids]), reverse=True)
        beams = {ids: found[ids] for ids in ranked[:width]}
    return list(beams)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_symbols_that_are_left_aside_cannot_change_what_is_found(width):
    generator = np.random.default_rng(width)
    logits = 2 * generator.standard_normal((12, 20))
    frames = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert best_prefixes(frames, width, 4, 9) == every_symbol_tried(frames, width, 4, 9)


def test_beams_are_ranked_by_their_likelihood_and_the_length_penalty():
    family, model = ready()
    batch = group_batch(family, tiny_clips(2), [[TEXT]] * 2)
    plain = family.beam_groups(model, batch, 6, max_tokens=12, length_penalty=0.0)
    longer = family.beam_groups(model, batch, 6, max_tokens=12, length_penalty=2.0)
    assert (longer.keep.sum(-1).float().mean(-1) >= plain.keep.sum(-1).float().mean(-1)).all()
    torch.testing.assert_close(longer.scores, longer.logps.sum(-1) / longer.keep.sum(-1) ** 2.0)
    assert plain.scores.diff(dim=1).max() <= 0 and longer.scores.diff(dim=1).max() <= 0
    said = family.transcribe(model, family.features(tiny_clips(1)), num_beams=6, max_new_tokens=11)
    assert family.text(plain.tokens, plain.keep)[0][0] == said[0]


def test_a_clip_with_too_few_frames_for_all_beams_leaves_places_empty():
    family, model = ready()
    batch = group_batch(family, [np.zeros(700, np.float32)], [["A"]])  # one frame: nothing, or one of 31 symbols
    found = family.beam_groups(model, batch, 40, max_tokens=3)
    assert found.keep.any(-1).sum() == 32 and torch.isneginf(found.scores[0, 32:]).all()
    assert not found.logps[0, 32:].any()


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda f, m, b: f.beam_groups(m, b, 4, max_tokens=5, num_beam_groups=2, diversity_penalty=1.0), "no groups"),
        (lambda f, m, b: f.beam_groups(m, b, 4, max_tokens=5, early_stopping=True), "early_stopping"),
        (lambda f, m, b: f.transcribe(m, f.features(tiny_clips(1)), temperature=0.5), "no temperature"),
        (lambda f, m, b: f.transcribe(m, f.features(tiny_clips(1)), tasks=["translate"]), "only task is 'transcribe'"),
        (lambda f, m, b: f.tokenize("A", prompt="B"), "no place for a prompt"),
        (lambda f, m, b: f.set_defaults(language="en"), "no languages"),
        (lambda f, m, b: f.compile_backbone(), "torch_compile"),
    ],
)
def test_what_ctc_has_not_is_refused(call, problem):
    family, model = ready()
    with pytest.raises(ValueError, match=problem):
        call(family, model, group_batch(family, tiny_clips(1), [["A"]]))


# ---- the text of wav2vec2-base-960h ----


def test_base_960h_writes_capitals_and_bars_from_any_case():
    family, _ = ready()
    ids, first = family.tokenize("  hello   World's ", language="en", task="transcribe")
    letters = [family.processor.tokenizer.convert_ids_to_tokens(i) for i in ids]
    assert letters == ["<pad>", *"HELLO|WORLD'S", "<pad>"] and first == 1
    batch = group_batch(family, tiny_clips(1), [["hello", "helo"]])
    assert family.text(batch.tokens, batch.keep) == [["HELLO", "HELO"]]


def test_characters_that_the_vocabulary_lacks_are_named():
    family, _ = ready()
    with pytest.raises(ValueError, match=r"no symbol for ',', '1', '\.'\. Spell it out"):
        family.tokenize("no, 1 way.")
    with pytest.raises(ValueError, match="no symbol for '<', '>'"):
        family.tokenize("A <pad> B")
    parakeet, _ = ready("parakeet")
    with pytest.raises(ValueError, match="no symbol for '!'"):
        parakeet.tokenize("oh no!")


def test_a_tokenizer_of_another_blank_is_refused():
    model, processor = tiny_ctc()
    model.config.pad_token_id = 5
    with pytest.raises(ValueError, match=r"blank is symbol 5 .*, the tokenizer's is 0 \('<pad>'\)"):
        speech_family(model, processor)


def test_a_vocabulary_of_both_cases_is_left_alone():
    from audiorl.models.ctc import CTCText

    text = CTCText(letters_tokenizer(("<pad>", "<s>", "</s>", "<unk>", "|", *"abAB")), 0, 9)
    assert text.decode(text.ids("aB bA")) == "aB bA"


# ---- lengths ----


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_seconds_are_those_at_which_a_text_gets_a_probability(kind):
    family, model = ready(kind)
    text = family.ctc_text.case("see")
    samples = round(family.least_seconds(text) * family.sampling_rate)
    assert family.frames_in(samples) > family.frames_in(samples - 1)
    clip = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    enough = family.score_groups(model, group_batch(family, [clip], [[text]])).logps
    less = family.score_groups(model, group_batch(family, [clip[:-1]], [[text]])).logps
    assert torch.isfinite(enough).all() and torch.isneginf(less).all()
    assert family.least_seconds("") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_clip_is_that_of_the_first_frame(kind):
    family, model = ready(kind)
    samples = round(family.min_seconds * family.sampling_rate)
    first = getattr(model.config, "squeeze_factor", 1)
    assert (family.frames_in(samples - 1), family.frames_in(samples)) == (first - 1, first)
    shortest = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    assert len(family.transcribe(model, family.features([shortest, *tiny_clips(1)]))) == 2


# ---- nothing is dropped ----


@pytest.mark.parametrize("kind", KINDS)
def test_training_mode_changes_nothing_and_the_saved_config_keeps_its_values(kind):
    """Layerdrop and SpecAugment are read from the config at each pass; batch norm would take the batch's statistics."""
    family, model = ready(kind)
    batch = group_batch(family, tiny_clips(2), [["so", "do"]] * 2)
    quiet = family.score_groups(model, batch).logps
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    for _ in range(3):
        torch.testing.assert_close(family.score_groups(model, batch).logps, quiet, rtol=1e-6, atol=1e-6)
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name]), name
    if hasattr(model.config, "layerdrop"):
        assert model.config.layerdrop == 0.3 and model.config.apply_spec_augment and model.config.mask_time_prob == 0.3
    assert all(p.grad is None for p in model.parameters())
    family.score_groups(model, batch).logps.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad), "DDP would wait for these"


def test_frozen_convolutions_keep_no_graph_in_training():
    family, model = ready()
    model.train()
    batch = group_batch(family, tiny_clips(2), [["so", "do"]] * 2)
    family.freeze_encoder(model)
    assert not family.score_groups(model, batch).states.requires_grad
    model.base_model.encoder.requires_grad_(True)
    heard = []
    model.base_model.feature_extractor.register_forward_hook(lambda module, args, out: heard.append(out.requires_grad))
    assert family.score_groups(model, batch).states.requires_grad and heard == [False]
    assert model.base_model.feature_extractor._requires_grad


@pytest.mark.parametrize("name", ["add_adapter", "conv_pos_batch_norm"])
def test_layers_that_move_with_padding_are_refused(name):
    model, processor = tiny_ctc()
    setattr(model.config, name, True)
    with pytest.raises(ValueError, match=rf"\({name}\).*depend on the clips beside it"):
        speech_family(model, processor)


@pytest.mark.parametrize(("kind", "mark"), [("wav2vec2", "|"), ("parakeet", "\u2581")])
def test_what_a_vocabulary_writes_between_words_is_no_sign_of_a_text(kind, mark):
    """It would be learnt as a blank, which the text does not have."""
    family = speech_family(*tiny_ctc(kind))
    assert family.tokenize("the dog").ids
    for text in (mark, f"the{mark}dog", f"the dog{mark}"):
        with pytest.raises(ValueError, match=f"no symbol for .*{re.escape(mark)}"):
            family.tokenize(text)
