"""What a run goes on from: whole checkpoints of its own, nothing beyond the last step, a folder of its own."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from audiorl import files
from audiorl.files import LIST_FILE
from audiorl.rewards import NegativeWER
from audiorl.trainers import callbacks, checkpoints
from audiorl.trainers.checkpoints import (
    check_resume,
    checkpoint_to_resume,
    faults,
    is_whole,
    last_whole_checkpoint,
)
from audiorl.trainers.fingerprint import FREE, rows_digest, weights_digest
from tests.tiny_models import tiny_whisper
from tests.trainers import grpo_rows, raft_rows
from tests.trainers.pair_rows import config, largest_difference, pair_rows, trainer, weights
from tests.trainers.text_rows import distillation

SAVING = {"save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run: four steps, a checkpoint each."""
    folder = tmp_path_factory.mktemp("run")
    trainer(folder, **SAVING).train()
    return folder


@pytest.fixture
def copied(run, tmp_path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


# ---- the end ----


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (trainer, {"max_steps": 5}),
        (trainer, {"max_steps": 4}),
        (trainer, {"num_train_epochs": 1.5}),
        (grpo_rows.trainer, {"max_steps": 3}),
        (raft_rows.trainer, {"max_steps": 3, "num_cycles": 2}),
    ],
    ids=["dpo within an epoch", "dpo at its end", "one epoch and a half", "grpo", "raft within a cycle"],
)
def test_nothing_is_trained_once_the_checkpoint_has_reached_the_end(tmp_path, make, settings):
    whole = make(tmp_path, **settings, **SAVING)
    whole.train()
    again = make(tmp_path, **settings, **SAVING)
    steps: list[int] = []
    step = again.training_step
    again.training_step = lambda *args, **kwargs: steps.append(1) or step(*args, **kwargs)
    again.train(resume_from_checkpoint=True)
    assert not steps and again.state.global_step == whole.state.global_step == whole.state.max_steps
    assert largest_difference(weights(whole.model), weights(again.model)) == 0


# ---- the same run ----


def shuffled(rows: list[dict]) -> list[dict]:
    return [*rows[1:], rows[0]]


def other_text(rows: list[dict]) -> list[dict]:
    return [{**rows[0], "chosen": "another text"}, *rows[1:]]


def other_audio(rows: list[dict]) -> list[dict]:
    clip = {**rows[0]["audio"], "array": rows[0]["audio"]["array"] * 0.5}
    return [{**rows[0], "audio": clip}, *rows[1:]]


@pytest.mark.parametrize(
    ("rows", "changed", "told"),
    [
        (pair_rows()[:7], {}, "the training set was 8 rows and is 7 rows"),
        (shuffled(pair_rows()), {}, "the 8 training rows are in another order"),
        (other_text(pair_rows()), {}, "the 8 training rows are not those of before"),
        (other_audio(pair_rows()), {}, "the 8 training rows are not those of before"),
        (None, {"seed": 8}, "seed was 7 and is 8"),
        (None, {"per_device_train_batch_size": 1}, "per_device_train_batch_size was 2 and is 1"),
        (None, {"gradient_accumulation_steps": 2}, "gradient_accumulation_steps was 1 and is 2"),
        (None, {"loss_type": ["ipo"]}, r"loss_type was \['sigmoid'\] and is \['ipo'\]"),
        (None, {"learning_rate": 2e-3}, "learning_rate was 0.001 and is 0.002"),
        (None, {"freeze_encoder": True}, "freeze_encoder was False and is True"),
    ],
)
def test_another_run_is_refused_by_what_differs_and_goes_on_where_it_is_meant(copied, rows, changed, told, caplog):
    shutil.rmtree(copied / "checkpoint-4")
    with pytest.raises(ValueError, match=rf"(?s)checkpoint-3 is from a different run.*{told}.*--allow_changed_resume"):
        trainer(copied, rows, **{**SAVING, **changed}).train(resume_from_checkpoint=True)
    assert names(copied) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    if "freeze_encoder" not in changed and "loss_type" not in changed:
        meant = {"allow_changed_resume": True, "max_steps": 4, **SAVING, **changed}
        again = trainer(copied, rows, **meant)
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == 4


