"""The model around the call: wrappers, adapters, copies, files, and a user's own calls.

Training: a family's models learn from pairs, their checkpoints are resumed and load without this library.
"""

from __future__ import annotations

import copy
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from audiorl.batch import GroupBatch
from audiorl.models import base_model, disable_dropout, speech_family
from audiorl.testing.case import (
    FamilyCase,
    Ready,
    assert_same_gradients,
    get_ready,
    gradients,
    loss_weights,
    perturb,
    single_batches,
    weighted_loss,
    whole_batch,
)
from audiorl.trainers.dpo import DPOConfig, DPOTrainer


def a_users_own_calls_stay_as_they_were(case: FamilyCase) -> None:
    model, processor = case.build()
    untouched, _ = case.build()
    family = speech_family(model, processor)
    batch = whole_batch(case, family)
    with torch.no_grad():
        expected = case.ordinary(untouched, batch)
        family.score_groups(model, batch)
        found = case.ordinary(model, batch)
    for theirs, ours in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def a_saved_checkpoint_has_no_trace_of_us(case: FamilyCase) -> None:
    family, model, batch = get_ready(case)
    family.score_groups(model, batch)
    untouched, _ = case.build()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        written = {path.name: path.read_text() for path in Path(folder).glob("*.json")}
        loaded = type(model).from_pretrained(folder).eval()
        untouched.save_pretrained(folder)
        expected = {path.name: path.read_text() for path in Path(folder).glob("*.json")}
        outputs = zip(case.ordinary(loaded, batch), case.ordinary(untouched, batch), strict=True)
        for found, plain in outputs:
            torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-6)
    assert written == expected and "config.json" in written
    assert type(loaded) is type(model) and "forward" not in vars(loaded)


def a_deep_copy_runs_its_own_weights(case: FamilyCase) -> None:
    family, model, batch = get_ready(case)
    before = family.score_groups(model, batch).logps.detach()
    duplicate = copy.deepcopy(model)
    perturb(model)
    moved = family.score_groups(model, batch).logps.detach()
    assert (moved - before).abs().max() > 1e-2
    assert torch.equal(family.score_groups(duplicate, batch).logps, before), "the copy follows the original"
    perturb(duplicate)
    perturb(duplicate)
    assert torch.equal(family.score_groups(model, batch).logps, moved), "the original follows the copy"


def dropout_is_off_once_it_is_disabled(case: FamilyCase) -> None:
    model, processor = case.build()
    family = speech_family(model, processor)
    batch = whole_batch(case, family)
    quiet = family.score_groups(model, batch).logps
    config = model.config.to_dict()
    model.train()
    assert not torch.equal(family.score_groups(model, batch).logps, quiet), "the case has no dropout to disable"
    disable_dropout(model)
    for _ in range(2):
        torch.testing.assert_close(family.score_groups(model, batch).logps, quiet, rtol=1e-6, atol=1e-6)
    assert model.config.to_dict() == config


def gradient_checkpointing_gives_the_same_gradients(case: FamilyCase) -> None:
    if not case.checkpointing:
        return
    family, model, batch = get_ready(case)
    weights = loss_weights(batch)
    expected = gradients(model, weighted_loss(family.score_groups(model, batch).logps, weights))
    # transformers 5.23 renamed it and warns of the old name, older ones know no other
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.train()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    found = gradients(model, weighted_loss(family.score_groups(model, batch).logps, weights))
    assert_same_gradients(found, expected)


