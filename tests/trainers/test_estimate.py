"""Memory and time from a config alone: bytes worked out by hand, operations of the real model, the command."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode

from audiorl.adapters import DECODER_LINEAR
from audiorl.commands import estimate as command
from audiorl.demo import CHECKPOINT
from audiorl.models import disable_dropout, family_class, model_class, speech_family
from audiorl.trainers.estimate import (
    CARDS,
    Device,
    Work,
    batch_of,
    count_pass,
    estimate,
    optimizer_bytes,
    prepare,
    this_machine,
)
from tests.live_memory import LiveMemory
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import saved, tiny_whisper
from tests.tiny_seq2seq import tiny_seq2seq
from tests.tiny_transducers import tiny_transducer

WORK = Work(clips=2, hypotheses=3, tokens=9, seconds=1.0)
SLOW = Device("slow", 1e9, 1e6, 0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return saved(tiny_whisper(), tmp_path_factory.mktemp("whisper"))


def real(name: str):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name)
    model = model_class(config).from_pretrained(name).train()
    disable_dropout(model)
    family = speech_family(model, family_class(model).load_processor(name))
    family.install(model)
    return model, family


@pytest.mark.parametrize("kind", ["whisper", "ctc"])
def test_a_model_without_weights_takes_what_the_real_one_takes(folder, tmp_path, kind):
    name = folder if kind == "whisper" else saved(tiny_ctc("wav2vec2"), tmp_path)
    prepared = prepare(name)
    model, family = real(name)
    batch = batch_of(family, WORK)
    with FlopCounterMode(display=False) as products, LiveMemory() as memory:
        family.score_groups(model, batch).logps.sum().backward()
    counted = count_pass(prepared.family, prepared.model, batch_of(prepared.family, WORK), prepared.mode)
    assert counted.operations == products.get_total_flops() > 0
    assert counted.peak_bytes == pytest.approx(memory.peak_bytes, rel=0.1 if kind == "whisper" else 0.2)


OTHERS = (
    partial(tiny_audio_llm, "qwen2_audio"),
    partial(tiny_seq2seq, "moonshine"),
    partial(tiny_classifier, "wav2vec2-group"),
)


@pytest.mark.parametrize("make", OTHERS, ids=lambda make: make.args[0])
def test_other_families_are_counted_as_well(tmp_path, make):
    found = estimate(prepare(saved(make(), tmp_path)), WORK, SLOW)
    assert found.operations > 1e6 and found.activation_bytes > 1e5 and found.trained > 10_000


def test_a_family_whose_way_depends_on_its_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be counted without them.*--max_steps 1"):
        estimate(prepare(saved(tiny_transducer(), tmp_path)), WORK, SLOW)


def test_bytes_are_those_of_the_parameters(folder):
    model, _ = real(folder)
    size = sum(p.numel() for p in model.parameters())
    whole = estimate(prepare(folder), WORK, SLOW)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (whole.parameters, whole.trained) == (size, trained)
    assert (whole.weight_bytes, whole.gradient_bytes, whole.optimizer_bytes) == (4 * size, 4 * trained, 8 * trained)
    assert whole.reference_bytes == 0
    copied = estimate(prepare(folder), replace(WORK, reference=True, reference_copy=True), SLOW)
    assert copied.reference_bytes == 4 * size and copied.peak_bytes == whole.peak_bytes + 4 * size
    assert copied.operations > whole.operations


def test_what_saves_memory_saves_it_in_the_estimate(folder):
    found = {
        "all": estimate(prepare(folder), WORK, SLOW),
        "frozen": estimate(prepare(folder, freeze_encoder=True), WORK, SLOW),
        "checkpointed": estimate(prepare(folder, checkpointing=True), WORK, SLOW),
    }
    adapter = LoraConfig(r=4, target_modules=DECODER_LINEAR)
    found["adapter"] = estimate(prepare(folder, adapter=adapter), WORK, SLOW)
    for name in ("frozen", "adapter"):
        assert found[name].activation_bytes < found["all"].activation_bytes, name
    assert found["adapter"].trained < found["frozen"].trained < found["all"].trained
    assert found["adapter"].parameters > found["all"].parameters
    assert found["checkpointed"].operations > found["all"].operations > found["frozen"].operations
    half = estimate(prepare(folder), WORK, SLOW, precision="bf16")
    assert half.activation_bytes < found["all"].activation_bytes and half.operations == found["all"].operations


def test_time_is_operations_over_the_rate_and_weights_over_the_bandwidth(folder):
    plain = estimate(prepare(folder), WORK, SLOW)
    assert plain.scoring_seconds == pytest.approx(plain.operations / 0.5e9) and plain.rollout_seconds == 0
    assert plain.audio_seconds == 2
    sampled = estimate(prepare(folder), Work(2, 3, 9, 1.0, micro_batches=4, rollouts=1.0), SLOW)
    model, family = real(folder)
    decoder = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in family.encoder_parameters(model))
    forward = plain.operations / 3  # a backward is two forwards, but for what needs none
    read = 9 * 4 * decoder / 1e6
    assert sampled.rollout_seconds == pytest.approx(4 * (forward / 0.5e9 + read), rel=0.2)
    assert sampled.scoring_seconds == pytest.approx(4 * plain.scoring_seconds) and sampled.audio_seconds == 8


@pytest.mark.parametrize(
    ("name", "size"), [("adamw_torch_fused", 8), ("paged_adamw_8bit", 2), ("adafactor", 0.1), ("sgd", 0), ("odd", 8)]
)
def test_an_optimizer_keeps_what_it_is_known_to_keep(name, size):
    assert optimizer_bytes(name) == size


def test_this_machine_is_measured():
    found = this_machine()
    assert found.operations > 1e8 and found.bandwidth > 1e7
    assert all(card.operations > 1e13 and card.bandwidth > 1e11 for card in CARDS.values())


# ---- the command ----


def told(capsys, *argv: str) -> str:
    command.main(argv)
    return capsys.readouterr().out


def test_the_command_takes_the_flags_of_the_run(capsys, folder):
    flags = ["--model_name_or_path", folder, "--card", "a100", "--transcript_tokens", "9", "--clip_seconds", "1"]
    run = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4", "--num_generations", "3"]
    found = told(capsys, "grpo", *flags, *run, "--beta", "0.1", "--training_rows", "80", "--num_train_epochs", "2")
    assert "2 x 3 hypotheses of 9 tokens, clips of 1 s, float32" in found
    assert "frozen policy" in found and "a step of 4 micro-batches" in found and ", 20 steps" in found
    adapted = told(capsys, "dpo", *flags, "--use_peft", "--lora_decoder_only", "--precision", "bf16")
    assert "8 x 2 hypotheses" in adapted and "frozen policy" not in adapted and "bf16" in adapted
    again = told(capsys, "grpo", *flags, *run, "--num_iterations", "1000000")
    assert "sampling 0 s" not in found and float(again.partition("sampling ")[2].split()[0]) < 1e-6
    assert "RAFT's sampling" in told(capsys, "raft", *flags) and "RAFT" not in found
    assert "312 TFLOP/s" in adapted and "sampling 0 s" in adapted


def test_without_a_model_it_is_the_demos_and_nothing_is_loaded(capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    assert "1.5 M parameters" in told(capsys, "sft", "--device_tflops", "0.1")
    assert CHECKPOINT.is_dir()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--card", "a1000"], r"card.*a100"),
        (["--clip_seconds", "0"], r"clip_seconds has to be above 0"),
        (["--clip_seconds", "1000"], r"hears clips of at most.*Lower --clip_seconds"),
        (["--load_in_8bit", "true", "--use_peft"], r"knows no 8 or 4 bit.*Leave --load_in_8bit"),
    ],
)
def test_what_cannot_be_estimated_is_refused(argv, message):
    with pytest.raises(ValueError, match=message):
        command.main(["sft", *argv])


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"No config could be read.*Check --model_name_or_path"):
        prepare("/no/such/folder")


def test_an_unknown_method_is_named(capsys):
    with pytest.raises(SystemExit):
        command.main(["ppo"])
    assert "ppo is no method that tunes" in capsys.readouterr().err
    assert "METHOD is one of sft" in told(capsys, "--help")
