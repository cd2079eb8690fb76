"""Oracles: a loop over the same draws, the normal approximation of a ratio, coverage on simulated clips."""

import numpy as np
import pytest

from audiorl.evaluation import Comparison, Errors, bootstrap_interval, count_errors, paired_bootstrap, significance


def make_errors(wrong, words, digest="same", **changes):
    """Utterances of `words` words, `wrong` of them substituted."""
    wrong, words = np.asarray(wrong), np.asarray(words)
    zeros = np.zeros_like(wrong)
    settings = {"unit": "word", "normaliser": "none", "transcripts_digest": digest, **changes}
    return Errors(wrong, zeros, zeros, words - wrong, **settings)


def simulated(seed, clips=200, rate=0.3):
    rng = np.random.default_rng(seed)
    words = rng.integers(3, 30, clips)
    return make_errors(rng.binomial(words, rate), words)


def percentile(values, share):
    """Linear interpolation between order statistics."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def loop_draws(size, resamples, seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, size, size=size) for _ in range(resamples)]


@pytest.mark.parametrize("places_at_once", [1, 7 * 200, 2_000_000])
def test_interval_equals_a_loop_over_the_same_draws(monkeypatch, places_at_once):
    monkeypatch.setattr(significance, "_PLACES_AT_ONCE", places_at_once)
    errors = simulated(1)
    rates = []
    for draw in loop_draws(200, 300, seed=5):
        wrong = sum(int(errors.errors[place]) for place in draw)
        words = sum(int(errors.words[place]) for place in draw)
        rates.append(wrong / words)
    low, high = bootstrap_interval(errors, level=0.9, resamples=300, seed=5)
    assert (low, high) == pytest.approx((percentile(rates, 0.05), percentile(rates, 0.95)), abs=1e-12)


def test_grouped_interval_equals_a_loop_over_whole_speakers():
    errors = simulated(2, clips=60)
    speakers = [f"s{place % 7}" for place in range(60)]
    names = list(dict.fromkeys(speakers))
    rates = []
    for draw in loop_draws(7, 400, seed=3):
        places = [place for drawn in draw for place in range(60) if speakers[place] == names[drawn]]
        rates.append(sum(errors.errors[places]) / sum(errors.words[places]))
    found = bootstrap_interval(errors, resamples=400, seed=3, groups=speakers)
    assert found == pytest.approx((percentile(rates, 0.025), percentile(rates, 0.975)), abs=1e-12)


def test_interval_agrees_with_the_normal_approximation_of_a_ratio():
    errors = simulated(3, clips=2000)
    # delta method: standard error of a ratio of sums
    residual = errors.errors - errors.wer * errors.words
    standard_error = np.sqrt(len(errors)) * residual.std() / errors.words.sum()
    low, high = bootstrap_interval(errors)
    assert low == pytest.approx(errors.wer - 1.96 * standard_error, abs=0.06 * standard_error)
    assert high == pytest.approx(errors.wer + 1.96 * standard_error, abs=0.06 * standard_error)


def test_interval_covers_the_true_rate_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(simulated(seed, clips=60, rate=0.2), resamples=400)
        covered += low <= 0.2 <= high
    # binomial(200, 0.95): 190 with a standard deviation of 3.1; small samples cover a little less
    assert 177 <= covered <= 200


def test_speakers_that_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    rates = np.repeat(rng.uniform(0.05, 0.6, 20), 30)
    words = np.full(600, 10)
    errors = make_errors(rng.binomial(words, rates), words)
    low, high = bootstrap_interval(errors)
    wide_low, wide_high = bootstrap_interval(errors, groups=np.repeat(np.arange(20), 30))
    assert wide_high - wide_low > 2 * (high - low)
    assert wide_low < errors.wer < wide_high


def test_every_clip_its_own_speaker_is_the_plain_interval():
    errors = simulated(4)
    assert bootstrap_interval(errors, groups=range(200)) == bootstrap_interval(errors)


def test_interval_repeats_with_the_seed_and_narrows_with_the_level():
    errors = simulated(5)
    assert bootstrap_interval(errors, seed=1) == bootstrap_interval(errors, seed=1)
    assert bootstrap_interval(errors, seed=1) != bootstrap_interval(errors, seed=2)
    low, high = bootstrap_interval(errors)
    inner_low, inner_high = bootstrap_interval(errors, level=0.5)
    assert low < inner_low < errors.wer < inner_high < high


def test_interval_of_empty_transcripts_is_finite():
    errors = count_errors(["", "", ""], ["a", "", "b c"])
    low, high = bootstrap_interval(errors)
    assert 0 <= low <= errors.wer <= high <= 6


def test_equal_systems_have_p_one():
    errors = simulated(6)
    assert paired_bootstrap(errors, errors) == (0.0, 0.0, 0.0, 1.0)


def better_than(errors, seed=0, share=0.2):
    """A system that repairs some of the errors."""
    wrong = np.random.default_rng(seed).binomial(errors.errors, 1 - share)
    return make_errors(wrong, errors.words)


def test_a_clearly_better_system_has_a_negative_difference_and_the_smallest_p():
    before = simulated(7)
    after = better_than(before)
    found = paired_bootstrap(before, after, resamples=999)
    assert found.difference == pytest.approx(after.wer - before.wer)
    assert found.low < found.difference < found.high < 0
    assert found.p_value == 2 / 1000


def test_swapping_the_systems_turns_the_signs_and_keeps_p():
    before = simulated(8, clips=40)
    shuffled = np.random.default_rng(9).permutation(before.errors)
    after = make_errors(shuffled.clip(max=before.words), before.words)
    there, back = paired_bootstrap(before, after), paired_bootstrap(after, before)
    assert 0 < there.p_value < 1
    assert back.p_value == there.p_value
    assert back.difference == -there.difference
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-15)


def test_paired_result_equals_a_loop_over_the_same_draws():
    before = simulated(10, clips=30)
    after = better_than(before, share=0.03)
    differences = []
    for draw in loop_draws(30, 500, seed=2):
        change = sum(int(after.errors[place]) - int(before.errors[place]) for place in draw)
        differences.append(change / sum(int(before.words[place]) for place in draw))
    not_better = sum(value >= 0 for value in differences)
    not_worse = sum(value <= 0 for value in differences)
    found = paired_bootstrap(before, after, resamples=500, seed=2)
    assert 0 < not_better < 500
    assert found.p_value == pytest.approx(min(1, 2 * (1 + min(not_better, not_worse)) / 501), abs=1e-15)
    assert (found.low, found.high) == pytest.approx(
        (percentile(differences, 0.025), percentile(differences, 0.975)), abs=1e-12
    )


def test_p_is_about_uniform_where_there_is_no_difference():
    small = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        words = np.full(80, 12)
        before, after = (make_errors(rng.binomial(words, 0.3), words) for _ in range(2))
        small += paired_bootstrap(before, after, resamples=400).p_value < 0.1
    # binomial(200, 0.1): 20 with a standard deviation of 4.2
    assert 8 <= small <= 34


def test_pairing_finds_a_difference_that_separate_intervals_hide():
    before = simulated(11)
    after = better_than(before, share=0.04)
    assert bootstrap_interval(after)[1] > bootstrap_interval(before)[0]
    assert paired_bootstrap(before, after).p_value < 0.01


def test_a_change_in_one_of_two_speakers_is_not_significant_over_speakers():
    before = simulated(12, clips=100)
    repaired = np.where(np.arange(100) < 50, before.errors // 2, before.errors)
    after = make_errors(repaired, before.words)
    assert paired_bootstrap(before, after).p_value < 0.01
    assert paired_bootstrap(before, after, groups=[place < 50 for place in range(100)]).p_value > 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "other"}, "transcripts of before and after differ"),
        ({"unit": "character"}, "units differ"),
        ({"normaliser": "basic"}, "normalisers differ"),
    ],
)
def test_systems_measured_differently_are_refused(changes, message):
    errors = simulated(13)
    other = make_errors(errors.errors, errors.words, **changes)
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(errors, other)


def test_another_number_order_or_text_of_utterances_is_refused():
    texts = ["a b", "c d", "e f"]
    before = count_errors(texts, texts)
    with pytest.raises(ValueError, match="numbers of utterances differ: before 3, after 2"):
        paired_bootstrap(before, count_errors(texts[:2], texts[:2]))
    for others in (["a b", "e f", "c d"], ["a b", "c d", "e g"]):
        with pytest.raises(ValueError, match="same rows in the same order"):
            paired_bootstrap(before, count_errors(others, others))
    assert paired_bootstrap(before, count_errors(texts, ["", "", ""]), resamples=99).difference == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, "got level=1.0"),
        ({"resamples": 0}, "got resamples=0"),
        ({"groups": ["s"]}, "got 1 for 200 utterances"),
        ({"groups": ["s"] * 200}, "at least 2; got 1. Leave groups out"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(simulated(14), **options)


def test_one_utterance_has_no_interval():
    with pytest.raises(ValueError, match="between utterances, so it needs at least 2; got 1"):
        bootstrap_interval(count_errors(["a"], ["b"]))


def test_no_difference_has_no_minus():
    before, after = (make_errors([1, 0, 2] * 100, [5, 5, 5] * 100) for _ in range(2))
    told = str(Comparison(before, after, paired_bootstrap(before, after)))
    assert "Difference  +0.0 points (95 % interval +0.0 to +0.0), +0 % relative" in told
