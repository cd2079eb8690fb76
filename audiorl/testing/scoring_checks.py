"""Scoring: K hypotheses of a clip at once give what one call for each of them gives."""

from __future__ import annotations

import pickle
import tempfile
from functools import partial
from typing import Any

import torch

from audiorl.audio import load_row_audio
from audiorl.batch import GroupBatch
from audiorl.datasets import speech_rows
from audiorl.models import EncoderCache
from audiorl.testing.case import (
    FamilyCase,
    assert_encoded_once,
    assert_same_gradients,
    audio_tensors,
    encoded_rows,
    get_ready,
    gradients,
    group_batch,
    loss_weights,
    refusal,
    single_batches,
    weighted_loss,
)


def grouped_scoring_equals_one_call_for_each_hypothesis(case: FamilyCase) -> None:
    compare_with_single_calls(case, torch.float32, values=1e-5, every_gradient=1e-4)


def grouped_scoring_equals_one_call_for_each_hypothesis_in_float64(case: FamilyCase) -> None:
    if case.float64:
        compare_with_single_calls(case, torch.float64, values=1e-11, every_gradient=1e-9)


def compare_with_single_calls(case: FamilyCase, dtype: torch.dtype, values: float, every_gradient: float) -> None:
    family, model, batch = get_ready(case, dtype)
    weights = loss_weights(batch)
    scores = family.score_groups(model, batch)
    assert scores.logps.dtype == dtype
    total = torch.zeros((), dtype=dtype)
    for b, k, single in single_batches(case, family):
        alone = family.score_groups(model, single)
        kept = scores.keep[b, k]
        for field in ("logps", "entropy", "mean_logits"):
            together = getattr(scores, field)[b, k][kept]
            torch.testing.assert_close(together, getattr(alone, field)[alone.keep], rtol=values, atol=values)
        assert torch.equal(scores.is_top1[b, k][kept], alone.is_top1[alone.keep])
        total = total + weighted_loss(alone.logps, weights[b, k])
    expected = gradients(model, total)
    found = gradients(model, weighted_loss(family.score_groups(model, batch).logps, weights))
    assert_same_gradients(found, expected, every_gradient)


def the_scores_depend_on_audio_and_text(case: FamilyCase) -> None:
    """Otherwise the other checks would compare nothing with nothing."""
    family, model, batch = get_ready(case)
    logps = family.score_groups(model, batch).logps.sum(-1)
    audio = {name: batch.tensors[name].roll(1, 0) for name in (batch.audio_key, "audio_mask") if name in batch}
    assert (family.score_groups(model, batch.replace(**audio)).logps.sum(-1) - logps).abs().min() > 1e-3
    hypotheses = logps[0].unique()
    assert len(hypotheses) == batch.num_hypotheses and torch.isfinite(hypotheses).all()


def what_lies_behind_the_end_changes_nothing(case: FamilyCase) -> None:
    family, model, batch = get_ready(case)
    clips, hypotheses, length = batch.keep.shape
    more = torch.randint(1, int(batch.tokens.max()), (clips, hypotheses, length + 4))
    tokens, keep = more.clone(), torch.zeros_like(more[..., 1:], dtype=torch.bool)
    ends = length - batch.keep.int().flip(-1).argmax(-1)  # (B, K) position of the end token
    for b in range(clips):
        for k in range(hypotheses):
            end = int(ends[b, k])
            tokens[b, k, : end + 1] = batch.tokens[b, k, : end + 1]
            keep[b, k, :end] = batch.keep[b, k, :end]
    plain = family.score_groups(model, batch)
    padded = family.score_groups(model, batch.replace(tokens=tokens, keep=keep))
    for field in ("logps", "entropy", "mean_logits"):
        found, expected = getattr(padded, field)[padded.keep], getattr(plain, field)[plain.keep]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def permuted_hypotheses_have_permuted_scores(case: FamilyCase) -> None:
    family, model, batch = get_ready(case)
    order = list(reversed(range(batch.num_hypotheses)))
    permuted = batch.replace(tokens=batch.tokens[:, order], keep=batch.keep[:, order])
    found = family.score_groups(model, permuted).logps
    torch.testing.assert_close(found, family.score_groups(model, batch).logps[:, order], rtol=1e-5, atol=1e-5)


def hypotheses_that_do_not_count_change_no_others(case: FamilyCase) -> None:
    """Masked ones, and places that were filled up and have no prefix, as the first of a clip too."""
    family, model, batch = get_ready(case)
    expected = family.score_groups(model, batch)
    for dropped in ([0], list(range(batch.num_hypotheses - 1))):
        keep, filled = batch.keep.clone(), batch.tokens.clone()
        keep[:, dropped], filled[:, dropped] = False, family.end_token
        counts = keep if expected.keep.shape == keep.shape else keep.any(-1, keepdim=True)
        for tokens in (batch.tokens, filled):
            found = family.score_groups(model, batch.replace(tokens=tokens, keep=keep))
            for field in ("logps", "entropy", "mean_logits"):
                values = getattr(expected, field).masked_fill(~counts, 0.0)
                torch.testing.assert_close(getattr(found, field), values, rtol=1e-5, atol=1e-5)


