"""The trainers on CTC models and transducers, which they do not know by name."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCTC, AutoProcessor

from audiorl.adapters import SpeechModelConfig
from audiorl.datasets import BadRowsError
from audiorl.flags import load_from_flags
from audiorl.losses import PREFERENCE_LOSSES
from audiorl.losses.policy import POLICY_LOSSES
from audiorl.models import speech_family
from audiorl.pairs import unpaired_rows
from audiorl.trainers.distillation import DistillationConfig, DistillationTrainer
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from audiorl.trainers.grpo import GRPOConfig, GRPOTrainer
from audiorl.trainers.kto import KTOConfig, KTOTrainer
from audiorl.trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer
from audiorl.trainers.raft import RAFTTrainer
from audiorl.trainers.sft import SFTConfig, SFTTrainer
from tests.tiny_ctc import KINDS as CTC
from tests.tiny_ctc import SLOW_WRITERS, tiny_ctc
from tests.tiny_models import SAMPLING_RATE, tiny_clips
from tests.tiny_transducers import KINDS as TRANSDUCERS_HERE
from tests.tiny_transducers import tiny_transducer
from tests.trained_models import CTC as CELLS
from tests.trained_models import DISTILLATION, TRANSDUCERS, Trained
from tests.trainers import grpo_rows, raft_rows
from tests.trainers.ctc_rows import pairs, short_rows, texts
from tests.trainers.pair_rows import PLAIN_STEPS, largest_difference, logged, settings, weights

# Tiny models whose rewards fall again at the others' rate.
UNSTEADY = ("data2vec", "sew", "sew_d", "wav2vec2_bert", "granite_speech5")
# At the rate of the others their rewards rise and fall again, or rise too little to tell.
ADAPTER_RATES = {("wav2vec2", "GRPO"): 1e-2, ("parakeet", "GRPO"): 1e-2, ("nemotron3_5", "RAFT"): 1e-2}
OFFLINE_TRAINERS = {
    "SFT": (SFTTrainer, SFTConfig),
    "DPO": (DPOTrainer, DPOConfig),
    "ORPO": (ORPOTrainer, ORPOConfig),
    "KTO": (KTOTrainer, KTOConfig),
}


def make(combination: Trained, folder):
    """The trainer of a combination, and the number in its log that has to fall or rise."""
    if combination.model not in (*CTC, *TRANSDUCERS_HERE):
        pytest.skip("this transformers has no such model")
    build = tiny_transducer if combination.model in TRANSDUCERS else tiny_ctc
    model, processor = build(combination.model)
    adapted = combination.adapter == "LoRA"
    lora = LoraConfig(r=8, lora_alpha=16)
    if combination.model == "parakeet" and combination.method in ("GRPO", "RAFT"):
        # below its frozen head rewards stay at 0.2, at rank 8 and at rank 32; with the head they go from 0.1 to 0.5
        lora.target_modules = {"linear1", "linear2", "q_proj", "v_proj", "ctc_head"}
    options = {"processing_class": processor, "peft_config": lora if adapted else None}
    if combination.method == DISTILLATION:
        # without a distribution over tokens: what the same model writes before its weights shrink
        teacher, theirs = build(combination.model)
        steps = {"num_train_epochs": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2 if adapted else 1e-3}
        alone = {"transcripts_only": True, "lmbda": 0.0, "allow_silence": True}
        args = DistillationConfig(**{**settings(folder), **steps, **alone})
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.mul_(0.8 if "bias" not in name else 1.0)
        options |= {
            "teacher_processing_class": theirs,
            "train_dataset": [{"audio": row["audio"]} for row in texts(8, 2.8)],
        }
        return DistillationTrainer(model, teacher, args, **options), "loss"
    if combination.method in OFFLINE_TRAINERS:
        trainer, config = OFFLINE_TRAINERS[combination.method]
        adapter_rate = 3e-3 if combination.model == "granite_speech5" else 1e-2
        rate = {"learning_rate": adapter_rate if adapted else 1e-3}
        args = config(**{**settings(folder), "num_train_epochs": 4, "per_device_train_batch_size": 8, **rate})
        seconds = 2.8 if combination.model in SLOW_WRITERS else 1.6
        made = {"SFT": texts, "KTO": lambda *given: unpaired_rows(pairs(*given))}.get(combination.method, pairs)
        rows = made(8, seconds)
        return trainer(model, args=args, train_dataset=rows, **options), "loss"
    options["train_dataset"] = short_rows(combination.model)
    if combination.model in TRANSDUCERS and combination.method == "GRPO":
        with torch.no_grad():  # with blanks as likely as they are, saying nothing wins before a word was drawn
            model.joint.head.bias[model.config.blank_token_id] -= 1.5
    adapter_rate = 5e-3 if combination.model in (*TRANSDUCERS, *UNSTEADY) else 2e-2
    adapter_rate = ADAPTER_RATES.get((combination.model, combination.method), adapter_rate)
    rate = {"learning_rate": adapter_rate if adapted else 5e-3, "per_device_train_batch_size": 4}
    if combination.method == "RAFT":
        # of the large Wav2Vec2's samples one in hundreds is right, of a transducer's too
        samples = 1024 if combination.model in ("wav2vec2-large", *TRANSDUCERS) else 256
        cycles = {"num_cycles": 6, "steps_per_cycle": 4, "num_generations": samples, "reward_threshold": 1.0}
        args = raft_rows.config(folder, **cycles, **rate)
        return RAFTTrainer(model, ["one_minus_wer"], args=args, **options), "reward"
    steps = {"num_generations": 32, "lr_scheduler_type": "constant", "max_steps": 60, "loss_type": "grpo"}
    args = GRPOConfig(**{**settings(folder), **steps, **rate})
    return GRPOTrainer(model, ["one_minus_wer"], args=args, **options), "reward"


@pytest.mark.parametrize(
    "combination",
    [pytest.param(x, id="-".join(x[:3]), marks=[pytest.mark.slow] if x.slow else []) for x in CELLS],
)
def test_training_lowers_the_loss_or_raises_the_reward(tmp_path, combination):
    trainer, name = make(combination, tmp_path)
    before = weights(trainer.model)
    trainer.train()
    seen = [entry[name] for entry in trainer.state.log_history if name in entry]
    assert all(map(math.isfinite, seen)) and largest_difference(before, weights(trainer.model)) > 0
    few = 5 if combination.method == "GRPO" else 1
    first, last = sum(seen[:few]) / few, sum(seen[-few:]) / few
    assert last < first - 0.02 if name == "loss" else last > first + 0.15, seen


def test_a_checkpoint_is_trained_by_its_name_alone_and_loads_in_plain_transformers(tmp_path):
    """Full circle: folder -> flags -> trainer -> folder -> AutoModelForCTC, which transcribes as the trainer does."""
    model, processor = tiny_ctc()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    args = DPOConfig(**{**settings(tmp_path / "tuned"), "eval_wer": True, "eval_strategy": "epoch"})
    flags = SpeechModelConfig(model_name_or_path=str(tmp_path / "base"))
    loaded, found, adapter = load_from_flags(flags, args)
    rows = pairs()
    trainer = DPOTrainer(
        loaded, args=args, train_dataset=rows, eval_dataset=rows[:2], processing_class=found, peft_config=adapter
    )
    trainer.train()
    trainer.save_model()
    assert any("eval_wer" in entry for entry in trainer.state.log_history)
    plain = AutoModelForCTC.from_pretrained(tmp_path / "tuned").eval()
    own = AutoProcessor.from_pretrained(tmp_path / "tuned")
    clip = tiny_clips(1)[0]
    with torch.no_grad():
        logits = plain(**own(clip, sampling_rate=SAMPLING_RATE, return_tensors="pt")).logits
    said = own.batch_decode(logits.argmax(-1))[0]
    assert said == trainer.family.transcribe(trainer.model, trainer.family.features([clip]))[0]
    assert "forward" not in vars(plain) and plain.config.layerdrop == 0.3


def test_dpo_loss_is_that_of_stock_ctc_losses(tmp_path):
    """One optimizer step's loss by hand: two stock forwards of single clips, no reference drift at the first step."""
    model, processor = tiny_ctc()
    args = DPOConfig(**{**settings(tmp_path), "loss_type": ["sigmoid", "sft"], "max_steps": 1})
    dpo = DPOTrainer(model, args=args, train_dataset=pairs(2), processing_class=processor)
    batch = dpo.data_collator([dpo.train_dataset[i] for i in range(2)])
    stock, _ = tiny_ctc()
    logps, symbols = 0.0, 0
    for row in pairs(2):
        made = processor(row["audio"]["array"], sampling_rate=SAMPLING_RATE, return_tensors="pt")
        frame_logps = stock(**made).logits[0].log_softmax(-1)
        ids = torch.tensor(processor.tokenizer(row["chosen"].upper()).input_ids)
        sizes = torch.tensor(len(frame_logps)), torch.tensor(len(ids))
        logps += -torch.nn.functional.ctc_loss(frame_logps, ids, *sizes, blank=0, reduction="sum").item()
        symbols += len(ids) + 1  # and the end
    found = dpo.compute_loss(dpo.model.eval(), batch).item()
    assert found == pytest.approx(math.log(2) - logps / symbols, rel=1e-5)


