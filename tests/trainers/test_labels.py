"""Trainers on classifiers: labels for hypotheses, from a checkpoint's name to one that plain transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from peft import LoraConfig
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from audiorl.audio import load_audio
from audiorl.commands.train import grpo as tune
from audiorl.datasets import BadRowsError
from audiorl.evaluation.document import read_document
from audiorl.pairs import unpaired_rows
from audiorl.rewards import LabelMatch, LabelSetMatch
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from audiorl.trainers.grpo import GRPOTrainer
from audiorl.trainers.kto import KTOConfig, KTOTrainer
from audiorl.trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer
from audiorl.trainers.raft import RAFTTrainer
from audiorl.trainers.sft import SFTConfig, SFTTrainer
from tests.tiny_classifiers import DIGITS, LABELS, WAVLM_MASKS, tiny_classifier
from tests.tiny_models import SAMPLING_RATE
from tests.trained_models import CLASSIFIERS, Trained
from tests.trainers import grpo_rows, pair_rows, raft_rows
from tests.trainers.pair_rows import logged

FAMILIES = ("wav2vec2-group", "hubert-layer", "ast", "whisper")


def tones(count: int, **columns: list) -> list[dict[str, Any]]:
    """Clips of 0.4 s and less, each a tone of its own in noise, and the digit that it stands for."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        time = np.arange(int(SAMPLING_RATE * (0.4 - 0.02 * i))) / SAMPLING_RATE
        wave = 0.3 * np.sin(2 * np.pi * 250 * (i + 1) * time) + 0.01 * rng.standard_normal(len(time))
        audio = {"array": wave.astype(np.float32), "sampling_rate": SAMPLING_RATE}
        rows.append({"audio": audio, "text": DIGITS[i], **{name: values[i] for name, values in columns.items()}})
    return rows


def pairs(count: int = 8) -> list[dict[str, Any]]:
    return [{**row, "chosen": row["text"], "rejected": DIGITS[(i + 3) % 10]} for i, row in enumerate(tones(count))]


def checkpoint(folder: Path, kind: str) -> str:
    model, extractor = tiny_classifier(kind)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", FAMILIES)