def with_lora(case: FamilyCase) -> tuple[Ready, PeftModel]:
    ready = get_ready(case)
    # a fresh adapter changes nothing; this one begins with random weights
    config = LoraConfig(r=2, lora_alpha=8, target_modules=list(case.lora_targets), init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ready, get_peft_model(ready.model, config)


def grouped_scoring_equals_single_calls_with_lora(case: FamilyCase) -> None:
    (family, model, batch), adapted = with_lora(case)
    assert base_model(adapted) is model
    weights = loss_weights(batch)
    total = torch.zeros(())
    logps = family.score_groups(adapted, batch).logps
    for b, k, single in single_batches(case, family):
        alone = family.score_groups(adapted, single).logps
        torch.testing.assert_close(logps[b, k].sum(), alone.sum(), rtol=1e-5, atol=1e-5)
        total = total + weighted_loss(alone, weights[b, k])
    expected = gradients(adapted, total)
    assert expected and all("lora_" in name for name in expected)
    found = gradients(adapted, weighted_loss(logps, weights))
    assert_same_gradients(found, expected)


def the_adapter_switched_off_is_the_base(case: FamilyCase) -> None:
    plain = get_ready(case)
    expected = plain.family.score_groups(plain.model, plain.batch).logps
    (family, _, batch), adapted = with_lora(case)
    assert (family.score_groups(adapted, batch).logps - expected).abs().max() > 1e-3
    # without a graph some convolutions take another path and round otherwise
    with adapted.disable_adapter():
        torch.testing.assert_close(family.score_groups(adapted, batch).logps, expected, rtol=1e-6, atol=1e-6)


def distributed_data_parallel_sees_one_forward(case: FamilyCase) -> None:
    family, model, batch = get_ready(case)
    weights = loss_weights(batch)
    scores = family.score_groups(model, batch)
    expected = gradients(model, weighted_loss(scores.logps, weights))
    noise = torch.rand(len(case.clips), 2, family.noise_length(batch, 3))
    plain_samples = family.sample_groups(model, batch, noise)
    calls: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            wrapped = DistributedDataParallel(model)
            wrapped.register_forward_pre_hook(lambda module, args: calls.append(1))
            logps = family.score_groups(wrapped, GroupBatch(batch)).logps
            found = gradients(wrapped, weighted_loss(logps, weights))
            assert torch.equal(family.encode(wrapped, batch), scores.states)
            assert torch.equal(family.sample_groups(wrapped, batch, noise).tokens, plain_samples.tokens)
        finally:
            distributed.destroy_process_group()
    assert len(calls) == 3
    assert base_model(wrapped) is model
    torch.testing.assert_close(logps, scores.logps, rtol=1e-6, atol=1e-6)
    assert_same_gradients({name.removeprefix("module."): gradient for name, gradient in found.items()}, expected)


def the_encoder_is_what_the_states_depend_on(case: FamilyCase) -> None:
    family, model, batch = get_ready(case)
    assert not family.encoder_is_frozen(model)
    reads = gradients(model, family.encode(model, batch).square().sum())
    named = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    assert {named[id(p)] for p in family.encoder_parameters(model) if p.requires_grad} == set(reads)
    family.freeze_encoder(model)
    assert family.encoder_is_frozen(model)
    scores = family.score_groups(model, batch)
    assert not scores.states.requires_grad
    if set(reads) == set(named.values()):  # the head has weights of the encoder
        assert not scores.logps.requires_grad
        return
    trained = gradients(model, scores.logps.sum())
    assert trained and not set(trained) & set(reads)


WRAPPING_CHECKS = (
    a_users_own_calls_stay_as_they_were,
    a_saved_checkpoint_has_no_trace_of_us,
    a_deep_copy_runs_its_own_weights,
    dropout_is_off_once_it_is_disabled,
    gradient_checkpointing_gives_the_same_gradients,
    grouped_scoring_equals_single_calls_with_lora,
    the_adapter_switched_off_is_the_base,
    distributed_data_parallel_sees_one_forward,
    the_encoder_is_what_the_states_depend_on,
)


STEPS = 6


def pairs_of(case: FamilyCase, sampling_rate: int) -> list[dict[str, Any]]:
    """A row for each clip with its first two texts that say something."""
    rows = []
    for i, (clip, texts) in enumerate(zip(case.clips, case.texts, strict=True)):
        chosen, rejected = [text for text in texts if text][:2]
        audio = {"array": clip, "sampling_rate": sampling_rate}
        rows.append({"audio": audio, "chosen": chosen, "rejected": rejected, **case.row(i)})
    return rows


def trained(case: FamilyCase, folder: str, resume_from: Path | None = None) -> DPOTrainer:
    """The trainer after `STEPS` steps on all pairs at once, a checkpoint written half way and at the end."""
    model, processor = case.build()
    args = DPOConfig(
        output_dir=folder,
        learning_rate=1e-3,
        per_device_train_batch_size=len(case.clips),
        max_steps=STEPS,
        save_steps=STEPS // 2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = pairs_of(case, speech_family(model, processor).sampling_rate)
    trainer = DPOTrainer(model, args=args, processing_class=processor, train_dataset=rows)
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    return trainer


def a_trainer_lowers_its_loss_resumes_and_leaves_a_plain_checkpoint(case: FamilyCase) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = trained(case, folder)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert len(losses) == STEPS and all(map(math.isfinite, losses)) and losses[-1] < losses[0] - 1e-3
        loaded = type(trainer.model).from_pretrained(Path(folder) / f"checkpoint-{STEPS}").eval()
        batch = whole_batch(case, trainer.family)
        with torch.no_grad():
            outputs = zip(case.ordinary(loaded, batch), case.ordinary(trainer.model.eval(), batch), strict=True)
            for found, expected in outputs:
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        final = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        resumed = trained(case, folder, Path(folder) / f"checkpoint-{STEPS // 2}")
        for name, weight in resumed.model.state_dict().items():
            torch.testing.assert_close(weight, final[name], rtol=1e-6, atol=1e-6)


TRAINING_CHECKS = (a_trainer_lowers_its_loss_resumes_and_leaves_a_plain_checkpoint,)
