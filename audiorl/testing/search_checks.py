"""Truncating samplers, beam search and engines choose among hypotheses, and leave their log-probabilities alone."""

from __future__ import annotations

import itertools

import torch

from audiorl.models.sampling import Sampler
from audiorl.testing.case import FamilyCase, Ready, assert_encoded_once, encoded_rows, get_ready, group_batch, refusal
from audiorl.testing.sampling_checks import LIMIT, TRUNCATING, draws_tokens, noise_for


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
