"""What steps cost: parts of the time, speech and tokens in a second, memory; on a clock that tests set."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from audiorl.batch import SECONDS
from audiorl.collator import SpeechCollator
from audiorl.trainers import cost, logs
from audiorl.trainers.card import hardware
from audiorl.trainers.cost import PARTS, CostMeter, PartClock, cost_in_words
from audiorl.trainers.logs import log_line
from tests.trainers import grpo_rows, pair_rows
from tests.trainers.pair_rows import logged

CPU = torch.device("cpu")


class FakeTime:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


@pytest.fixture
def clock(monkeypatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(cost, "time", fake)
    return fake


class SlowCollator(SpeechCollator):
    """Two seconds for each batch."""

    clock: FakeTime

    def __call__(self, rows: Any) -> Any:
        self.clock.now += 2
        return super().__call__(rows)


# ---- parts of the time ----


def test_a_part_inside_another_one_interrupts_it(clock):
    parts = PartClock(CPU)
    clock.now = 1
    with parts.during("rollout"):
        clock.now = 3
        with parts.during("rewards"):
            clock.now = 7
        clock.now = 8
    clock.now = 10
    found = parts.read()
    assert found == {**dict.fromkeys(PARTS, 0.0), "rollout": 3, "rewards": 4, "other": 3}
    clock.now = 12
    assert sum(parts.read().values()) == 2, "what was read is counted again"


def test_a_part_that_fails_still_ends(clock):
    parts = PartClock(CPU)
    with pytest.raises(ValueError), parts.during("data"):
        raise ValueError
    assert parts.part == "other"


def test_on_a_gpu_the_boundaries_are_events_that_only_a_log_waits_for(monkeypatch, clock):
    waits: list[float] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: Any) -> None:
            self.at = clock.now

        def synchronize(self) -> None:
            waits.append(self.at)

        def elapsed_time(self, later: Event) -> float:
            return 1000 * (later.at - self.at)  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    parts = PartClock(torch.device("cuda", 0))
    waits.clear()
    for _ in range(50):
        with parts.during("update"):
            clock.now += 1
    assert not waits
    assert parts.read()["update"] == 50 and len(waits) == 1
    # a run without a log does not pile events up
    for _ in range(cost.MOST_EVENTS):
        with parts.during("data"):
            clock.now += 1
    assert len(parts._marks) <= cost.MOST_EVENTS and parts.read()["data"] == cost.MOST_EVENTS


def test_an_offline_step_is_data_scoring_and_update(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(SlowCollator, "clock", clock, raising=False)
    dpo = pair_rows.trainer(tmp_path)
    collator = SlowCollator(dpo.family, distinct=True)
    dpo = pair_rows.trainer(tmp_path, trainer_data_collator=collator, gradient_accumulation_steps=2)
    score, backward = dpo.family.score_groups, dpo.accelerator.backward

    def slow_score(*args: Any, **kwargs: Any) -> Any:
        clock.now += 1  # the policy, and the reference
        return score(*args, **kwargs)

    def slow_backward(*args: Any, **kwargs: Any) -> None:
        clock.now += 4
        backward(*args, **kwargs)

    dpo.family.score_groups, dpo.accelerator.backward = slow_score, slow_backward
    dpo.train()
    # a batch: 2 + 2 x 1 + 4 seconds; two for a step, and the loader fetches one ahead
    for share, seconds in {"data": (6, 2), "scoring": (4, 4), "update": (8, 8), "other": (0, 0)}.items():
        assert logged(dpo, f"time/{share}") == pytest.approx([seconds[0] / 18, seconds[1] / 14]), share
    assert not logged(dpo, "time/rollout")
    assert logged(dpo, "time/seconds_left") == pytest.approx([18, 0])
    assert logged(dpo, "train_time/update") == pytest.approx([0.5])


def test_an_evaluation_is_no_part_of_a_step(tmp_path, clock):
    rows = pair_rows.pair_rows(4)
    dpo = pair_rows.trainer(tmp_path, rows, trainer_eval_dataset=rows, eval_strategy="steps", eval_steps=1)
    score = dpo.family.score_groups

    def slow_score(*args: Any, **kwargs: Any) -> Any:
        clock.now += 1  # the policy, and the reference
        return score(*args, **kwargs)

    dpo.family.score_groups = slow_score
    dpo.train()
    # two steps of one batch, two batches of evaluation after each; the second log comes after the first evaluation
    assert logged(dpo, "time/scoring") == pytest.approx([1.0, 2 / 6])
    assert logged(dpo, "time/other") == pytest.approx([0.0, 4 / 6])


def test_rollouts_and_rewards_have_shares_of_their_own(tmp_path, clock):
    def slow_letters(completions: list[str], text: list[str], **kwargs: Any) -> list[float]:
        clock.now += 3
        return grpo_rows.letters(completions, text)

    grpo = grpo_rows.trainer(tmp_path, trainer_reward_funcs=[slow_letters])
    sample = grpo.family.sample_groups

    def slow_sample(*args: Any, **kwargs: Any) -> Any:
        clock.now += 1
        return sample(*args, **kwargs)

    grpo.family.sample_groups = slow_sample
    grpo.train()
    assert logged(grpo, "time/rewards") == [0.75] * 4 and logged(grpo, "time/rollout") == [0.25] * 4


# ---- speech, tokens, memory ----


def test_speech_and_tokens_are_those_of_the_steps(tmp_path, monkeypatch):
    seconds = {**dict.fromkeys(PARTS, 0.0), "update": 5.0}
    monkeypatch.setattr(PartClock, "read", lambda self: dict(seconds))
    dpo = pair_rows.trainer(tmp_path, logging_steps=2, per_device_train_batch_size=3)  # 8 rows: the last step has two
    found = dpo.train().metrics
    rows = pair_rows.pair_rows()
    speech = [len(row["audio"]["array"]) / row["audio"]["sampling_rate"] for row in rows]
    tokens = [
        len(ids.ids) - ids.first_kept
        for row in rows
        for name in ("chosen", "rejected")
        for ids in [dpo.family.tokenize_row(row[name], row)]
    ]
    # two logs, the second at the end of training: of the last step
    assert found["train_audio_seconds_per_second"] == pytest.approx(sum(speech) / 10)
    assert found["train_tokens_per_second"] == pytest.approx(sum(tokens) / 10)
    assert sum(logged(dpo, "audio_seconds_per_second")) == pytest.approx(sum(speech) / 5)
    assert found["train_time/update"] == 1.0
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train_tokens_per_second"] == pytest.approx(found["train_tokens_per_second"])
    assert 0 < last["train_memory/peak_gib"] == pytest.approx(cost.peak_gib(CPU), rel=0.2)


def test_several_processes_add_up(tmp_path):
    dpo = pair_rows.trainer(tmp_path)
    meter = dpo.cost
    dpo.metrics.accelerator = SimpleNamespace(reduce=lambda tensor, reduction: 2 * tensor)  # of a twin
    batch = dpo.data_collator(list(dpo.train_dataset.select(range(2))))
    speech, tokens = batch[SECONDS].sum().item(), batch.keep.sum().item()
    meter.clock.read = lambda: {**dict.fromkeys(PARTS, 0.0), "update": 4.0}
    meter.count_speech(batch.without(torch.tensor([True, False])))
    meter.count_speech(batch)
    meter.count_tokens(batch)
    meter._steps = 1
    meter.report()
    object.__setattr__(dpo.args, "_n_gpu", 0)
    twin = SimpleNamespace(args=SimpleNamespace(world_size=2, device=CPU), state=dpo.state)
    meter.trainer = twin
    found = meter.completed(dpo.metrics.drain("train"))
    own = (speech + batch[SECONDS][1].item()) / 4
    assert found["audio_seconds_per_second/device"] == pytest.approx(own)
    assert found["audio_seconds_per_second"] == pytest.approx(2 * own)
    assert found["tokens_per_second"] == pytest.approx(2 * tokens / 4) and found["time/update"] == 1.0


def test_a_collator_that_tells_no_lengths_leaves_the_speed_out(tmp_path):
    dpo = pair_rows.trainer(tmp_path, max_steps=1)
    collate = dpo.data_collator
    dpo.data_collator = lambda rows: type(batch := collate(rows))(
        {name: value for name, value in batch.items() if name != SECONDS}
    )
    dpo.train()
    assert not logged(dpo, "audio_seconds_per_second") and logged(dpo, "tokens_per_second")


def test_before_the_first_step_nothing_is_told(tmp_path):
    meter = CostMeter(pair_rows.trainer(tmp_path))
    meter.report()
    assert meter.trainer.metrics.drain("train") == {} and meter.totals() == {}
    assert meter.seconds_left(0, 10) is None


# ---- for a person ----


def test_a_peak_is_the_same_in_the_log_the_closing_words_and_the_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    args = SimpleNamespace(device=torch.device("cuda"), world_size=1)
    assert cost.peak_gib(args.device) == 1.5
    assert "peak 1.50 GiB, " in log_line({"train_time/other": 1.0, "train_memory/peak_gib": 1.5, "train_loss": 1.0})
    assert logs.peak_in_words(args.device) == ", with up to 1.50 GiB of the GPU's memory"
    assert hardware(args, DistributedType.NO) == "1 process, a GPU, peak 1.50 GiB of the first"


def test_a_step_s_line_says_how_fast_it_was_and_the_last_one_what_the_run_cost():
    logs = {
        "loss": 1.0, "audio_seconds_per_second": 12.34, "tokens_per_second": 567.8, "memory/peak_gib": 3.14159,
        "time/data": 0.02, "time/rollout": 0.61, "time/update": 0.22, "time/other": 0.15, "time/seconds_left": 9.0,
    }  # fmt: skip
    told = "12.3 s of audio/s, 568 tokens/s, peak 3.14 GiB, time: rollout 61 %, update 22 %, other 15 %"
    assert log_line(logs) == "loss 1, 12.3 s of audio/s"
    whole = {f"train_{name}": value for name, value in logs.items() if name != "loss"}
    assert ", ".join(cost_in_words(whole)) == f"the whole run: {told}"
    # of steps after the last log but one the last log has figures too
    assert log_line({**logs, **whole, "train_runtime": 1.0}) == f"loss 1, the whole run: {told}"
    assert cost_in_words(whole | {"train_time/scoring": 0.16})[-1] == "time: rollout 61 %, update 22 %, scoring 16 %"
    assert cost_in_words({"time/other": 1.0, "tokens_per_second": 567.8}) == ["568 tokens/s"]
    assert {name for name in logs if cost.is_cost(name)} == logs.keys() - {"loss"}
    assert all(map(cost.is_cost, whole)) and not cost.is_cost("train_runtime")
    assert cost_in_words({"loss": 1.0}) == []
    fast = logs | {"audio_seconds_per_second": 1234.5, "tokens_per_second": 17_800.0}
    assert log_line(fast) == "loss 1, 1,234 s of audio/s"