def each_clip_is_encoded_once(case: FamilyCase) -> None:
    family, model, batch = get_ready(case)
    with encoded_rows(case, family, model) as seen:
        family.score_groups(model, batch).logps.sum().backward()
    assert_encoded_once(case, seen)


def given_states_nothing_is_encoded(case: FamilyCase) -> None:
    family, model, batch = get_ready(case)
    first = family.score_groups(model, batch)
    states = family.encode(model, batch)
    noise = torch.rand(len(case.clips), 3, family.noise_length(batch, 4))
    sampled = family.sample_groups(model, batch, noise)
    with encoded_rows(case, family, model) as seen:
        again = family.score_groups(model, batch, first.states)
        encoded_apart = family.score_groups(model, batch, states)
        sampled_again = family.sample_groups(model, batch, noise, states)
    assert seen == {"family": [], "module": []}
    assert torch.equal(again.logps, first.logps) and torch.equal(encoded_apart.logps, first.logps)
    assert torch.equal(sampled_again.tokens, sampled.tokens)


def kept_states_replace_the_audio(case: FamilyCase) -> None:
    """What a cache keeps of each clip, heard alone, gives the scores, samples and transcripts of the audio itself."""
    family, model, batch = get_ready(case)
    model.eval()
    if not family.decodes_states:
        assert "decodes_states" in refusal(lambda: EncoderCache("states", family, model))
        return
    noise = torch.rand(len(case.clips), 3, family.noise_length(batch, 4))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        rows = speech_rows([{"audio": {"array": clip, "sampling_rate": family.sampling_rate}} for clip in case.clips])
        cache = EncoderCache(folder, family, model, dtype="model")
        load = partial(load_row_audio, sampling_rate=family.sampling_rate)
        assert cache.fill(model, family, rows, load, progress=False) == len(case.clips)
        found = [cache.find(row) for row in rows]
        audio = cache.join([kept for kept in found if kept is not None])
        texts = {name: batch.tensors[name] for name in ("tokens", "keep", "row_ids")}
        with encoded_rows(case, family, model) as seen:
            kept = GroupBatch({**audio, **texts})
            scores = family.score_groups(model, kept)
            samples = family.sample_groups(model, kept, noise)
            said = family.transcribe(model, audio, max_new_tokens=8, **_asked(case))
        assert seen == {"family": [], "module": []}
        assert torch.allclose(scores.logps, family.score_groups(model, batch).logps, atol=1e-4)
        assert torch.equal(samples.tokens, family.sample_groups(model, batch, noise).tokens)
        assert said == family.transcribe(model, audio_tensors(batch), max_new_tokens=8, **_asked(case))


def _asked(case: FamilyCase) -> dict[str, list[Any]]:
    """Languages and tasks of the clips, where the case names some."""
    rows = [case.row(i) for i in range(len(case.clips))]
    named = {"languages": [row.get("language") for row in rows], "tasks": [row.get("task") for row in rows]}
    return named if any("language" in row for row in rows) else {}


def only_kept_positions_have_values(case: FamilyCase) -> None:
    family, model, batch = get_ready(case)
    scores = family.score_groups(model, batch)
    if scores.keep.shape[-1] == 1:
        assert torch.equal(scores.keep, batch.keep.any(-1, keepdim=True))
    else:
        assert torch.equal(scores.keep, batch.keep)
    for values in (scores.logps, scores.entropy, scores.mean_logits, scores.is_top1):
        assert values.shape == scores.keep.shape and not values[~scores.keep].any()
    assert (scores.logps[scores.keep] < 0).all()
    assert scores.logps.requires_grad and not scores.mean_logits.requires_grad


def without_prompt(case: FamilyCase, clip: int) -> dict[str, Any]:
    return {**case.row(clip), "prompt": None, "history": None, "hotwords": None}


def the_end_counts_and_the_start_stands_once(case: FamilyCase) -> None:
    if case.labels:
        return
    family, _, batch = get_ready(case)
    for b, group in enumerate(case.texts):
        for k, text in enumerate(group):
            ids, first_kept = family.tokenize_row(text, case.row(b))
            assert ids[-1] == family.end_token and 1 <= first_kept < len(ids)
            empty = family.tokenize_row("", case.row(b) if case.prompted else without_prompt(case, b))
            start = empty.ids[: empty.first_kept]
            assert family.end_token not in ids[first_kept:-1]
            assert case.prompted or not set(start) & set(ids[first_kept:-1])
            assert ids[first_kept - len(start) : first_kept] == start
            assert batch.tokens[b, k, 1:][batch.keep[b, k]].tolist() == ids[first_kept:]


