"""Oracle: sums worked by hand; rewards that break are written for it."""

import asyncio
import functools
import math
import threading
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch

from audiorl.rewards import Judge, KeywordScore, NegativeWER, RewardError, RewardSet, RightScript
from audiorl.rewards.reward_set import is_async

WHERE = ["rows.jsonl line 1", "rows.jsonl line 1", "rows.jsonl line 2"]
SAID = ["the cat", "cat", "dog"]
COLUMNS = {"text": ["the cat", "the cat", "the dog"], "speaker": ["ann", "ann", "bob"]}


def call(reward_funcs, weights=None, columns=COLUMNS, **kwargs):
    return RewardSet(reward_funcs, weights)(SAID, [[1], [2], [3]], columns, WHERE, **kwargs)


def letters(completions, **kwargs):
    return [len(text) for text in completions]


def only_ann(completions, speaker, **kwargs):
    return [2.0 if name == "ann" else None for name in speaker]


def nothing(completions, **kwargs):
    return [None] * len(completions)


def divides(completions, text, **kwargs):
    return [1 / (len(text) - 3) for text in completions]


# ---- totals ----


def test_total_is_the_weighted_sum_and_parts_are_not_weighted():
    table = call(["one_minus_wer", letters], [2, -0.5])
    assert table.parts == {"one_minus_wer": [1, 0.5, 0.5], "letters": [7, 3, 3]}
    assert table.total == [2 - 3.5, 1 - 1.5, 1 - 1.5]


def test_weights_are_one_unless_given():
    assert call(["one_minus_wer", letters]).total == [8, 3.5, 3.5]
    assert call(letters).total == [7, 3, 3]


def test_weight_zero_is_logged_only():
    table = call([letters, only_ann], [1, 0])
    assert table.total == [7, 3, 3]
    assert table.parts["only_ann"] == [2, 2, None]


def test_a_reward_that_abstains_adds_nothing():
    assert call([letters, only_ann]).total == [9, 5, 3]


def test_a_hypothesis_that_no_reward_judges_has_no_total():
    table = call([nothing, only_ann])
    assert table.total[:2] == [2, 2] and math.isnan(table.total[2])
    assert table.scored == [True, True, False]
    # what is only logged judges nothing
    assert call([letters, nothing], [0, 1]).scored == [False] * 3


def test_no_completions_give_an_empty_table():
    table = RewardSet([letters, divides])([], [], {"text": []}, [])
    assert (table.total, table.parts) == ([], {"letters": [], "divides": []})


# ---- overriding ----


class Veto:
    __name__ = "veto"
    overrides = True

    def __call__(self, completions, **kwargs):
        return [-1 if text == "dog" else 0 for text in completions]


def test_an_override_caps_the_total():
    assert call([letters, Veto()]).total == [7, 3, -1]
    assert call([letters, Veto()], [1, 3]).total == [7, 3, -3]
    assert call([letters, Veto()], [1, 0]).total == [7, 3, 3]


def test_an_override_never_lifts_a_total():
    assert call([letters, Veto()], [-1, 1]).total == [-7, -3, -4]


def test_shipped_overrides_work_in_a_set():
    said = ["the cat", "котик", "the cat thanks for watching"]
    columns = {"text": ["the cat"] * 3, "language": ["en"] * 3}
    table = RewardSet(["one_minus_wer", "language", "stock_phrases"])(said, [[1]] * 3, columns, WHERE)
    assert table.total == [1, -1, -1]


# ---- what rewards are called with ----


def test_rewards_get_trls_keywords_and_every_column():
    seen = {}

    def spy(prompts, completions, completion_ids, trainer_state, **columns):
        seen.update(columns, prompts=prompts, completions=completions, ids=completion_ids, state=trainer_state)
        return [0] * len(completions)

    call(spy, columns={**COLUMNS, "prompt": ["a", "b", "c"]}, trainer_state="state")
    assert seen == {
        **COLUMNS,
        "prompts": ["a", "b", "c"],
        "completions": SAID,
        "ids": [[1], [2], [3]],
        "state": "state",
    }
    call(spy, trainer_state="state")
    assert seen["prompts"] == ["", "", ""]


def test_a_reward_that_sorts_its_arguments_does_not_sort_its_neighbours():
    def sorts(completions, text, **kwargs):
        completions.sort()
        text.clear()
        return [0] * len(completions)

    assert call([sorts, "one_minus_wer"]).parts["one_minus_wer"] == [1, 0.5, 0.5]