@pytest.mark.parametrize("changes", [{"sft_weight": 0.5}, {"beta": 0.05, "num_iterations": 2}, {"loss_type": "mwer"}])
def test_rollouts_learn_from_whole_hypotheses(tmp_path, changes):
    model, processor = tiny_ctc()
    args = GRPOConfig(**{**grpo_rows.settings(tmp_path), "loss_type": "grpo", "max_steps": 2, **changes})
    grpo = GRPOTrainer(model, [grpo_rows.letters], args=args, train_dataset=texts(), processing_class=processor)
    before = weights(grpo.model)
    grpo.train()
    assert largest_difference(before, weights(grpo.model)) > 0
    assert all(math.isfinite(entry["loss"]) for entry in grpo.state.log_history if "loss" in entry)


def test_the_first_update_is_policy_gradient_of_the_ctc_likelihood(tmp_path):
    model, processor = tiny_ctc()
    args = GRPOConfig(**{**grpo_rows.settings(tmp_path), "loss_type": "grpo", "temperature": 0.9})
    grpo = GRPOTrainer(model, [grpo_rows.letters], args=args, train_dataset=texts(), processing_class=processor)
    batch = grpo.data_collator([grpo.train_dataset[i] for i in range(2)])
    (inputs,), _ = grpo.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    grpo.current_gradient_accumulation_steps = 1
    grpo.model.train()
    grpo.compute_loss(grpo.model, inputs).backward()
    stock, _ = tiny_ctc()
    expected = 0.0
    for b, row in enumerate(texts(2)):
        made = processor(row["audio"]["array"], sampling_rate=SAMPLING_RATE, return_tensors="pt")
        frame_logps = (stock(**made).logits[0] / 0.9).log_softmax(-1)
        for k in range(4):
            ids = inputs.tokens[b, k, 1:][inputs.keep[b, k]][:-1]
            sizes = torch.tensor(len(frame_logps)), torch.tensor(len(ids))
            loss = torch.nn.functional.ctc_loss(frame_logps, ids, *sizes, blank=0, reduction="sum")
            expected = expected + inputs["advantages"][b, k] * loss / 8
    expected.backward()
    mine = {name: p.grad for name, p in grpo.model.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None and name in mine}
    scale = max(float(g.abs().max()) for g in theirs.values())
    assert scale > 1e-3 and largest_difference(mine, theirs) < 1e-4 * scale