def test_flags_are_compared_before_a_model_is_loaded(copied):
    asked = {"resume_from_checkpoint": "True"}
    assert check_resume(config(copied, **SAVING, **asked)) == str(copied / "checkpoint-4")
    with pytest.raises(ValueError, match=r"learning_rate was 0.001 and is 0.002"):
        check_resume(config(copied, learning_rate=2e-3, **asked))
    assert check_resume(config(copied, learning_rate=2e-3, allow_changed_resume=True, **asked)) is not None


def test_another_model_or_trainer_is_refused(copied):
    model, _ = tiny_whisper()
    with torch.no_grad():
        model.model.decoder.layers[0].fc1.weight.mul_(1.5)
    with pytest.raises(ValueError, match=r"the model is called .* as before, but has other weights"):
        trainer(copied, trainer_model=model).train(resume_from_checkpoint=True)
    named = tiny_whisper()[0]
    named.config._name_or_path = "somewhere/else"
    moved = trainer(copied, trainer_model=named)  # the same weights from another place are the same model
    moved.train(resume_from_checkpoint=True)
    assert moved.state.global_step == 4
    with pytest.raises(ValueError, match="the trainer was DPOTrainer and is GRPOTrainer"):
        grpo_rows.trainer(copied).train(resume_from_checkpoint=True)


def test_processes_and_rewards_are_part_of_a_run(copied, tmp_path):
    known = json.loads((copied / "checkpoint-4" / LIST_FILE).read_text())
    assert known["run"]["processes"] == 1
    known["run"]["processes"] = 2
    (copied / "checkpoint-4" / LIST_FILE).write_text(json.dumps(known))
    with pytest.raises(ValueError, match="the number of processes was 2 and is 1"):
        trainer(copied).train(resume_from_checkpoint=True)
    grpo_rows.trainer(tmp_path / "grpo", max_steps=1, **SAVING).train()
    with pytest.raises(ValueError, match=r"the reward letters was 1.0 and is None"):
        changed = grpo_rows.trainer(tmp_path / "grpo", max_steps=1, trainer_reward_funcs=[grpo_rows.shortness])
        changed.train(resume_from_checkpoint=True)


def frozen_whisper(scale: float):
    model, _ = tiny_whisper()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)
    return model


def test_an_interrupted_run_says_which_of_its_own_checkpoints_it_goes_on_from(copied):
    again = trainer(copied, max_steps=1, **{**SAVING, "save_steps": 5})
    assert again.saver.way_on() == "it had written no checkpoint yet (--save_steps says how often)"
    more = trainer(copied, max_steps=5, **SAVING)
    more.train(resume_from_checkpoint=True)
    assert more.saver.way_on() == "go on from step 5 with --resume_from_checkpoint True"


def test_the_frozen_policy_is_part_of_a_run(tmp_path):
    settings = {"max_steps": 2, **SAVING}
    trainer(tmp_path / "own", **settings).train()
    trainer(tmp_path / "other", trainer_ref_model=frozen_whisper(1.1), **settings).train()
    for name, scale in (("own", 1.0), ("other", 1.1)):
        again = trainer(tmp_path / name, trainer_ref_model=frozen_whisper(scale), **settings)
        again.train(resume_from_checkpoint=True)
    for name, scale in (("own", 1.1), ("other", 0.7)):
        changed = trainer(tmp_path / name, trainer_ref_model=frozen_whisper(scale), **settings)
        with pytest.raises(ValueError, match=r"the frozen policy is called .* as before, but has other weights"):
            changed.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="the frozen policy is called"):
        trainer(tmp_path / "other", **settings).train(resume_from_checkpoint=True)


def test_a_teacher_is_part_of_a_run(tmp_path):
    settings = {"max_steps": 1, **SAVING}
    distillation(tmp_path, trainer_teacher_model=frozen_whisper(1.1), **settings).train()
    again = distillation(tmp_path, trainer_teacher_model=frozen_whisper(1.1), **settings)
    again.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"the teacher is called .* as before, but has other weights"):
        changed = distillation(tmp_path, trainer_teacher_model=frozen_whisper(0.9), **settings)
        changed.train(resume_from_checkpoint=True)


