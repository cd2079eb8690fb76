"""Trainers, evaluation and mining that read kept states: equal to encoding, to the last bit where they are exact."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from audiorl.collator import SpeechCollator
from audiorl.commands.evaluate import main as evaluate
from audiorl.datasets import speech_rows
from audiorl.demo import CHECKPOINT
from audiorl.evaluation.transcription import transcribe
from audiorl.models import EncoderCache, speech_family
from audiorl.pairs import mine_pairs
from audiorl.trainers.loading import fill_encoder_cache
from tests.tiny_models import tiny_whisper
from tests.trainers import grpo_rows, pair_rows, raft_rows
from tests.trainers.pair_rows import PLAIN_STEPS, largest_difference, logged, weights
from tests.trainers.processes import finished, run_script
from tests.trainers.text_rows import distillation, kto, sft, text_rows

EXACT = {"encoder_cache_dtype": "model"}
# A matrix product may round a row differently beside others. States are made of each clip alone, so the run without
# them that they equal to the last bit also hears each clip alone.
ALONE = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}
# name -> a trainer of two epochs; evaluation decodes
MAKERS = {
    "sft": lambda folder, **more: sft(folder, num_train_epochs=2, **more),
    "dpo": lambda folder, **more: pair_rows.trainer(folder, num_train_epochs=2, **more),
    "kto": lambda folder, **more: kto(folder, num_train_epochs=2, gradient_accumulation_steps=2, **more),
    "grpo": lambda folder, **more: grpo_rows.trainer(folder, num_train_epochs=2, beta=0.1, sft_weight=0.2, **more),
    "online_dpo": lambda folder, **more: grpo_rows.trainer(folder, online_dpo=True, num_iterations=2, **more),
    "raft": lambda folder, **more: raft_rows.trainer(folder, **more),
}


def forbid_audio(trainer: Any) -> None:
    """Fill the cache now; afterwards neither features nor the encoder are computed."""
    for rows in (trainer.train_dataset, trainer.eval_dataset):
        fill_encoder_cache(trainer, rows)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the audio was read, though its states are kept")

    trainer.family.features = trainer.family._encode = never


@pytest.mark.parametrize("method", MAKERS)
def test_a_run_on_exact_states_is_the_run_without_them(tmp_path, method):
    watched: dict[str, Any] = {"freeze_encoder": True, **ALONE}
    if method != "kto":
        rows = pair_rows.pair_rows(3) if method == "dpo" else text_rows(3)
        watched |= {"trainer_eval_dataset": rows, "eval_strategy": "epoch", "eval_wer": True}
    plain = MAKERS[method](tmp_path / "plain", **watched)
    plain.train()
    kept = MAKERS[method](tmp_path / "kept", **watched, **EXACT, encoder_cache=str(tmp_path / "states"))
    forbid_audio(kept)
    kept.train()
    assert largest_difference(weights(plain.model), weights(kept.model)) == 0
    for name in ("loss", "eval_wer", "reward"):
        assert logged(plain, name) == logged(kept, name)
    assert logged(kept, "loss")


def test_batches_of_exact_states_are_those_of_audio_to_rounding(tmp_path):
    plain, kept = (
        sft(tmp_path / name, freeze_encoder=True, per_device_train_batch_size=4, **PLAIN_STEPS, **cache)
        for name, cache in (("plain", {}), ("kept", {**EXACT, "encoder_cache": str(tmp_path / "states")}))
    )
    plain.train()
    kept.train()
    assert largest_difference(weights(plain.model), weights(kept.model)) < 1e-6


def test_bfloat16_states_change_little_and_are_read_by_the_next_run(tmp_path):
    plain, first, second = (
        pair_rows.trainer(tmp_path / name, freeze_encoder=True, **cache)
        for name, cache in (("a", {}), *[(name, {"encoder_cache": str(tmp_path / "states")}) for name in "bc"])
    )
    plain.train()
    first.train()
    forbid_audio(second)
    second.train()
    assert largest_difference(weights(first.model), weights(second.model)) == 0
    assert logged(plain, "loss") != logged(first, "loss")
    assert logged(plain, "loss") == pytest.approx(logged(first, "loss"), rel=2e-3)


@pytest.mark.slow
def test_resumed_and_in_two_processes_the_run_is_the_same(tmp_path):
    """Resumed to the last bit; two processes to rounding, as without kept states."""
    same = {"freeze_encoder": True, "encoder_cache": tmp_path / "states", "num_train_epochs": 2}
    found = {}
    for name, own, processes in (
        ("whole", {}, 1),
        ("stopped", {"save_strategy": "steps", "save_steps": 1, "kill": "in a step"}, 1),
        ("stopped", {"resume": True, "save_strategy": "no"}, 1),
        ("two", {"per_device_train_batch_size": 1}, 2),
    ):
        folder = tmp_path / name
        done = run_script("run_dpo.py", {**same, **own, "output_dir": folder, "out": f"{folder}.pt"}, processes)
        assert done.returncode == (-signal.SIGKILL if "kill" in own else 0), done.stderr[-2000:]
        if "kill" not in own:
            found[name] = finished(Path(f"{folder}.pt"))["weights"]
    assert largest_difference(found["whole"], found["stopped"]) == 0
    assert largest_difference(found["whole"], found["two"]) < 1e-5


def test_references_share_the_states(tmp_path):
    """Scores made beforehand, and an adapter in the decoder whose reference is the model without it."""
    lora = LoraConfig(target_modules=r".*decoder.*(q_proj|v_proj)")
    for name, changes in (
        ("beforehand", {"freeze_encoder": True, "precompute_ref_log_probs": True, **ALONE}),
        ("adapter", {"trainer_peft_config": lora, **ALONE}),
    ):
        plain = pair_rows.trainer(tmp_path / f"{name}-plain", **changes)
        plain.train()
        kept = pair_rows.trainer(
            tmp_path / f"{name}-kept", **changes, **EXACT, encoder_cache=str(tmp_path / f"{name}-states")
        )
        kept.train()
        assert largest_difference(weights(plain.model), weights(kept.model)) == 0


def test_a_teacher_with_the_students_encoder_reads_the_same_states(tmp_path):
    teacher, _ = tiny_whisper()
    with torch.no_grad():
        teacher.get_decoder().layers[0].fc1.weight.mul_(1.5)
    changes = {"freeze_encoder": True, "lmbda": 0.5, "trainer_teacher_model": teacher, **ALONE}
    plain = distillation(tmp_path / "plain", **changes)
    plain.train()
    kept = distillation(tmp_path / "kept", **changes, **EXACT, encoder_cache=str(tmp_path / "states"))
    forbid_audio(kept)
    kept.train()
    assert largest_difference(weights(plain.model), weights(kept.model)) == 0
    with pytest.raises(ValueError, match="the teacher has another encoder"):
        distillation(tmp_path / "other", freeze_encoder=True, encoder_cache=str(tmp_path / "states"))


# ---- evaluation and mining ----


def test_evaluation_and_mining_say_the_same(tmp_path, monkeypatch):
    model, processor = tiny_whisper()
    rows = speech_rows(text_rows(5))
    said = transcribe(model, processor, rows, batch_size=2, progress=False)
    mining = {"num_generations": 4, "strategy": "transcript_vs_each", "measure_wer": True, "progress": False}
    pairs = mine_pairs(model, processor, rows, **mining)
    family = speech_family(model, processor)
    family.encoder_cache = EncoderCache(tmp_path, family, model, dtype="model")
    assert transcribe(model, processor, rows, batch_size=2, progress=False, family=family) == said
    monkeypatch.setattr(family, "_encode", None)  # all is kept
    again = mine_pairs(model, processor, rows, family=family, **mining)
    assert again.rows == pairs.rows and again.wer == pairs.wer and again.rows


def test_the_command_fills_and_reads_a_cache(tmp_path, capsys):
    given = ["--model_name_or_path", str(CHECKPOINT), "--dataset_name", "demo", "--limit", "2", "--device", "cpu"]
    cached = ["--encoder_cache", str(tmp_path / "states"), "--encoder_cache_dtype", "model"]
    printed = []
    for flags in ([], cached):
        evaluate([*given, "--resamples", "50", *flags])
        (line,) = [line for line in capsys.readouterr().out.splitlines() if " demo " in line]
        printed.append(line.split()[:-1])  # without RTFx
    assert printed[0] == printed[1]
    assert len(list((tmp_path / "states").rglob("*.safetensors"))) == 2


# ---- refused, before anything is spent ----


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"augmentation": '{"speed": {"factor": [0.9, 1.1]}}'}, "augmentation changes the clips in each epoch"),
        ({"disable_dropout": False}, "with disable_dropout off it gives another one at each step"),
        ({"freeze_encoder": False}, "this encoder is trained, so that it changes. Freeze it"),
    ],
)
def test_a_changing_encoder_is_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        sft(tmp_path, **{"freeze_encoder": True, **changes}, encoder_cache=str(tmp_path / "states"))
    assert not (tmp_path / "states").exists()


def test_a_type_without_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is none\. Name its folder"):
        sft(tmp_path, encoder_cache_dtype="model")


def test_another_encoder_of_the_reference_or_of_a_checkpoint_is_refused(tmp_path):
    other, model = tiny_whisper()[0], tiny_whisper()[0]
    with torch.no_grad():
        other.get_encoder().layer_norm.weight.mul_(1.1)
        model.get_encoder().layer_norm.weight.mul_(1.2)
    cache = {"freeze_encoder": True, "encoder_cache": str(tmp_path / "states")}
    with pytest.raises(ValueError, match="the frozen policy has another encoder"):
        pair_rows.trainer(tmp_path / "dpo", trainer_ref_model=other, **cache)
    sft(tmp_path / "run", save_strategy="steps", save_steps=2, max_steps=2, trainer_model=model, **cache).train()
    with pytest.raises(ValueError, match="is another one than the model's"):
        sft(tmp_path / "run", max_steps=3, allow_changed_resume=True, **cache).train(resume_from_checkpoint=True)


def test_streams_and_collators_without_states_are_refused(tmp_path):
    cache = {"freeze_encoder": True, "encoder_cache": str(tmp_path / "states")}
    stream = speech_rows(text_rows()).to_iterable_dataset()
    with pytest.raises(ValueError, match="the rows are a stream"):
        sft(tmp_path / "stream", stream, max_steps=1, **cache).train()
    plain = SpeechCollator(speech_family(*tiny_whisper()), ("text",))
    with pytest.raises(ValueError, match="encoder_cache is read by SpeechCollator"):
        sft(tmp_path / "own", trainer_data_collator=lambda rows: plain(rows), **cache).train()


def test_states_that_are_gone_stop_the_run(tmp_path):
    trainer = sft(tmp_path / "run", freeze_encoder=True, encoder_cache=str(tmp_path / "states"))
    fill_encoder_cache(trainer, trainer.train_dataset)
    next((tmp_path / "states").rglob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match="has no states of its clip"):
        trainer.train()
