"""Batches by a budget of seconds: the promises of a plan, on lengths like those of speech and on awkward ones."""

from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard

from audiorl.datasets.batching import EpochPlan, SecondsBudget, cut_buckets, largest_number


def lengths(count, seed=0):
    """Seconds of clips, 1 to 16, many of them long, as in LibriSpeech."""
    return 1 + 15 * np.random.default_rng(seed).beta(2.5, 1.2, count)


# lengths, budget, most clips, processes, micro-batches of each
CASES = {
    "speech": (lengths(203), 60.0, None, 2, 3),
    "few clips allowed": (lengths(203), 60.0, 3, 2, 3),
    "one process": (lengths(50), 40.0, None, 1, 1),
    "equal clips": (np.full(37, 2.5), 10.0, None, 3, 1),
    "one clip a batch": (lengths(7), 16.0, None, 2, 2),
    "fewer rows than processes": (lengths(3), 100.0, None, 4, 2),
    "one row": (np.array([5.0]), 5.0, None, 2, 1),
    "everything fits one batch": (lengths(9), 1e6, None, 2, 2),
}


def planned(case, **changes):
    seconds, budget, most, processes, accumulation = CASES[case]
    settings = {"num_processes": processes, "step_batches": processes * accumulation, "seed": 5}
    return EpochPlan(seconds, budget, **{"max_clips": most, **settings, **changes})


@pytest.mark.parametrize("case", CASES)
def test_every_row_comes_once_within_the_budget(case):
    plan = planned(case)
    for epoch in range(3):
        batches = plan.batches_of(epoch)
        assert sorted(row for batch in batches for row in batch) == list(range(len(plan.seconds)))
        assert max(len(batch) * plan.seconds[batch].max() for batch in batches) <= plan.max_seconds
        assert all(batches) and max(map(len, batches)) <= (plan.max_clips or len(plan.seconds))
        plan.epoch = epoch
        assert len(list(plan)) == len(plan)


@pytest.mark.parametrize("case", CASES)
def test_every_process_gets_equally_many_batches_and_only_fillers_are_repeated(case):
    plan = planned(case)
    world = plan.num_processes
    # as accelerate deals them
    shares = [list(BatchSamplerShard(plan, world, process)) for process in range(world)]
    assert len({len(share) for share in shares}) == 1 and len(plan) == world * len(shares[0])
    own = [share[:-1] if plan.is_filler(process) else share for process, share in enumerate(shares)]
    assert sorted(row for share in own for batch in share for row in batch) == list(range(len(plan.seconds)))
    assert sum(map(plan.is_filler, range(world))) == plan.fillers < world
    # steps are full wherever there are rows enough for it
    assert len(plan) % plan.step_batches == 0 or len(plan) - plan.fillers == len(plan.seconds)


@pytest.mark.parametrize("case", CASES)
def test_the_plan_of_n_processes_is_that_of_one_with_as_many_micro_batches(case):
    several, one = planned(case), planned(case, num_processes=1)
    assert list(several)[: len(one)] == list(one) and len(several) - len(one) == several.fillers


def test_a_plan_follows_from_seed_and_epoch():
    plan, again, other = planned("speech"), planned("speech"), planned("speech", seed=6)
    first = list(plan)
    assert first == list(again) != list(other)
    plan.epoch = again.epoch = 1
    assert list(plan) == list(again) != first
    # other clips together, not only another order
    assert {frozenset(batch) for batch in plan} != {frozenset(batch) for batch in first}


def test_batches_hold_clips_of_similar_length_and_come_in_no_order_of_it():
    plan = EpochPlan(lengths(2000), 120.0, step_batches=4)
    batches = list(plan)
    assert plan.padding().padded_share < 0.06
    wide = [batch for batch in batches if plan.seconds[batch].min() < 0.9 * plan.seconds[batch].max()]
    assert len(wide) < 0.04 * len(batches)  # where too few clips are that long to fill one
    # the budget is used: a plain batch of as many clips would be beyond it or padded
    assert np.mean([len(batch) * plan.seconds[batch].max() for batch in batches]) > 0.93 * 120
    longest = [plan.seconds[batch].max() for batch in batches]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.15


def test_padding_counts_what_a_model_hears():
    plan = EpochPlan([4.0, 2.0, 1.0], 8.0)
    # [4, 2] pads two seconds, [1] none: 7 of 9 are clips
    assert [bucket.sizes for bucket in plan.buckets] == [[2], [1]]
    assert plan.padding() == (2, pytest.approx(2 / 9), 0)
    assert EpochPlan([2.0, 2.0], 8.0, max_clips=1).padding() == (2, 0.0, 2)


@pytest.mark.parametrize("case", ["speech", "one clip a batch", "fewer rows than processes"])
def test_steps_are_repeated_whole(case):
    """Seven single clips in steps of four: the last step repeats its own first one."""
    plan, once = planned(case, repeats=3), planned(case)
    size = plan.step_batches
    batches, rows = list(plan), once.batches_of(0)
    assert len(batches) == len(plan) and len(batches) % (3 * size) == 0 and plan.fillers == 0
    for step in range(0, len(batches), 3 * size):
        first = batches[step : step + size]
        assert batches[step : step + 3 * size] == 3 * first
        own = rows[step // 3 : step // 3 + size]
        assert first[: len(own)] == own and all(batch in own for batch in first)


def test_a_budget_counts_padded_seconds():
    budget = SecondsBudget(10.0)
    assert not budget.exceeded() and not budget.close_to_exceeding()
    budget.add(2.0)
    budget.add(3.0)
    assert (budget.clips, budget.longest, budget.padded_seconds) == (2, 3.0, 6.0)
    budget.add(1.0)  # 9 padded seconds: another one of 3 s is too much
    assert budget.close_to_exceeding() and not budget.exceeded()
    budget.add(0.1)
    assert budget.exceeded()
    clips = SecondsBudget(10.0, max_clips=1)
    clips.add(0.5)
    assert clips.close_to_exceeding() and not clips.exceeded()


def test_only_the_last_bucket_has_a_batch_that_is_not_full():
    buckets = cut_buckets(lengths(500), 50.0, None)
    for bucket in buckets[:-1]:
        assert set(bucket.sizes) == {int(50 // lengths(500)[bucket.rows[0]])}
    assert Counter(row for bucket in buckets for row in bucket.rows.tolist()) == Counter(range(500))


@pytest.mark.parametrize("most", [1, 2, 7, 64])
def test_the_largest_number_that_fits_is_found_in_few_trials(most):
    for limit in range(most + 3):
        tried = []

        def fits(number, limit=limit, tried=tried):
            tried.append(number)
            return number <= limit

        assert largest_number(fits, most) == min(limit, most)
        assert max(tried) <= most and len(tried) <= 2 * most.bit_length() + 1 and len(set(tried)) == len(tried)


@pytest.mark.parametrize("seconds", [[3.0, 11.0], [3.0, float("nan")], [3.0, 0.0]])
def test_a_clip_beyond_the_budget_is_refused(seconds):
    with pytest.raises(ValueError, match=r"budget of 10 s.*row 1 does not fit\. Raise max_seconds"):
        EpochPlan(seconds, 10.0)