def test_numbers_of_numpy_and_torch_are_numbers():
    def arrays(completions, **kwargs):
        return np.array([1, 2, 3], dtype=np.float32)

    def tensors(completions, **kwargs):
        return torch.tensor([1.0, 2.0, 3.0])

    def mixture(completions, **kwargs):
        return (True, np.int64(2), torch.tensor(3))

    table = call([arrays, tensors, mixture])
    assert table.total == [3, 6, 9]
    assert all(type(value) is float for values in table.parts.values() for value in values)


# ---- asynchronous rewards ----


def test_asynchronous_rewards_run_beside_each_other_and_beside_the_others():
    """Each waits for the others: one after the other they would wait for ever."""
    first, second, third = threading.Event(), threading.Event(), threading.Event()

    async def wait_for(event):
        async with asyncio.timeout(20):
            while not event.is_set():
                await asyncio.sleep(0.001)

    async def one(completions, **kwargs):
        first.set()
        await wait_for(second)
        await wait_for(third)
        return [1.0] * len(completions)

    async def two(completions, **kwargs):
        second.set()
        await wait_for(first)
        return [None] * len(completions)

    def three(completions, **kwargs):
        assert first.wait(20)
        third.set()
        return [3.0] * len(completions)

    table = call([one, two, three])
    assert table.total == [4, 4, 4]
    assert list(table.parts) == ["one", "two", "three"]


class AsyncJudge:
    async def __call__(self, completions, **kwargs):
        return [0.5] * len(completions)


async def scaled(completions, scale, **kwargs):
    return [scale] * len(completions)


def test_every_form_of_asynchronous_reward_is_awaited():
    partial = functools.partial(scaled, scale=2.0)
    assert is_async(AsyncJudge()) and is_async(partial) and is_async(scaled) and not is_async(letters)
    table = call([AsyncJudge(), partial, lambda completions, **kwargs: scaled(completions, scale=4.0)])
    assert table.total == [6.5, 6.5, 6.5]
    assert list(table.parts) == ["AsyncJudge", "scaled", "<lambda>"]


def test_a_set_works_inside_a_running_loop():
    async def notebook():
        return call(AsyncJudge())

    assert asyncio.run(notebook()).total == [0.5] * 3


def test_a_failing_asynchronous_reward_stops_the_run_and_the_others():
    cancelled = threading.Event()

    async def patient(completions, **kwargs):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def broken(completions, **kwargs):
        await asyncio.sleep(0.01)
        if "dog" in completions:
            raise OSError("no answer")
        return [1.0] * len(completions)

    with pytest.raises(RewardError, match=r"'broken' raised OSError: no answer.*rows.jsonl line 2, .*'dog'") as stopped:
        call([broken, patient])
    assert isinstance(stopped.value.__cause__, OSError)
    assert cancelled.wait(20)


def test_an_asynchronous_reward_that_never_ends_is_given_up_and_named():
    cancelled = threading.Event()

    async def endless(completions, **kwargs):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(RewardError, match=r"'endless' has not answered within 0.2 s .*line 1 to .*reward_timeout"):
        RewardSet(["one_minus_wer", endless], timeout=0.2)(SAID, [[1], [2], [3]], COLUMNS, WHERE)
    assert cancelled.wait(20)
    assert RewardSet(AsyncJudge(), timeout=20)(SAID, [[1], [2], [3]], COLUMNS, WHERE).total == [0.5] * 3


def test_a_reward_that_holds_up_the_loop_does_not_hold_up_later_rewards():
    released = threading.Event()

    async def holds_the_loop(completions, **kwargs):
        released.wait(60)
        return [1.0] * len(completions)

    try:
        with pytest.raises(RewardError, match=r"'holds_the_loop' has not answered within 0.2 s"):
            RewardSet(holds_the_loop, timeout=0.2)(SAID, [[1], [2], [3]], COLUMNS, WHERE)
        assert call(AsyncJudge()).total == [0.5] * 3
    finally:
        released.set()


def test_a_plain_reward_that_returns_a_coroutine_has_the_same_timeout():
    def endless(completions, **kwargs):
        return asyncio.sleep(60)

    with pytest.raises(RewardError, match=r"'endless' has not answered within 0.2 s"):
        RewardSet(endless, timeout=0.2)(SAID, [[1], [2], [3]], COLUMNS, WHERE)