def test_settings_of_rewards_are_part_of_a_run(tmp_path):
    def made(floor: float):
        return grpo_rows.trainer(tmp_path, max_steps=1, trainer_reward_funcs=[NegativeWER(floor=floor)], **SAVING)

    made(-2.0).train()
    made(-2.0).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"the reward negative_wer.floor was -2.0 and is -0.5"):
        made(-0.5).train(resume_from_checkpoint=True)


def test_what_changes_nothing_may_differ_and_a_run_may_become_longer(copied, tmp_path):
    free = {
        "logging_steps": 3,
        "save_steps": 2,
        "dataloader_num_workers": 1,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "per_device_eval_batch_size": 1,
        "run_name": "again",
        "save_total_limit": 1,
    }
    longer = trainer(copied, trainer_eval_dataset=pair_rows(2), max_steps=5, **{**SAVING, **free})
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 5
    with pytest.raises(ValueError, match=r"of 5 optimizer steps, and this one ends after 3.*--allow_changed_resume"):
        trainer(tmp_path / "b", max_steps=3).train(resume_from_checkpoint=str(copied / "checkpoint-5"))
    known = {name for name in config(tmp_path).to_dict() if name.startswith(FREE)}
    assert not {"seed", "learning_rate", "bf16", "loss_type", "beta", "dataloader_drop_last", "max_grad_norm"} & known


def test_rows_are_known_by_content_and_order_wherever_their_files_lie(tmp_path):
    rows = [{"text": "a b", "audio": {"bytes": None, "path": str(tmp_path / "a" / "x.wav")}, "row_id": 0, "where": "p"}]
    moved = [{**rows[0], "audio": {"bytes": None, "path": str(tmp_path / "b" / "x.wav")}, "where": "q"}]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.wav").write_bytes(b"a clip")
    assert rows_digest(Dataset.from_list(rows)) == rows_digest(Dataset.from_list(moved))
    (tmp_path / "b" / "x.wav").write_bytes(b"a clip of another length")
    assert rows_digest(Dataset.from_list(rows)) != rows_digest(Dataset.from_list(moved))


def test_one_flipped_weight_among_those_looked_at_is_another_model():
    model, _ = tiny_whisper()
    other = copy.deepcopy(model)
    assert weights_digest(model) == weights_digest(other)
    with torch.no_grad():
        other.model.encoder.conv1.weight.view(-1)[-1] += 1
    assert weights_digest(model) != weights_digest(other)


# ---- whole checkpoints ----


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", LIST_FILE]
)
def test_a_missing_file_is_found_and_the_older_checkpoint_is_named(copied, name):
    (copied / "checkpoint-4" / name).unlink()
    for asked in (True, str(copied / "checkpoint-4")):
        with pytest.raises(ValueError, match=rf"checkpoint-4 is not a whole.*{name}.*--resume_from_checkpoint .*-3\."):
            trainer(copied, **SAVING).train(resume_from_checkpoint=asked)
    assert last_whole_checkpoint(str(copied)) == str(copied / "checkpoint-3")


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "rng_state.pth", "config.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_damaged_bytes_are_found_before_anything_is_trained(copied, name, damage):
    path = copied / "checkpoint-4" / name
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    (copied / "checkpoint-3" / name).unlink()  # nor is the next one whole
    with pytest.raises(ValueError, match=rf"checkpoint-4 is not a whole checkpoint: {name} .*whole one is .*-2"):
        trainer(copied, **SAVING).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_the_model_alone_or_of_another_program_is_told(copied, tmp_path, caplog):
    trainer(tmp_path / "a", max_steps=1, save_only_model=True, **SAVING).train()
    with pytest.raises(ValueError, match=r"model alone.*--save_only_model.*no older whole one"):
        trainer(tmp_path / "a", max_steps=1, save_only_model=True).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"nowhere is not a whole checkpoint: there is no such folder.*-4"):
        checkpoint_to_resume(str(copied / "nowhere"), str(copied))
    # by another program: begun and left
    (copied / "checkpoint-9").mkdir()
    (copied / "checkpoint-9" / "model.safetensors").write_bytes(b"half")
    assert checkpoint_to_resume("True", str(copied)) == str(copied / "checkpoint-4")
    # or finished, without a list
    older = copied / "checkpoint-3"
    (older / LIST_FILE).unlink()
    assert "another program" in faults(older)[0]
    again = trainer(copied, allow_changed_resume=True, **SAVING)
    again.train(resume_from_checkpoint=str(older))
    assert again.state.global_step == 4