def test_online_dpo_learns_from_the_best_and_the_worst(tmp_path):
    model, processor = tiny_ctc()
    args = OnlineDPOConfig(**{**grpo_rows.settings(tmp_path), "max_steps": 2, "loss_type": "sigmoid_norm"})
    trainer = OnlineDPOTrainer(
        model, reward_funcs=[grpo_rows.letters], args=args, train_dataset=texts(), processing_class=processor
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), rel=1e-3)


@pytest.mark.parametrize(
    ("made", "config", "changes", "problem"),
    [
        (DPOTrainer, DPOConfig, {"ld_alpha": 0.5}, "ld_alpha=0.5 weighs the tokens"),
        (GRPOTrainer, GRPOConfig, {"entropy_coef": 0.1}, "entropy_coef is made of tokens"),
        (
            GRPOTrainer,
            GRPOConfig,
            {"mask_truncated_completions": True},
            "samples a hypothesis as a whole and cuts none",
        ),
        (GRPOTrainer, GRPOConfig, {"top_k": 5}, "top_k, .* samples a hypothesis as a whole"),
        (OnlineDPOTrainer, OnlineDPOConfig, {"top_p": 0.9}, "samples a hypothesis as a whole"),
    ],
)
def test_terms_made_of_tokens_are_refused_when_the_trainer_is_built(tmp_path, made, config, changes, problem):
    """Before the rows are looked at: there are none."""
    model, processor = tiny_ctc()
    rewards = {} if made is DPOTrainer else {"reward_funcs": [grpo_rows.letters]}
    with pytest.raises(ValueError, match=problem):
        made(model, **rewards, args=config(**{**settings(tmp_path), **changes}), processing_class=processor)


