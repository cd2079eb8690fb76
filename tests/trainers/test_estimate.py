"""Memory and time from a config alone: bytes worked out by hand, operations of the real model, the command."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from peft import LoraConfig

from audiorl.adapters import DECODER_LINEAR
from audiorl.commands import estimate as command
from audiorl.demo import CHECKPOINT
from audiorl.losses import transducer as transducer_losses
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
    product_counter,
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


@pytest.mark.parametrize("kind", ["whisper", "ctc", "checkpointing"])
def test_a_model_without_weights_takes_what_the_real_one_takes(folder, tmp_path, kind):
    name = saved(tiny_ctc("wav2vec2"), tmp_path) if kind == "ctc" else folder
    prepared = prepare(name, checkpointing=kind == "checkpointing")
    model, family = real(name)
    if kind == "checkpointing":
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    batch = batch_of(family, WORK)
    operations, peak_bytes = measured(model, family, batch)
    counted = count_pass(prepared.family, prepared.model, batch_of(prepared.family, WORK), prepared.mode)
    assert counted.operations == operations > 0
    assert counted.peak_bytes == pytest.approx(peak_bytes, rel=0.2 if kind == "ctc" else 0.1)


def measured(model, family, batch) -> tuple[int, int]:
    """Operations and the peak of memory of real passes; counting products keeps tensors alive."""
    with product_counter() as products:
        family.score_groups(model, batch).logps.sum().backward()
    model.zero_grad(set_to_none=True)
    with LiveMemory() as memory:
        family.score_groups(model, batch).logps.sum().backward()
    return products.get_total_flops(), memory.peak_bytes


@pytest.mark.parametrize("kind", ["parakeet_rnnt", "parakeet_tdt"])
def test_a_transducer_takes_at_most_what_is_counted_where_its_weights_decide(tmp_path, monkeypatch, kind):
    """The weights decide which nodes of the lattice the backward pass computes again: all of them are counted."""
    name = saved(tiny_transducer(kind), tmp_path)
    prepared = prepare(name)
    model, family = real(name)
    batch = batch_of(family, WORK)
    counted = count_pass(prepared.family, prepared.model, batch_of(prepared.family, WORK), prepared.mode)
    monkeypatch.setattr(transducer_losses, "_visited", lambda taken: torch.zeros_like(taken[..., 0], dtype=torch.bool))
    least, _ = measured(model, family, batch)
    monkeypatch.setattr(transducer_losses, "_visited", lambda taken: torch.ones_like(taken[..., 0], dtype=torch.bool))
    most, peak_bytes = measured(model, family, batch)
    assert least < counted.operations == most
    assert counted.peak_bytes == pytest.approx(peak_bytes, rel=0.2)


def test_attention_and_lstms_are_counted():
    """Worked by hand; torch's own counter says 0 for both on a CPU.

    Attention: scores and their sum of values, 2 x 2 B H S L d. Backward: scores again, and four products more.
    An LSTM: at each step 4 D x (C + D) products, twice that in the backward pass.
    """
    query = torch.randn(2, 3, 5, 8, requires_grad=True)  # B, H, S, d
    key = torch.randn(2, 3, 7, 8, requires_grad=True)  # L = 7
    with product_counter() as products:
        torch.nn.functional.scaled_dot_product_attention(query, key, key).sum().backward()
    once = 2 * 2 * 3 * 5 * 7 * 8
    assert products.get_total_flops() == (2 + 5) * once
    lstm = torch.nn.LSTM(6, 4, num_layers=2, batch_first=True)
    steps = torch.randn(3, 9, 6, requires_grad=True)
    with product_counter() as products:
        lstm(steps)[0].sum().backward()
    forward = 2 * 3 * 9 * 16 * ((6 + 4) + (4 + 4))
    assert products.get_total_flops() == 3 * forward


OTHERS = (
    partial(tiny_audio_llm, "qwen2_audio"),
    partial(tiny_seq2seq, "moonshine"),
    partial(tiny_classifier, "wav2vec2-group"),
)


@pytest.mark.parametrize("make", OTHERS, ids=lambda make: make.args[0])
def test_other_families_are_counted_as_well(tmp_path, make):
    found = estimate(prepare(saved(make(), tmp_path)), WORK, SLOW)
    assert found.operations > 1e6 and found.activation_bytes > 1e5 and found.trained > 10_000


def test_a_family_whose_way_depends_on_its_weights_is_refused(folder, monkeypatch):
    prepared = prepare(folder)
    plain = prepared.family.score_groups
    monkeypatch.setattr(prepared.family, "score_groups", lambda *given: plain(*given).logps.nonzero())
    with pytest.raises(ValueError, match=r"WhisperFamily computes.*cannot be counted without them.*--max_steps 1"):
        estimate(prepared, WORK, SLOW)


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
    batch = batch_of(family, WORK)
    drawn = int(batch.keep[0, 0].sum())
    assert 0 < drawn < 9
    read = drawn * 4 * decoder / 1e6
    assert sampled.rollout_seconds == pytest.approx(4 * (forward / 0.5e9 + read), rel=0.2)
    assert sampled.scoring_seconds == pytest.approx(4 * plain.scoring_seconds) and sampled.audio_seconds == 8


def test_a_rollout_calls_the_decoder_as_often_as_is_told(folder, tmp_path, monkeypatch):
    model, family = real(folder)
    batch = batch_of(family, WORK)
    calls = []
    plain = type(family)._decode
    monkeypatch.setattr(type(family), "_decode", lambda *given: calls.append(1) or plain(*given))
    noise = torch.full((WORK.clips, WORK.hypotheses, int(batch.keep[0, 0].sum())), 0.5)
    samples = family.sample_groups(model.eval(), batch, noise)
    assert family.decoder_calls(batch) == len(calls) == int(samples.keep.sum(-1).max())
    _, ctc = real(saved(tiny_ctc("wav2vec2"), tmp_path / "ctc"))
    assert ctc.decoder_calls(batch_of(ctc, WORK)) == 0
    _, transducer = real(saved(tiny_transducer(), tmp_path / "transducer"))
    batch = batch_of(transducer, WORK)
    frames = int(transducer._frames(batch)[0])
    # the kept tokens are the symbols and the blank at the end
    assert transducer.decoder_calls(batch) == frames + int(batch.keep[0, 0].sum()) - 1


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
