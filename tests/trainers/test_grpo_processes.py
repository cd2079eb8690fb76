"""Online methods, and DPO of a CTC model, in processes of their own.

Two against one, also in what they write down; killed and resumed against not stopped.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from audiorl.files import METRICS_FILE
from audiorl.trainers.logs import TABLE_FILE, log_line
from audiorl.trainers.rollout_metrics import COMPLETIONS_FOLDER
from tests.trainers.pair_rows import PLAIN_STEPS, apart_from_cost, largest_difference, weights
from tests.trainers.processes import check_killed_and_resumed, finished, run_online
from tests.trainers.run_grpo import make

# Seven rows leave one process without a row of its own in the last step of an epoch.
METHODS: dict[str, dict[str, Any]] = {
    "advantages over the batch": {"scale_rewards": "batch", "sft_weight": 0.3, "loss_type": "grpo"},
    "evaluated": {"eval_rows": 5, "eval_strategy": "steps", "eval_steps": 2, "eval_wer": True},
    "inner updates, frozen encoder": {"num_iterations": 2, "beta": 0.2, "freeze_encoder": True},
    "online DPO": {"online_dpo": True, "dynamic_sampling_tries": 1},
    # the second process has a batch fewer to sample
    "RAFT": {"raft": True, "max_kept_per_clip": 2, "rollout_batch_size": 3, "sft_weight": 0.3},
    "RAFT, some clips": {"raft": True, "keep_top_percent": 0.4, "clips_per_cycle": 5, "freeze_encoder": True},
    # the second process has none
    "RAFT, one clip": {"raft": True, "clips_per_cycle": 1, "steps_per_cycle": 2},
    "each reward by itself": {
        "trainer_reward_funcs": ["negative_cer", "length_ratio"],
        **{"multi_objective_aggregation": "normalize_then_sum", "temperature_end": 0.7, "num_iterations": 2},
    },
    "balanced": {"balance_column": "text"},
    # seven batches of one clip in steps of four: the second process repeats one, which must not count
    "a budget of seconds": {"max_batch_seconds": 0.95, "gradient_accumulation_steps": 2},
    "a budget of seconds, inner updates": {"max_batch_seconds": 1.8, "num_iterations": 2},
    "RAFT, a budget of seconds": {"raft": True, "max_batch_seconds": 1.8, "rollout_batch_size": 3, "sft_weight": 0.3},
    # groups are whole in each process, so they are judged as in one
    "GRPO, audio alone": {"untold": True, "trainer_reward_funcs": ["consensus_cer", "confidence"]},
    "RAFT, audio alone": {"untold": True, "raft": True, "trainer_reward_funcs": ["consensus_cer", "confidence"]},
    "CTC": {"ctc": "wav2vec2", "loss_type": "grpo"},
    "CTC, DPO": {"ctc": "wav2vec2", "dpo": True, "loss_type": ["sigmoid", "sft"]},
}
# how fast a run was is its own
PACE = ("runtime", "samples_per_second", "steps_per_second")
# Collective calls of their own, whose outcome one process writes.
TENSORBOARD = importlib.util.find_spec("tensorboard") is not None
SENT: dict[str, Any] = {"report_to": "tensorboard", "log_audio_every": 2} if TENSORBOARD else {}


def logged_with(method: str) -> dict[str, Any]:
    """Completions of methods that have them, all of them."""
    return {} if METHODS[method].get("dpo") else {"log_completions": True, "num_completions_to_print": 100}


class Launch(NamedTuple):
    """What two processes did with each method, in a folder of its own."""

    folders: dict[str, Path]
    output: str  # of both processes

    def finished(self, method: str) -> dict:
        return finished(self.folders[method] / "final.pt")

    def logged(self, method: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folders[method] / METRICS_FILE).read_text().splitlines()]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Launch:
    """One launch for all methods: starting is what takes the time."""
    folders = {name: tmp_path_factory.mktemp("two") for name in METHODS}
    shared = {**PLAIN_STEPS, **SENT, "num_train_epochs": 2, "rows": 7, "per_device_train_batch_size": 2}
    given = [
        {**METHODS[name], **shared, **logged_with(name), "output_dir": folder, "out": folder / "final.pt"}
        for name, folder in folders.items()
    ]
    done = run_online(given, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    return Launch(folders, done.stdout)


def completions(folder: Path) -> list[tuple]:
    """What was drawn for each clip at each step, in the order of the clips."""
    files = (folder / COMPLETIONS_FOLDER).glob("*.jsonl")
    records = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return sorted((one["step"], one["where"], one["best"]["text"], one["worst"]["text"]) for one in records)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_sample_and_learn_what_one_does(tmp_path, two_processes, method):
    shared = {**METHODS[method], **PLAIN_STEPS, **logged_with(method), "num_train_epochs": 2}
    if "max_batch_seconds" in shared:  # batches of one process hold no more than those of two
        micro_batches = 2 * shared.pop("gradient_accumulation_steps", 1)
        step = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": micro_batches}
    else:
        step = {"per_device_train_batch_size": 4}
    one = make(tmp_path, 7, **step, **shared)
    start = weights(one.model)
    one.train()
    assert largest_difference(weights(one.model), start) > 1e-3
    two = two_processes.finished(method)
    assert largest_difference(weights(one.model), two["weights"]) < 1e-5
    # all but the summary of the run
    logs = [[apart_from_cost(log) for log in history[:-1]] for history in (one.state.log_history, two["log"])]
    assert sum("loss" in log for log in logs[0]) == 4 * shared.get("num_iterations", 1)
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"epoch", "step", "learning_rate"}:
            if name.removeprefix("eval_") in PACE:
                continue
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5, nan_ok=True), name
    drawn = completions(tmp_path)
    assert bool(drawn) is bool(logged_with(method)) and completions(two_processes.folders[method]) == drawn


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_leave_the_files_of_one(two_processes, method):
    """The numbers of the log are those of one process, as said above; here it stands in the files, each line once."""
    log = two_processes.finished(method)["log"]
    assert [json.dumps(record) for record in two_processes.logged(method)] == [json.dumps(record) for record in log]
    with open(two_processes.folders[method] / TABLE_FILE, newline="") as file:
        table = list(csv.DictReader(file))
    cells = [{name: str(value) for name, value in record.items()} for record in log]
    assert [{name: value for name, value in row.items() if value} for row in table] == cells


def test_two_processes_have_one_console(two_processes):
    expected = [log_line(record) for method in METHODS for record in two_processes.logged(method)]
    expected = [line for line in expected if line]
    told = [line for line in two_processes.output.splitlines() if line.endswith(tuple(expected))]
    assert [re.sub(r"^step \d+/\d+(, [\d:]+ left)?: ", "", line) for line in told] == expected
    tables = re.findall(r"^Completions of step \d+$", two_processes.output, re.MULTILINE)
    assert len(tables) == sum(len({step for step, *_ in completions(f)}) for f in two_processes.folders.values())


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_send_everything_to_a_logger_once(two_processes, method):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (events,) = two_processes.folders[method].glob("runs/*/events*")
    sent = accumulator.EventAccumulator(str(events), size_guidance={"audio": 0, "tensors": 0, "scalars": 0})
    sent.Reload()
    logged = [(log["step"], log["loss"]) for log in two_processes.logged(method) if "loss" in log]
    found = [(event.step, event.value) for event in sent.Scalars("train/loss")]
    assert logged and found == [(step, pytest.approx(value)) for step, value in logged]
    steps = range(2, two_processes.logged(method)[-1]["step"] + 1, 2)
    for clip in range(4):
        assert [event.step for event in sent.Audio(f"audio_samples/{clip}")] == list(steps)
    tag = "completions/text_summary"
    tables = [event.step for event in sent.Tensors(tag)] if tag in sent.Tags()["tensors"] else []
    assert tables == sorted({step for step, *_ in completions(two_processes.folders[method])})


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "resumes_at"), [("in a step", 3), ("half a file", 2), ("after rename", 3)])
def test_killed_and_resumed_equals_not_stopped_bit_for_bit(tmp_path, moment, resumes_at):
    """Two updates for each round of rollouts: checkpoint 2 lies between rounds, checkpoint 3 within one."""
    settings = {"num_iterations": 2, "beta": 0.1, "sft_weight": 0.3, "num_train_epochs": 1}
    stopped = check_killed_and_resumed(tmp_path, settings, moment)
    assert stopped.name == f"checkpoint-{resumes_at}"
    assert (stopped / "rollouts_0.pt").exists() is (resumes_at % 2 == 1)