@pytest.mark.parametrize("timeout", [0, -1.0, math.inf, math.nan])
def test_timeouts_out_of_range_are_told_when_built(timeout):
    with pytest.raises(RewardError, match=r"reward_timeout is the seconds .* above 0; got"):
        RewardSet("one_minus_wer", timeout=timeout)


# ---- rewards that break ----


@pytest.mark.parametrize("error", [SystemExit(0), asyncio.CancelledError("by itself"), GeneratorExit(), MemoryError()])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_whatever_a_reward_raises_ends_the_run_with_its_name_and_the_row(error, asynchronous):
    def leaves(completions, **kwargs):
        if "dog" in completions:
            raise error
        return [1.0] * len(completions)

    async def leaves_later(completions, **kwargs):
        await asyncio.sleep(0)
        return leaves(completions)

    leaves_later.__name__ = "leaves"
    message = rf"'leaves' raised {type(error).__name__}: .*rows.jsonl line 2, hypothesis 'dog'"
    with pytest.raises(RewardError, match=message) as stopped:
        RewardSet(leaves_later if asynchronous else leaves, timeout=20)(SAID, [[1], [2], [3]], COLUMNS, WHERE)
    assert isinstance(stopped.value.__cause__, type(error))
    # the loop of the others lives on
    assert call(AsyncJudge()).total == [0.5] * 3


def test_ctrl_c_within_a_reward_is_the_users():
    def interrupted(completions, **kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(interrupted)


def test_a_broken_reward_stops_the_run_with_its_name_the_row_and_the_cause():
    with pytest.raises(RewardError) as stopped:
        call(["one_minus_wer", divides])
    message = str(stopped.value)
    assert message.startswith("The reward 'divides' raised ZeroDivisionError: division by zero.")
    assert "rows.jsonl line 1, hypothesis 'cat'" in message and message.endswith("return None where it cannot judge.")
    assert isinstance(stopped.value.__cause__, ZeroDivisionError)


def test_a_reward_that_fails_for_a_batch_only_names_the_batch():
    def pairs_only(completions, **kwargs):
        if len(completions) == 3:
            raise RuntimeError("odd")
        return [0] * len(completions)

    with pytest.raises(RewardError, match=r"a batch of 3 completions, rows.* line 1 to rows.* line 2"):
        call(pairs_only)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0, 2.0], "returned 2 values for the 3 completions of rows.jsonl line 1 to rows.jsonl line 2"),
        ([1.0] * 4, "returned 4 values"),
        (1.0, "returned a float"),
        (None, "returned a NoneType"),
        ("abc", "returned a str"),
        ({"a": 1, "b": 2, "c": 3}, "returned a dict"),
        ({1.0, 2.0, 3.0}, "returned a set"),
        (frozenset({1.0, 2.0, 3.0}), "returned a frozenset"),
        (b"abc", "returned a bytes"),
        ([1.0, 10**400, 3.0], r"returned 10+\.\.\. \(401 characters\) for rows.jsonl line 1, hypothesis 'cat'"),
        ([1.0, -(10**5000), 3.0], r"returned an integer of about 5001 digits for rows.jsonl line 1"),
        ([1.0, Fraction(10**400, 3), 3.0], r"returned Fraction\(10+.* for rows.jsonl line 1"),
        ([1.0, 1e300, 3.0], r"returned 1e\+300 for rows.jsonl line 1, .* beyond 1e\+15: no gradient"),
        ([-1e16, 1.0, 3.0], r"returned -1e\+16 for rows.jsonl line 1, .* beyond 1e\+15"),
        ([1.0, math.nan, 2.0], "returned nan for rows.jsonl line 1, hypothesis 'cat'"),
        ([1.0, 2.0, -math.inf], "returned -inf for rows.jsonl line 2, hypothesis 'dog'"),
        ([1.0, "2", 3.0], "returned '2' for rows.jsonl line 1, hypothesis 'cat'"),
        ([1.0, [2.0], 3.0], r"returned \[2.0\] for"),
        (np.array([[1.0], [2.0], [3.0]]), r"returned array\(\[1.\]\) for"),
        (torch.tensor([1.0, math.nan, 3.0]), "returned tensor"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_answers_that_are_no_rewards_stop_the_run(answer, message, asynchronous):
    def broken(completions, **kwargs):
        return answer

    async def later(completions, **kwargs):
        return answer

    later.__name__ = "broken"
    with pytest.raises(RewardError, match=f"'broken' {message}"):
        call(["one_minus_wer", later if asynchronous else broken])


def test_a_sum_of_which_no_gradient_can_be_made_stops_the_run():
    def huge(completions, **kwargs):
        return [1e14] * len(completions)

    with pytest.raises(RewardError, match=r"weighted sum of \['huge'\] is 1e\+16 for rows\.jsonl line 1.*Lower the"):
        call([huge], [100])


# ---- what is told before the run ----


def test_missing_columns_are_told_before_the_run_with_their_readers():
    rewards = RewardSet(["one_minus_wer", "keywords", only_ann, divides])
    rewards.check_columns(["audio", "text", "keywords", "speaker"])
    with pytest.raises(RewardError) as stopped:
        rewards.check_columns(["audio", "texts", "speaker"])
    message = str(stopped.value)
    assert "The reward keywords reads the column 'keywords', which is missing. Add it" in message
    assert "one_minus_wer, keywords, divides read the column 'text', which is missing. Rename 'texts'" in message
    with pytest.raises(RewardError, match="'speaker', which is missing"):
        call(only_ann, columns={"text": COLUMNS["text"]})


def test_needed_columns_may_be_declared():
    def whisperer(completions, loudness=None, **kwargs):
        return [0] * len(completions)

    RewardSet(whisperer).check_columns([])
    whisperer.needed_columns = ("loudness",)
    with pytest.raises(RewardError, match="whisperer reads the column 'loudness'"):
        RewardSet(whisperer).check_columns([])


@pytest.mark.parametrize("name", ["completions", "prompts", "trainer_state"])
def test_columns_that_bear_an_arguments_name_are_refused(name):
    with pytest.raises(RewardError, match=f"columns called .*{name}"):
        RewardSet(letters).check_columns([name])


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="\"the column 'text'\": 2"):
        RewardSet("one_minus_wer")(SAID, [[1]] * 3, {"text": ["a", "b"]}, WHERE)