def what_was_said_before_is_read_or_refused(case: FamilyCase) -> None:
    """It belongs to the prefix, and changes no answer's tokens; or the message says that there is no place."""
    if case.labels:
        return
    family, _, _ = get_ready(case)
    row, text = without_prompt(case, 0), case.texts[0][0]
    plain = family.tokenize_row(text, row)
    told = {**row, "history": case.texts[-1][0]}
    if said := refusal(lambda: family.tokenize_row(text, told)):
        assert "history" in said or "prompt" in said
        return
    found = family.tokenize_row(text, told)
    assert found.ids[found.first_kept :] == plain.ids[plain.first_kept :]
    assert found.ids[: found.first_kept] != plain.ids[: plain.first_kept]
    assert family.tokenize_row(text, {**told, "history": " "}) == plain


def an_empty_hypothesis_is_scored_by_its_end(case: FamilyCase) -> None:
    if case.labels:
        return
    family, model, batch = get_ready(case)
    empty = torch.tensor([family.tokenize_row("", case.row(0)).ids])
    keep = torch.zeros((1, 1, empty.shape[1] - 1), dtype=torch.bool)
    keep[..., -1] = True
    audio = {name: tensor[:1] for name, tensor in audio_tensors(batch).items()}
    scores = family.score_groups(model, GroupBatch(audio, tokens=empty[None], keep=keep, row_ids=torch.tensor([0])))
    assert scores.keep.sum() == 1 and (scores.logps.sum() < 0)


def a_label_is_one_token_and_an_unknown_one_is_refused(case: FamilyCase) -> None:
    if not case.labels:
        return
    family, model, batch = get_ready(case)
    assert batch.keep.shape == (len(case.clips), len(case.texts[0]), 1) and batch.keep.all()
    assert family.score_groups(model, batch).keep.shape == batch.keep.shape
    assert family.labels and {text for group in case.texts for text in group} <= set(family.labels)
    for text in ("", case.texts[0][0] + "s"):
        said = refusal(partial(family.tokenize_row, text, case.row(0)))
        assert "unknown label" in said and ". Use one of" in said, said


def text_comes_back_as_it_was_written(case: FamilyCase) -> None:
    family, _, batch = get_ready(case)
    assert family.text(batch.tokens, batch.keep) == [list(group) for group in case.texts]
    if case.prompted:
        return
    unprompted = group_batch(family, case.clips, case.texts, [without_prompt(case, b) for b in range(len(case.texts))])
    special_too = family.text(unprompted.tokens, torch.ones_like(unprompted.keep))
    assert special_too == [list(group) for group in case.texts]


def placeholders_score_zero_without_gradient(case: FamilyCase) -> None:
    family, model, batch = get_ready(case)
    weights = loss_weights(batch)
    drop = torch.arange(len(case.clips)) == 1
    mixed = batch.without(drop).replace(tokens=batch.tokens.masked_fill(drop[:, None, None], family.end_token))
    scores = family.score_groups(model, mixed)
    whole = family.score_groups(model, batch)
    assert not scores.logps[drop].any() and not scores.keep[drop].any() and not scores.entropy[drop].any()
    expected = gradients(model, weighted_loss(whole.logps[~drop], weights[~drop]))
    assert_same_gradients(gradients(model, weighted_loss(scores.logps, weights)), expected)
    nothing = mixed.replace(keep=torch.zeros_like(batch.keep), row_ids=torch.full_like(batch.row_ids, -1))
    found = gradients(model, weighted_loss(family.score_groups(model, nothing).logps, weights))
    assert found.keys() == expected.keys() and not any(gradient.any() for gradient in found.values())


def the_family_travels_to_worker_processes(case: FamilyCase) -> None:
    family, _, batch = get_ready(case)
    arrived = pickle.loads(pickle.dumps(family))
    assert arrived.tokenize_row(case.texts[0][0], case.row(0)) == family.tokenize_row(case.texts[0][0], case.row(0))
    assert torch.equal(arrived.features(case.clips)[batch.audio_key], batch.audio)
    assert not any(isinstance(value, torch.nn.Module) for value in vars(family).values())


SCORING_CHECKS = (
    grouped_scoring_equals_one_call_for_each_hypothesis,
    grouped_scoring_equals_one_call_for_each_hypothesis_in_float64,
    the_scores_depend_on_audio_and_text,
    what_lies_behind_the_end_changes_nothing,
    permuted_hypotheses_have_permuted_scores,
    hypotheses_that_do_not_count_change_no_others,
    each_clip_is_encoded_once,
    given_states_nothing_is_encoded,
    kept_states_replace_the_audio,
    only_kept_positions_have_values,
    the_end_counts_and_the_start_stands_once,
    what_was_said_before_is_read_or_refused,
    an_empty_hypothesis_is_scored_by_its_end,
    a_label_is_one_token_and_an_unknown_one_is_refused,
    text_comes_back_as_it_was_written,
    placeholders_score_zero_without_gradient,
    the_family_travels_to_worker_processes,
)