def test_the_card_of_a_checkpoint_may_be_edited(copied):
    (copied / "checkpoint-4" / "README.md").write_text("my words")
    assert is_whole(copied / "checkpoint-4")


# ---- rotation ----


def test_the_lowest_steps_go_whatever_the_clock_says(tmp_path):
    class ClockSetBack(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            os.utime(tmp_path / f"checkpoint-{state.global_step}", (0, 2_000_000_000 - 100 * state.global_step))

    trainer(tmp_path, save_total_limit=2, trainer_callbacks=[ClockSetBack()], **SAVING).train()
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"]


def test_checkpoints_of_a_run_that_was_given_up_go_first_and_the_best_one_stays(tmp_path):
    trainer(tmp_path, **SAVING).train()
    trainer(tmp_path, max_steps=1, save_total_limit=3, **SAVING).train()
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]
    kept = checkpoints.Checkpoints(str(tmp_path), 2)
    kept._rotate(str(tmp_path / "checkpoint-4"), best=str(tmp_path / "checkpoint-1"))
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4"]


# ---- one run at a time ----

HOLD = """
import sys, time
from audiorl.files import lock_folder
lock = lock_folder(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_two_runs_do_not_share_an_output_dir_and_a_killed_one_frees_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_WAIT", 0.1)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        dpo = trainer(tmp_path, max_steps=1)
        with pytest.raises(ValueError, match=r"Another run is writing to .*--output_dir"):
            dpo.train()
    finally:
        other.kill()
        other.wait()
        if other.stdout is not None:
            other.stdout.close()
    monkeypatch.undo()
    dpo.train()
    trainer(tmp_path, max_steps=1).train()  # of the same process another one may


def test_strays_of_killed_processes_are_swept(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead = int(done.stdout)
    stray, living = tmp_path / f"evaluation.json.{dead}.part", tmp_path / f"evaluation.json.{os.getppid()}.part"
    other = tmp_path / f"evaluation.json.old.{dead}.part"
    for path in (stray, living, other):
        path.write_text("half")
    with files.whole_file(tmp_path / "evaluation.json") as file:
        file.write("whole")
    assert not stray.exists() and living.exists() and other.exists()
    assert (tmp_path / "evaluation.json").read_text() == "whole"
    (tmp_path / ".incomplete" / "checkpoint-3").mkdir(parents=True)
    trainer(tmp_path, max_steps=1).train()
    assert not living.exists() and not (tmp_path / ".incomplete").exists()  # nobody else writes here


# ---- disks and signals ----


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that is full as soon as a file has so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, kept)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_ends_a_run_with_one_message_that_names_the_last_checkpoint(tmp_path, run, name):
    """safetensors and torch raise errors of their own kinds."""
    room = (run / "checkpoint-1" / name).stat().st_size - 100

    class Fill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                limit.__enter__()

    limit = files_no_larger_than(room)
    dpo = trainer(tmp_path, trainer_callbacks=[Fill()], **SAVING)
    try:
        with pytest.raises(OSError, match=r"checkpoint-3 (could not|to) .*checkpoint-2, is whole: go on"):
            dpo.train()
    finally:
        limit.__exit__(None, None, None)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"] and not (tmp_path / ".incomplete").exists()
    again = trainer(tmp_path, **SAVING)
    again.train(resume_from_checkpoint=True)
    whole = trainer(tmp_path / "whole")
    whole.train()
    assert largest_difference(weights(whole.model), weights(again.model)) == 0


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk):
    dpo = trainer(small_disk, max_steps=60, num_train_epochs=20, **SAVING)
    with pytest.raises(OSError, match=r"The disk is full: .*checkpoint-\d, is whole: go on.*Make room first"):
        dpo.train()
    last = last_whole_checkpoint(str(small_disk))
    assert last is not None and not (small_disk / ".incomplete").exists()
    dpo.checkpoints._lock.release(force=True)  # while its file is there


def test_a_log_that_does_not_fit_is_the_same_message(tmp_path, monkeypatch):
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    dpo = trainer(tmp_path, trainer_callbacks=[], **SAVING)
    monkeypatch.setattr("audiorl.trainers.logs.MetricsFiles.on_log", full)
    with pytest.raises(OSError, match=r"The disk is full: a file of the run.*No checkpoint had been written"):
        dpo.train()


class Sigterm(TrainerCallback):
    """Signals this process within the second step, `times` times."""

    def __init__(self, times: int = 1):
        self.times = times

    def on_step_begin(self, args, state, control, **kwargs):
        for _ in range(self.times if state.global_step == 1 else 0):
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_writes_a_checkpoint_at_the_next_step_and_the_run_goes_on_from_it(tmp_path, capfd):
    dpo = trainer(tmp_path / "run", trainer_callbacks=[Sigterm()], save_strategy="no")
    with pytest.raises(SystemExit) as ended:
        dpo.train()
    assert ended.value.code == 143 and names(tmp_path / "run") == ["checkpoint-2"]
    told = capfd.readouterr().err
    assert "a second one ends the run at once" in told and "stopped by SIGTERM after step 2 of 4" in told
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    again = trainer(tmp_path / "run")
    again.train(resume_from_checkpoint=True)
    whole = trainer(tmp_path / "whole")
    whole.train()
    assert again.state.global_step == 4
    assert largest_difference(weights(whole.model), weights(again.model)) == 0


def test_a_second_sigterm_ends_at_once(tmp_path):
    process = os.fork()
    if process == 0:
        trainer(tmp_path, trainer_callbacks=[Sigterm(times=2)]).train()
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
    assert names(tmp_path) == []


def test_a_handler_of_ones_own_is_left_alone(tmp_path):
    heard: list[int] = []
    kept = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        trainer(tmp_path, trainer_callbacks=[Sigterm()]).train()
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert heard == [signal.SIGTERM]


# ---- weights ----


@pytest.mark.parametrize(
    "settings", [{"learning_rate": float("inf")}, {"adam_epsilon": 0.0}, {"learning_rate": 1e38, "optim": "sgd"}]
)
def test_weights_that_are_not_finite_are_never_saved_nor_called_intact(tmp_path, settings):
    with pytest.raises(FloatingPointError, match=r"not finite.* step \d(?s:.*)No checkpoint had been written"):
        trainer(tmp_path, lr_scheduler_type="constant", max_grad_norm=0.0, **SAVING, **settings).train()
    assert names(tmp_path) == []


INFINITE = {"learning_rate": float("inf"), "lr_scheduler_type": "constant", "max_steps": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"loss is nan at step 2, .*; they were not finite before \(adamw_torch.* with a learning rate of inf\)"),
        ({"max_steps": 1}, r"not finite after the update of step 1, .*adamw_torch.* of inf\)(?s:.*)not\s+saved"),
        ({"save_strategy": "steps", "save_steps": 1}, "not finite after the update of step 1"),
        ({"eval_strategy": "steps", "eval_steps": 1}, "not finite after the update of step 1"),
        ({"save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2}, "(not finite after|is nan)"),
    ],
    ids=["next step", "last step", "saved", "evaluated", "epoch"],
)
def test_weights_that_an_update_spoiled_are_noticed_before_they_are_used(tmp_path, settings, message):
    run = trainer(tmp_path, trainer_eval_dataset=pair_rows(1), **{"save_strategy": "no", **INFINITE, **settings})
    with pytest.raises(FloatingPointError, match=message):
        run.train()
    assert names(tmp_path) == []


def test_weights_are_read_where_they_leave_the_run_and_gradients_never(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(callbacks, "all_finite", lambda tensors: read.append(len(tensors)) or True)
    run = trainer(tmp_path, max_steps=4, save_strategy="steps", save_steps=3)
    run.train()
    trained = sum(parameter.requires_grad for parameter in run.model.parameters())
    assert read == [trained, trained]  # at step 3 and at the last one