def no_columns(completions, completion_ids, prompts):
    return [0] * len(completions)


def positional(completions, text, /, **kwargs):
    return [0] * len(completions)


@pytest.mark.parametrize(
    ("rewards", "weights", "message"),
    [
        ([], None, "no reward to learn from"),
        ([letters], [1, 2], "got 2 for"),
        ([letters], [math.nan], "finite"),
        ([letters, nothing], [0, 0], "one of them is not 0"),
        ([letters, letters], None, "'letters'.* name several"),
        (["one_minus_wer", "one_minus_wer"], None, "name several"),
        ([no_columns], None, r"'no_columns' is called with .* Add \*\*kwargs"),
        ([positional], None, r"'positional' is called with"),
        ([3], None, "3 is a int, which cannot be called"),
        (["one_minus_weer"], None, "Did you mean 'one_minus_wer'"),
    ],
)
def test_what_makes_no_sense_is_refused_when_built(rewards, weights, message):
    with pytest.raises(RewardError, match=message):
        RewardSet(rewards, weights)


def test_one_reward_twice_under_two_names():
    rewards = RewardSet([RightScript(), RightScript(max_foreign=0, name="strict_language")])
    assert rewards.names == ("language", "strict_language")


def keyed(completions, scale, key, **columns):
    return [scale * len(text) for text in completions]


@dataclass
class Counting:
    calls: int = 0

    def __call__(self, completions, **columns):
        self.calls += 1
        return [0.0 for _ in completions]


def test_settings_tell_what_decides_the_values_and_no_secret():
    judge = Judge(url="http://127.0.0.1:1", model="large", timeout=3.0)
    mine = functools.partial(keyed, scale=2.0, key="sk-12345")
    found = RewardSet(
        [NegativeWER(floor=-1.0), KeywordScore(keywords=[f"word{i}" for i in range(50)]), judge, mine, Counting()]
    ).settings()
    assert found["negative_wer.floor"] == -1.0 and found["negative_wer.normalise"] == "basic"
    assert found["judge.model"] == "large" and not {"judge.url", "judge.timeout", "judge.name"} & set(found)
    assert len(found["keywords.keywords"]) == len(found["keyed.key"]) == 16 and "sk-12345" not in str(found)
    assert not [name for name in found if name.startswith("Counting")]
    other = functools.partial(keyed, scale=3.0, key="sk-12345")
    changed = RewardSet([NegativeWER(floor=-1.0), other]).settings()
    assert changed["keyed.scale"] != found["keyed.scale"] and changed["keyed.key"] == found["keyed.key"]