@pytest.mark.parametrize("loss_type", POLICY_LOSSES)
def test_each_policy_loss_is_itself_with_whole_hypotheses_or_is_refused(tmp_path, loss_type):
    """T = 1: a mean over tokens is one over hypotheses; what is not refused takes the step of GRPO, MWER its own."""

    def stepped(name: str, level: str) -> dict[str, torch.Tensor]:
        model, processor = tiny_ctc()
        cap = {"epsilon_high": 5.0} if name == "cispo" else {}
        steps = {**grpo_rows.settings(tmp_path), "max_steps": 1, **PLAIN_STEPS, **cap}
        args = GRPOConfig(**{**steps, "loss_type": name, "importance_sampling_level": level})
        grpo = GRPOTrainer(model, [grpo_rows.letters], args=args, train_dataset=texts(4), processing_class=processor)
        before = weights(grpo.model)
        grpo.train()
        return {weight: after - before[weight] for weight, after in weights(grpo.model).items()}

    if loss_type != "mwer":  # which has no ratios
        with pytest.raises(ValueError, match=f"'{loss_type}' at level 'sequence' is made of tokens"):
            stepped(loss_type, "sequence")
    if POLICY_LOSSES[loss_type].needs_tokens:
        with pytest.raises(ValueError, match=f"'{loss_type}' at level '(token|sequence)' is made of tokens"):
            stepped(loss_type, "token")
        return
    step, expected = stepped(loss_type, "token"), stepped("grpo", "token")
    largest = max(float(change.abs().max()) for change in expected.values())
    assert largest > 1e-4
    difference = largest_difference(step, expected)
    assert difference > 0.1 * largest if loss_type == "mwer" else difference < 1e-3 * largest


def test_every_preference_loss_takes_whole_transcripts(tmp_path):
    model, processor = tiny_ctc()
    changes = {"loss_type": list(PREFERENCE_LOSSES), "label_smoothing": 0.1, "max_steps": 3, "learning_rate": 1e-4}
    args = DPOConfig(**{**settings(tmp_path), **changes})
    dpo = DPOTrainer(model, args=args, train_dataset=pairs(), processing_class=processor)
    dpo.train()
    for name in PREFERENCE_LOSSES:
        seen = logged(dpo, f"loss/{name}")
        assert len(seen) == 3 and all(map(math.isfinite, seen)) and len(set(seen)) == 3, (name, seen)


def test_a_transcript_that_its_clip_cannot_say_is_a_bad_row(tmp_path):
    model, processor = tiny_ctc()
    rows = pairs(3)
    rows[1]["chosen"] = "a very long sentence " * 5
    args = DPOConfig(**settings(tmp_path))
    with pytest.raises(BadRowsError, match=r"the clip is 1\.44 s long, the model needs 2\.\d\d s to write chosen"):
        DPOTrainer(model, args=args, train_dataset=rows, processing_class=processor)
    args = DPOConfig(**{**settings(tmp_path), "on_bad_rows": "skip", "max_steps": 1})
    trainer = DPOTrainer(model, args=args, train_dataset=rows, processing_class=processor)
    assert len(trainer.train_dataset) == 2
    trainer.train()


def test_long_transcripts_are_no_fault_of_rollouts_that_the_audio_limits(tmp_path):
    model, processor = tiny_ctc()
    args = GRPOConfig(**{**grpo_rows.settings(tmp_path), "max_completion_length": 3})
    made = GRPOTrainer(model, ["one_minus_wer"], args=args, train_dataset=texts(), processing_class=processor)
    assert len(made.train_dataset) == 8


def test_a_clip_that_augmentation_makes_too_short_is_left_out(tmp_path):
    model, processor = tiny_ctc()
    family = speech_family(model, processor)
    text = "she had a dog in greasy water at a"
    seconds = family.least_seconds(text) * 1.02
    clip = tiny_clips(1, seconds=seconds)[0]
    rows = [{"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "chosen": text, "rejected": "a dog"}]
    fast = {"speed": {"factor": 1.25}}
    args = DPOConfig(**{**settings(tmp_path), "augmentation": fast, "max_steps": 1})
    trainer = DPOTrainer(model, args=args, train_dataset=rows, processing_class=processor)
    with pytest.raises(BadRowsError, match="the model needs"):
        trainer.train()


def test_wavlm_takes_no_adapter_in_layers_it_never_calls(tmp_path):
    model, processor = tiny_ctc("wavlm")
    options = {"train_dataset": pairs(2), "processing_class": processor}
    args = DPOConfig(**{**settings(tmp_path), "max_steps": 1})
    with pytest.raises(ValueError, match="reads the weights of q_proj, v_proj without calling these layers"):
        DPOTrainer(model, args=args, peft_config=LoraConfig(target_modules=["q_proj", "v_proj"]), **options)
    trainer = DPOTrainer(model, args=args, peft_config=LoraConfig(init_lora_weights=False), **options)
    adapted = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert any("intermediate_dense" in name for name in adapted) and not any("q_proj" in name for name in adapted)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    trainer.family.score_groups(trainer.model, batch).logps.sum().backward()
    assert all(p.grad is not None for p in trainer.model.parameters() if p.requires_grad)


def test_a_decoder_adapter_says_that_there_is_no_decoder(tmp_path):
    model, processor = tiny_ctc()
    with pytest.raises(ValueError, match="no decoder apart from its encoder"):
        DPOTrainer(
            model,
            args=DPOConfig(**settings(tmp_path)),
            train_dataset=pairs(2),
            processing_class=processor,
            peft_config=LoraConfig(target_modules="decoder-linear"),
        )
