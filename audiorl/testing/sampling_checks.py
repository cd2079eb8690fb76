"""Sampling: what is sampled is what is scored, and the noise alone decides.

Truncating samplers, beam search and engines choose among hypotheses, and leave their log-probabilities alone.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from audiorl.batch import PLACEHOLDER_ROW_ID
from audiorl.models.sampling import DivergedModelError, Sampler
from audiorl.testing.case import FamilyCase, Ready, assert_encoded_once, encoded_rows, get_ready, group_batch, refusal

LIMIT = 6
HYPOTHESES = 5
TRUNCATING = Sampler(top_k=9, top_p=0.9, min_p=0.01, repetition_penalty=1.3, no_repeat_ngram_size=2)


def noise_for(ready: Ready, hypotheses: int = HYPOTHESES, limit: int = LIMIT, seed: int = 0) -> Tensor:
    """(B, K, N) float64."""
    generator = torch.Generator().manual_seed(seed)
    length = ready.family.noise_length(ready.batch, limit)
    return torch.rand(len(ready.batch.row_ids), hypotheses, length, generator=generator, dtype=torch.float64)


def sampled_log_probabilities_equal_scored_ones(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    for temperature in (1.0, 0.7):
        samples = family.sample_groups(model, batch, noise_for(ready), temperature=temperature)
        sampled = batch.replace(tokens=samples.tokens, keep=samples.keep)
        scores = family.score_groups(model, sampled, temperature=temperature)
        assert samples.keep.any(-1).all()
        torch.testing.assert_close(samples.logps, scores.logps, rtol=1e-4, atol=1e-4)
    other = family.score_groups(model, sampled, temperature=1.3)
    assert (other.logps - scores.logps).abs().max() > 1e-2, "the temperature does nothing"


def draws_tokens(ready: Ready) -> bool:
    """Whether the family writes token by token; only then are there samplers, and limits of tokens."""
    return ready.family.token_level and ready.family.noise_length(ready.batch, LIMIT) == LIMIT


def samples_begin_with_the_prefix_of_their_row(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    samples = family.sample_groups(model, batch, noise_for(ready))
    for b in range(len(case.clips)):
        ids, first_kept = family.tokenize_row(case.texts[b][0], case.row(b))
        assert (samples.tokens[b, :, :first_kept] == torch.tensor(ids[:first_kept])).all()
        assert not samples.keep[b, :, : first_kept - 1].any() and samples.keep[b, :, first_kept - 1].all()


def the_end_is_sampled_once_and_finishes(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    samples = family.sample_groups(model, batch, noise_for(ready, hypotheses=24))
    if case.labels:
        assert samples.finished.all() and (samples.keep.sum(-1) == 1).all()
        return
    limit_is_in_tokens = draws_tokens(ready)
    for tokens, keep, finished in zip(
        samples.tokens[..., 1:].flatten(0, 1),
        samples.keep.flatten(0, 1),
        samples.finished.flatten(),
        strict=True,
    ):
        drawn = tokens[keep].tolist()
        assert (family.end_token in drawn) == bool(finished)
        assert family.end_token not in drawn[:-1]
        if limit_is_in_tokens:
            assert len(drawn) <= LIMIT and (finished or len(drawn) == LIMIT)
    assert samples.finished.any()
    assert not limit_is_in_tokens or not samples.finished.all(), "the case never reaches its limit"


def equal_noise_gives_equal_samples(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    noise = noise_for(ready)
    torch.manual_seed(1)
    first = family.sample_groups(model, batch, noise)
    torch.manual_seed(2)
    second = family.sample_groups(model, batch, noise)
    assert first.engine_logps is None and second.engine_logps is None
    for name in ("tokens", "keep", "logps", "finished"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    texts = family.text(first.tokens, first.keep)
    others = family.sample_groups(model, batch, noise_for(ready, seed=3))
    assert family.text(others.tokens, others.keep) != texts
    assert len({text for group in texts for text in group}) > 1


def each_hypothesis_follows_its_own_noise(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    noise = noise_for(ready)
    changed = noise.clone()
    changed[0, 1] = noise_for(ready, seed=4)[0, 1]
    before = family.sample_groups(model, batch, noise)
    after = family.sample_groups(model, batch, changed)
    texts, new_texts = (family.text(samples.tokens, samples.keep) for samples in (before, after))
    new_texts[0][1] = texts[0][1]
    assert new_texts == texts


def samples_do_not_depend_on_their_neighbours(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    noise = noise_for(ready)
    for sampler in (None, TRUNCATING) if draws_tokens(ready) else (None,):
        together = family.sample_groups(model, batch, noise, sampler=sampler)
        for b in range(len(case.clips)):
            alone_batch = group_batch(family, case.clips[b : b + 1], case.texts[b : b + 1], [case.row(b)])
            length = family.noise_length(alone_batch, LIMIT)
            alone = family.sample_groups(model, alone_batch, noise[b : b + 1, :, :length], sampler=sampler)
            for k in range(HYPOTHESES):
                found = together.tokens[b, k, 1:][together.keep[b, k]]
                assert found.tolist() == alone.tokens[0, k, 1:][alone.keep[0, k]].tolist()
            assert torch.equal(together.finished[b], alone.finished[0])


def samples_are_as_frequent_as_their_probability(case: FamilyCase) -> None:
    """Within five standard deviations of a binomial, for everything more probable than one in fifty."""
    family, model, _ = get_ready(case)
    short = [clip[: family.sampling_rate // 8] for clip in case.clips[:1]]
    batch = group_batch(family, short, [case.texts[0][:1]], [case.row(0)])
    draws = 3000
    noise = noise_for(Ready(family, model, batch), hypotheses=draws, limit=2, seed=5)
    samples = family.sample_groups(model, batch, noise)
    logps = samples.logps.sum(-1)[0].tolist()
    drawn = [tuple(ids[kept].tolist()) for ids, kept in zip(samples.tokens[0, :, 1:], samples.keep[0], strict=True)]
    probability = {ids: math.exp(logp) for ids, logp in zip(drawn, logps, strict=True)}
    likely = {ids: p for ids, p in probability.items() if p > 0.02}
    assert likely and sum(probability.values()) < 1 + 1e-4
    for ids, times in Counter(drawn).items():
        if ids in likely:
            spread = math.sqrt(likely[ids] * (1 - likely[ids]) / draws)
            assert abs(times / draws - likely[ids]) < 5 * spread


def nothing_is_sampled_for_placeholders(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    noise = noise_for(ready)
    drop = torch.arange(len(case.clips)) == 0
    mixed = batch.without(drop).replace(tokens=batch.tokens.masked_fill(drop[:, None, None], family.end_token))
    samples = family.sample_groups(model, mixed, noise)
    whole = family.sample_groups(model, batch, noise)
    assert not samples.keep[drop].any() and not samples.logps[drop].any() and samples.finished[drop].all()
    assert family.text(samples.tokens, samples.keep)[1:] == family.text(whole.tokens, whole.keep)[1:]


def a_model_of_nan_is_refused_with_the_rows(case: FamilyCase) -> None:
    """Sampled and searched alike, where the family searches; placeholders are not blamed.

    Sampling ends with the first token that is none, and clips with longer prefixes have not come to theirs then.
    """
    family, model, batch = ready = get_ready(case)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    row_ids = 5 + torch.arange(len(case.clips))
    row_ids[0] = PLACEHOLDER_ROW_ID
    batch = batch.replace(row_ids=row_ids)

    def blamed(call: Callable[[], object]) -> set[int]:
        try:
            call()
        except DivergedModelError as error:
            return set(error.row_ids)
        except ValueError as error:
            assert "has no beam search" in str(error)
            return set(row_ids[1:].tolist())
        return set()

    clips = set(row_ids[1:].tolist())
    sampled = blamed(lambda: family.sample_groups(model, batch, noise_for(ready)))
    assert sampled and sampled <= clips
    assert blamed(lambda: family.beam_groups(model, batch, 2, max_tokens=3)) == clips


def each_clip_is_encoded_once_for_all_its_samples(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    with encoded_rows(case, family, model) as seen:
        samples = family.sample_groups(model, batch, noise_for(ready))
    assert_encoded_once(case, seen)
    assert not samples.logps.requires_grad


def transcribing_a_batch_equals_transcribing_each_clip(case: FamilyCase) -> None:
    family, model, _ = get_ready(case)
    rows = [case.row(i) for i in range(len(case.clips))]
    named = {}
    if any("language" in row for row in rows):
        named = {"languages": [row["language"] for row in rows], "tasks": [row.get("task") for row in rows]}
    together = family.transcribe(model, family.features(case.clips), max_new_tokens=8, **named)
    alone = [
        family.transcribe(
            model,
            family.features(case.clips[i : i + 1]),
            max_new_tokens=8,
            **{name: values[i : i + 1] for name, values in named.items()},
        )[0]
        for i in range(len(case.clips))
    ]
    assert together == alone and all(isinstance(text, str) for text in together)


SAMPLING_CHECKS = (
    sampled_log_probabilities_equal_scored_ones,
    samples_begin_with_the_prefix_of_their_row,
    the_end_is_sampled_once_and_finishes,
    equal_noise_gives_equal_samples,
    each_hypothesis_follows_its_own_noise,
    samples_do_not_depend_on_their_neighbours,
    samples_are_as_frequent_as_their_probability,
    nothing_is_sampled_for_placeholders,
    a_model_of_nan_is_refused_with_the_rows,
    each_clip_is_encoded_once_for_all_its_samples,
    transcribing_a_batch_equals_transcribing_each_clip,
)


def has_beams(ready: Ready) -> bool:
    """A family that writes token by token has beam search; another one may have its own, or says that it has none."""
    family, model, batch = ready
    return draws_tokens(ready) or "no beam search" not in refusal(
        lambda: family.beam_groups(model, batch, 2, max_tokens=LIMIT)
    )


def truncated_samples_have_the_log_probabilities_of_the_policy(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    noise = noise_for(ready)
    if not draws_tokens(ready) and not case.labels:
        assert "sampler" in refusal(lambda: family.sample_groups(model, batch, noise, sampler=TRUNCATING))
        return
    plain = family.sample_groups(model, batch, noise, temperature=0.8)
    untouched = family.sample_groups(model, batch, noise, temperature=0.8, sampler=Sampler())
    assert torch.equal(untouched.tokens, plain.tokens)
    torch.testing.assert_close(untouched.logps, plain.logps, rtol=1e-5, atol=1e-5)
    for sampler in (TRUNCATING, Sampler(top_k=1)):
        samples = family.sample_groups(model, batch, noise, temperature=0.8, sampler=sampler)
        sampled = batch.replace(tokens=samples.tokens, keep=samples.keep)
        scores = family.score_groups(model, sampled, temperature=0.8)
        torch.testing.assert_close(samples.logps, scores.logps, rtol=1e-4, atol=1e-4)
        assert family.text(samples.tokens, samples.keep) != family.text(plain.tokens, plain.keep)
    assert scores.is_top1[scores.keep].all(), "top_k=1 drew another token than the best"


def no_sampled_pair_of_tokens_comes_twice(case: FamilyCase) -> None:
    """`no_repeat_ngram_size=2` in the transcript; what the prefix holds may be said."""
    family, model, batch = ready = get_ready(case)
    if not draws_tokens(ready):
        return
    noise = noise_for(ready, hypotheses=32, limit=16)

    def repeats(sampler: Sampler | None) -> int:
        samples = family.sample_groups(model, batch, noise, sampler=sampler)
        count = 0
        for tokens, keep in zip(samples.tokens[..., 1:].flatten(0, 1), samples.keep.flatten(0, 1), strict=True):
            drawn = tokens[keep].tolist()
            pairs = list(itertools.pairwise(drawn))
            count += len(pairs) - len(set(pairs))
        return count

    assert repeats(None) > 0 and repeats(Sampler(no_repeat_ngram_size=2)) == 0


def beams_are_distinct_and_scored_as_the_policy_scores_them(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    if not has_beams(ready):
        return
    for length_penalty, temperature in ((0.0, 1.0), (1.0, 0.7)):
        with encoded_rows(case, family, model) as seen:
            found = family.beam_groups(
                model, batch, 4, max_tokens=LIMIT, length_penalty=length_penalty, temperature=temperature
            )
        assert_encoded_once(case, seen)
        written = batch.replace(tokens=found.tokens, keep=found.keep)
        logps = family.score_groups(model, written, temperature=temperature).logps
        torch.testing.assert_close(found.logps, logps, rtol=1e-4, atol=1e-4)
        lengths = found.keep.sum(-1)
        torch.testing.assert_close(found.scores, logps.sum(-1) / lengths**length_penalty, rtol=1e-4, atol=1e-4)
        assert (found.scores.diff(dim=1) <= 1e-6).all()
        for tokens, keep, finished in zip(found.tokens[..., 1:], found.keep, found.finished, strict=True):
            ids = [tuple(row[kept].tolist()) for row, kept in zip(tokens, keep, strict=True)]
            assert len(set(ids)) == 4
            for row, ended in zip(ids, finished.tolist(), strict=True):
                if case.labels:
                    assert ended and len(row) == 1
                    continue
                assert (row[-1] == family.end_token) == ended and family.end_token not in row[:-1]
                assert ended or len(row) == LIMIT


def beams_do_not_depend_on_their_neighbours(case: FamilyCase) -> None:
    """Neither on other clips, whose prefixes may be longer, nor on a placeholder."""
    family, model, batch = ready = get_ready(case)
    if not has_beams(ready):
        return
    together = family.beam_groups(model, batch, 3, max_tokens=LIMIT)
    for b in range(len(case.clips)):
        alone_batch = group_batch(family, case.clips[b : b + 1], case.texts[b : b + 1], [case.row(b)])
        alone = family.beam_groups(model, alone_batch, 3, max_tokens=LIMIT)
        torch.testing.assert_close(together.scores[b], alone.scores[0], rtol=1e-4, atol=1e-4)
        for k in range(3):
            found = together.tokens[b, k, 1:][together.keep[b, k]]
            assert found.tolist() == alone.tokens[0, k, 1:][alone.keep[0, k]].tolist()
    first = torch.arange(len(case.clips)) == 0
    mixed = batch.replace(keep=batch.keep & ~first[:, None, None], row_ids=batch.row_ids.masked_fill(first, -1))
    rest = family.beam_groups(model, mixed, 3, max_tokens=LIMIT)
    assert not rest.keep[0].any() and not rest.scores[0].any() and rest.finished[0].all()
    assert family.text(rest.tokens, rest.keep)[1:] == family.text(together.tokens, together.keep)[1:]


def every_engine_gives_the_same(case: FamilyCase) -> None:
    family, model, batch = ready = get_ready(case)
    noise = noise_for(ready)
    assert "no engine 'steam'" in refusal(lambda: family.set_engine("steam"))
    expected = family.sample_groups(model, batch, noise, sampler=TRUNCATING if draws_tokens(ready) else None)
    for engine in family.engines:
        family.set_engine(engine)
        if engine == "captured" and not next(model.parameters()).is_cuda:
            assert "CUDA" in refusal(lambda: family.sample_groups(model, batch, noise))
            continue
        found = family.sample_groups(model, batch, noise, sampler=TRUNCATING if draws_tokens(ready) else None)
        assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.keep, expected.keep)
        torch.testing.assert_close(found.logps, expected.logps, rtol=1e-5, atol=1e-5)


SEARCH_CHECKS = (
    truncated_samples_have_the_log_probabilities_of_the_policy,
    no_sampled_pair_of_tokens_comes_twice,
    beams_are_distinct_and_scored_as_the_policy_scores_them,
    beams_do_not_depend_on_their_neighbours,
    every_engine_gives_the_same,
)
