"""What editors, type checkers and error messages say of trainers and configs."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any

import pytest
from transformers import TrainingArguments

import audiorl
from audiorl import (
    DPOTrainer,
    GRPOTrainer,
    OnlineDPOConfig,
    OnlineDPOTrainer,
    ORPOTrainer,
    RAFTTrainer,
    SpeechConfig,
    SpeechTrainer,
)
from audiorl.losses import POLICY_LOSSES, PREFERENCE_LOSSES
from audiorl.trainers.base import TrainerArguments
from tests.tiny_models import tiny_whisper
from tests.trainers import grpo_rows

# every trainer and config that `audiorl` exports but the base of both
EXPORTED = [getattr(audiorl, name) for name in audiorl.__all__]
TRAINERS = [kind for kind in EXPORTED if inspect.isclass(kind) and issubclass(kind, SpeechTrainer)]
TRAINERS.remove(SpeechTrainer)
CONFIGS = [kind for kind in EXPORTED if inspect.isclass(kind) and issubclass(kind, SpeechConfig)]
CONFIGS.remove(SpeechConfig)
PLAIN = {"output_dir": "out", "report_to": "none", "use_cpu": True}
WRONG: list[Any] = [-1, 0, 1, 2.5, float("nan"), "nonsense", [], ["sigmoid", "sft"]]


def arguments(kind: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(kind).parameters)


@pytest.mark.parametrize("kind", TRAINERS)
def test_every_argument_is_spelled_out_typed_and_as_in_the_base(kind):
    taken = arguments(kind)
    assert not any(one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in taken.values())
    assert all(one.annotation is not one.empty for one in taken.values())
    shared = {name: one for name, one in arguments(SpeechTrainer).items() if name not in ("model", "args")}
    assert {name: taken[name] for name in shared} == shared
    assert set(shared) == set(TrainerArguments.__annotations__)


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_trainer_is_at_most_four_classes_of_ours(kind):
    """SpeechTrainer, RewardedTrainer, RolloutTrainer, the method; everything else is an object that the trainer has."""
    own = [one.__name__ for one in kind.__mro__ if one.__module__.startswith("audiorl.")]
    assert own[0] == kind.__name__ and own[-1] == "SpeechTrainer" and len(own) <= 4, own


def test_online_dpo_takes_its_arguments_in_the_order_of_trl():
    """(model, ref_model, reward_funcs, args) of `trl.experimental.online_dpo`, 1.16."""
    assert list(arguments(OnlineDPOTrainer))[:4] == ["model", "ref_model", "reward_funcs", "args"]
    model, processor = tiny_whisper()
    settings = {"train_dataset": grpo_rows.rows(4), "processing_class": processor}
    args = OnlineDPOConfig(**PLAIN, num_generations=2)
    OnlineDPOTrainer(model, reward_funcs="one_minus_wer", args=args, **settings)
    OnlineDPOTrainer(model, None, "one_minus_wer", args, **settings)
    with pytest.raises(ValueError, match="takes ref_model before them, as in TRL"):
        OnlineDPOTrainer(model, "one_minus_wer", args, **settings)


@pytest.mark.parametrize("kind", [audiorl.DPOTrainer, audiorl.KTOTrainer, audiorl.GRPOTrainer])
def test_a_config_in_another_arguments_place_is_named(kind, tmp_path):
    args = audiorl.ORPOConfig(output_dir=str(tmp_path), report_to="none")
    second = "reward_funcs" if kind is audiorl.GRPOTrainer else "ref_model"
    with pytest.raises(TypeError, match=f"argument 2 is {second}, and got ORPOConfig. Pass it by name: .*args="):
        kind("model", args)


def test_data_sets_have_to_be_named():
    with pytest.raises(TypeError, match=r"takes model, args without a name, and got 3 .*train_dataset="):
        audiorl.ORPOTrainer("model", None, [])


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        (DPOTrainer, "tokenizer", "the processor is processing_class here"),
        (DPOTrainer, "beta", r"it is a setting, args=DPOConfig\(beta=...\)"),
        (GRPOTrainer, "num_generations", r"args=GRPOConfig\(num_generations=...\)"),
        (ORPOTrainer, "ref_model", "has no frozen policy"),
        (OnlineDPOTrainer, "judge", "rewards are reward_funcs here"),
        (RAFTTrainer, "train_datset", "did you mean 'train_dataset'"),
    ],
)
def test_a_wrong_argument_is_answered_with_the_right_one(kind, name, told):
    with pytest.raises(TypeError, match=f"{kind.__name__} takes no '{name}': .*{told}"):
        kind("base", **{name: None})


def own_fields(config: type) -> set[str]:
    return {f.name for f in fields(config)} - {f.name for f in fields(TrainingArguments)}


def messages(config: type) -> set[str]:
    """All that a config says of wrong values of its own settings, alone and with each of its losses."""
    losses = [*PREFERENCE_LOSSES, *POLICY_LOSSES] if "loss_type" in own_fields(config) else []
    found = set()
    for loss in [None, *losses]:
        names = own_fields(config) if loss is None else own_fields(config) & LOSS_SETTINGS
        for name in sorted(names):
            for value in WRONG:
                try:
                    config(**PLAIN, **({"loss_type": loss} if loss and name != "loss_type" else {}), **{name: value})
                except (ValueError, TypeError, ImportError, OSError) as error:
                    found.add(str(error))
    return found


LOSS_SETTINGS = {"label_smoothing", "beta", "f_divergence_type", "loss_weights", "epsilon", "epsilon_high", "delta"}


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_that_a_message_recommends_is_one_of_the_config_s(config):
    """Unless the message sends the reader to another trainer or config by its name."""
    settings = {name for kind in CONFIGS for name in own_fields(kind) if "_" in name}
    known, said = {f.name for f in fields(config)}, messages(config)
    assert len(said) > 20
    for message in said:
        if re.search(
            r"\b(SFT|KTO|Distillation|DPO|ORPO|GRPO|RAFT|OnlineDPO)(Trainer|Config)\b",
            message.replace(config.__name__, ""),
        ):
            continue
        named = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", message)) & settings
        # "choose from" lists values, some of which are called as a setting is
        assert named <= known, message


def test_the_settings_of_a_loss_are_the_same_in_dpo_and_online_dpo():
    config = OnlineDPOConfig(**PLAIN, loss_type="exo_pair", label_smoothing=1e-3)
    assert config.loss_type == ["exo_pair"] and config.objective().uses_reference
    with pytest.raises(ValueError, match=r"infinite at label_smoothing=0\. Set it to 1e-3"):
        OnlineDPOConfig(**PLAIN, loss_type="exo_pair")