def test_dpo_lowers_its_loss_on_eight_clips_from_a_checkpoints_name_alone(tmp_path, kind):
    dpo = DPOTrainer(
        checkpoint(tmp_path / "base", kind),
        args=pair_rows.config(tmp_path / "run", max_steps=12, per_device_train_batch_size=8, learning_rate=3e-3),
        train_dataset=pairs(),
    )
    before = dpo.evaluate(pairs())["eval_loss"]
    dpo.train()
    after = dpo.evaluate(pairs())
    assert before == pytest.approx(0.693147, abs=1e-4)
    assert after["eval_loss"] < 0.6 and after["eval_rewards/accuracies"] == 1
    dpo.save_model(str(tmp_path / "tuned"))
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "tuned")
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "tuned")
    row = pairs(1)[0]
    heard = extractor(load_audio(row["audio"], SAMPLING_RATE), sampling_rate=SAMPLING_RATE, return_tensors="pt")
    with torch.no_grad():
        theirs = loaded(**heard).logits.log_softmax(-1)[0]
    ours = dpo.family.score_groups(dpo.model, dpo.data_collator([dpo.train_dataset[0]])).logps[0, :, 0]
    torch.testing.assert_close(ours, theirs[[0, 3]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_grpo_raises_the_reward_on_four_clips(tmp_path, kind):
    model, extractor = tiny_classifier(kind)
    grpo = GRPOTrainer(
        model,
        LabelMatch(column="text"),
        grpo_rows.config(tmp_path, max_steps=24, per_device_train_batch_size=4, num_generations=32, learning_rate=2e-3),
        train_dataset=tones(4),
        processing_class=extractor,
    )
    grpo.train()
    rewards = logged(grpo, "reward")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3
    assert logged(grpo, "accuracy") == pytest.approx(rewards) and not logged(grpo, "wer")
    assert set(logged(grpo, "completions/mean_length")) == {1.0}
    measured = grpo.evaluate(tones(4))
    assert measured["eval_accuracy"] == measured["eval_reward"] >= 0.5 and "eval_wer" not in measured


def test_raft_learns_the_labels_that_were_rewarded(tmp_path):
    model, extractor = tiny_classifier("ast")
    raft = RAFTTrainer(
        model,
        LabelMatch(column="text"),
        args=raft_rows.config(
            tmp_path, num_cycles=6, steps_per_cycle=3, num_generations=24, reward_threshold=1.0, learning_rate=3e-3
        ),
        train_dataset=tones(4),
        processing_class=extractor,
    )
    before = raft.decode(tones(4)).accuracy
    raft.train()
    rewards = logged(raft, "reward")
    assert rewards[-1] > rewards[0] + 0.3 and raft.decode(tones(4)).accuracy > before
    assert logged(raft, "accuracy") == pytest.approx(rewards)


OFFLINE_TRAINERS = {
    "SFT": (SFTTrainer, SFTConfig),
    "DPO": (DPOTrainer, DPOConfig),
    "ORPO": (ORPOTrainer, ORPOConfig),
    "KTO": (KTOTrainer, KTOConfig),
}


def make(combination: Trained, folder: Path) -> tuple[Any, str]:
    """The trainer of a combination, and the number in its log that has to fall or rise."""
    model, extractor = tiny_classifier(combination.model.removesuffix("-labels"))
    adapted = combination.adapter == "LoRA"
    options = {"processing_class": extractor, "peft_config": LoraConfig(r=8, lora_alpha=16) if adapted else None}
    rate = {"learning_rate": 1e-2 if adapted else 3e-3}
    if combination.method in OFFLINE_TRAINERS:
        trainer, config = OFFLINE_TRAINERS[combination.method]
        steps = {"max_steps": 12, "per_device_train_batch_size": 8, **rate}
        steps |= {"beta": 0.5} if combination.method == "KTO" else {}
        args = config(**{**pair_rows.settings(folder), **steps})
        rows = unpaired_rows(pairs()) if combination.method == "KTO" else pairs()
        return trainer(model, args=args, train_dataset=rows, **options), "loss"
    options["train_dataset"] = tones(4)
    if combination.method == "GRPO":
        args = grpo_rows.config(folder, max_steps=24, per_device_train_batch_size=4, num_generations=32, **rate)
        return GRPOTrainer(model, LabelMatch(column="text"), args, **options), "reward"
    cycles = {"num_cycles": 6, "steps_per_cycle": 3, "num_generations": 24, "reward_threshold": 1.0}
    args = raft_rows.config(folder, **cycles, **rate)
    return RAFTTrainer(model, LabelMatch(column="text"), args=args, **options), "reward"


@pytest.mark.parametrize(
    "combination",
    [pytest.param(x, id="-".join(x[:3]), marks=[pytest.mark.slow] if x.slow else []) for x in CLASSIFIERS],
)
def test_training_lowers_the_loss_or_raises_the_reward(tmp_path, combination):
    trainer, name = make(combination, tmp_path)
    trainer.train()
    seen = logged(trainer, name)
    few = 3 if combination.method == "GRPO" else 1
    first, last = sum(seen[:few]) / few, sum(seen[-few:]) / few
    assert last < 0.9 * first if name == "loss" else last > first + 0.3, seen


def test_several_right_labels_share_the_probability(tmp_path):
    """Rewarded for any label of the clip's set: the model's own likeliest ones take it, the others fade."""
    sets = [["one", "two", "Seven"], ["five"], ["zero", "nine"], ["three", "four"]]
    model, extractor = tiny_classifier("ast")
    grpo = GRPOTrainer(
        model,
        LabelSetMatch(),
        grpo_rows.config(
            tmp_path,
            max_steps=30,
            per_device_train_batch_size=4,
            num_generations=16,
            learning_rate=5e-3,
            loss_type="dr_grpo",
        ),
        train_dataset=tones(4, all_labels=sets),
        processing_class=extractor,
    )
    grpo.train()
    rewards = logged(grpo, "reward")
    assert sum(rewards[:3]) / 3 < 0.6 and sum(rewards[-3:]) / 3 > 0.9


def test_a_whole_label_is_a_token_so_every_policy_loss_is_itself(tmp_path):
    """Level "sequence" and "token" are one thing where T = 1, and neither is refused."""
    for level in ("token", "sequence"):
        model, extractor = tiny_classifier("ast")
        grpo = GRPOTrainer(
            model,
            LabelMatch(column="text"),
            grpo_rows.config(
                tmp_path / level,
                max_steps=2,
                importance_sampling_level=level,
                num_iterations=2,
                **pair_rows.PLAIN_STEPS,
            ),
            train_dataset=tones(4),
            processing_class=extractor,
        )
        grpo.train()
        if level == "token":
            expected = pair_rows.weights(grpo.model)
    assert pair_rows.largest_difference(pair_rows.weights(grpo.model), expected) < 1e-6


def test_accuracy_chooses_the_best_checkpoint_where_wer_would(tmp_path):
    model, extractor = tiny_classifier("ast")
    online = OnlineDPOTrainer(
        model,
        reward_funcs=LabelMatch(column="text"),
        args=OnlineDPOConfig(
            **grpo_rows.settings(tmp_path)
            | {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
            | {"load_best_model_at_end": True, "per_device_train_batch_size": 4, "learning_rate": 3e-3}
        ),
        train_dataset=tones(4),
        eval_dataset=tones(4),
        processing_class=extractor,
    )
    online.train()
    measured = logged(online, "eval_accuracy")
    assert len(measured) == 2 and online.state.best_metric == max(measured)
    assert not logged(online, "eval_wer")


def test_a_frozen_encoder_and_an_adapter_train_the_head_alone(tmp_path):
    model, extractor = tiny_classifier("wav2vec2-group")
    start = pair_rows.weights(model)
    frozen = DPOTrainer(
        model,
        args=pair_rows.config(tmp_path / "a", freeze_encoder=True, max_steps=2),
        train_dataset=pairs(),
        processing_class=extractor,
    )
    frozen.train()
    moved = {name for name, value in pair_rows.weights(frozen.model).items() if not torch.equal(value, start[name])}
    assert moved == {"projector.weight", "projector.bias", "classifier.weight", "classifier.bias"}
    model, extractor = tiny_classifier("wav2vec2-group")
    adapted = DPOTrainer(
        model,
        args=pair_rows.config(tmp_path / "b", max_steps=2),
        train_dataset=pairs(),
        processing_class=extractor,
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"]),
    )
    adapted.train()
    assert logged(adapted, "loss")[0] == pytest.approx(0.693147, abs=1e-4)
    assert logged(adapted, "rewards/margins")[1] != 0


def test_an_adapter_in_a_decoder_or_a_frozen_encoder_is_refused_when_the_trainer_is_built(tmp_path):
    """An adapter in the head alone is what a frozen encoder goes with."""

    def built(targets: Any, **changes: Any) -> Any:
        model, extractor = tiny_classifier("wav2vec2-group")
        lora = LoraConfig(r=2, target_modules=targets)
        args = ORPOConfig(**{**pair_rows.settings(tmp_path), **changes})
        return ORPOTrainer(model, args=args, processing_class=extractor, peft_config=lora, train_dataset=pairs(4))

    with pytest.raises(ValueError, match="no decoder apart from its encoder"):
        built("decoder-linear")
    with pytest.raises(ValueError, match=r"which would never change.*the names of the layers behind the encoder"):
        built(None, freeze_encoder=True)
    # all rows in each step: the losses are of the same clips
    all_rows = {"per_device_train_batch_size": 4, "learning_rate": 1e-2}
    orpo = built(["projector", "classifier"], freeze_encoder=True, max_steps=4, **all_rows)
    orpo.train()
    assert orpo.family.encoder_is_frozen(orpo.model) and logged(orpo, "loss")[-1] < logged(orpo, "loss")[0]


@pytest.mark.filterwarnings(WAVLM_MASKS)
def test_wavlm_takes_no_adapter_in_layers_it_never_calls(tmp_path):
    model, extractor = tiny_classifier("wavlm-group")
    options = {"train_dataset": pairs(2), "processing_class": extractor}
    args = pair_rows.config(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="reads the weights of q_proj without calling these layers"):
        DPOTrainer(model, args=args, peft_config=LoraConfig(target_modules=["q_proj"]), **options)
    dpo = DPOTrainer(model, args=args, peft_config=LoraConfig(init_lora_weights=False), **options)
    dpo.family.score_groups(dpo.model, dpo.data_collator([dpo.train_dataset[0]])).logps.sum().backward()
    adapted = {name: p.grad is not None for name, p in dpo.model.named_parameters() if p.requires_grad}
    assert all(adapted.values()) and any("intermediate_dense" in name for name in adapted)


def test_a_reference_with_other_labels_is_refused(tmp_path):
    model, extractor = tiny_classifier("ast")
    other, _ = tiny_classifier("ast")
    other.config.id2label = dict(enumerate(reversed(DIGITS)))
    with pytest.raises(ValueError, match=r"ref_model has the labels \['nine'.*same order"):
        DPOTrainer(model, other, pair_rows.config(tmp_path), train_dataset=pairs(), processing_class=extractor)


def test_an_unknown_label_stops_the_run_before_it_starts(tmp_path):
    model, extractor = tiny_classifier("ast")
    rows = tones(3)
    rows[1]["text"] = "sevn"
    with pytest.raises(BadRowsError, match=r"row 1: text: unknown label 'sevn'; did you mean 'seven'\?"):
        GRPOTrainer(model, "label_match", grpo_rows.config(tmp_path), train_dataset=rows, processing_class=extractor)


def test_the_command_line_tunes_a_classifier_by_its_name_alone(tmp_path, capsys):
    lines = []
    for i, row in enumerate(tones(4)):
        soundfile.write(tmp_path / f"{i}.wav", row["audio"]["array"], SAMPLING_RATE)
        lines.append(json.dumps({"audio": f"{i}.wav", "text": row["text"]}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    settings = {
        "model_name_or_path": checkpoint(tmp_path / "base", "ast"),
        "dataset_name": tmp_path / "rows.jsonl",
        "eval_dataset_name": tmp_path / "rows.jsonl",
        "output_dir": tmp_path / "tuned",
        "reward_funcs": "exact_match",
        "max_steps": 30,
        "per_device_train_batch_size": 4,
        "num_generations": 16,
        "learning_rate": 2e-3,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    tune([argument for name, value in settings.items() for argument in (f"--{name}", str(value))])
    said = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("Accuracy")]
    before, after = (float(words[2]) for words in said)
    assert [words[1] for words in said] == ["before", "after"] and after >= before + 50
    measured = read_document(tmp_path / "tuned" / "evaluation.json")["measurements"]
    assert [100 * one["labels"]["accuracy"] for one in measured] == [before, after]
    recognise = pipeline("audio-classification", model=str(tmp_path / "tuned"), device="cpu")
    right = [recognise(row["audio"]["array"])[0]["label"] == row["text"] for row in tones(4)]
    assert 100 * sum(right) / 4 == after


# ---- real digits ----


def digit_rows(root: Path, speaker: str, takes: range) -> list[dict[str, Any]]:
    folder = root / "data" / "fsdd-mini"
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    wanted = [row for row in rows if row["speaker"] == speaker and int(row["id"].rpartition("_")[2]) in takes]
    return [{**row, "audio": str(folder / row["audio"])} for row in wanted]


@pytest.mark.real_speech
def test_real_digits_are_learnt_from_rewards_alone(tmp_path, test_data):
    """Ten classes at 8 kHz, one speaker: from chance to most of the takes that were not trained on."""
    model, extractor = tiny_classifier("whisper", use_weighted_layer_sum=False)
    grpo = GRPOTrainer(
        model,
        LabelMatch(column="text"),
        grpo_rows.config(
            tmp_path, num_train_epochs=12, per_device_train_batch_size=10, num_generations=16, learning_rate=3e-3
        ),
        train_dataset=digit_rows(test_data, "jackson", range(6)),
        processing_class=extractor,
    )
    unseen = digit_rows(test_data, "jackson", range(6, 8))
    before = grpo.evaluate(unseen)["eval_accuracy"]
    grpo.train()
    after = grpo.evaluate(unseen)["eval_accuracy"]
    assert len(unseen) == 20 and before < 0.3 and after > 0.6
    grpo.save_model(str(tmp_path / "tuned"))
    recognise = pipeline("audio-classification", model=str(tmp_path / "tuned"), device="cpu")
    said = [recognise(load_audio(row["audio"], SAMPLING_RATE))[0]["label"] for row in unseen]
    assert sum(label == row["text"] for label, row in zip(said, unseen, strict=True)) / 20 == after
    assert set(LABELS["id2label"].values()) == set(recognise.model.config.id2label.values())
