"""Adapters in a trainer: every kind trains, is saved alone, loads, resumes and merges; AdaLoRA's ranks come down."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import WhisperForConditionalGeneration

from audiorl.adapters import (
    TOLD_BY_TRAINER,
    SpeechModelConfig,
    adapter_config,
    checked_adapter,
    decoder_only_targets,
)
from audiorl.trainers.adapters import adapter_ranks
from audiorl.trainers.loading import merge_and_unload
from tests.tiny_models import saved, tiny_whisper
from tests.trainers.adapted import SAVING, adalora, adapted
from tests.trainers.pair_rows import CHECKPOINTING, PLAIN_STEPS, largest_difference, trainer, weights

# PEFT takes AdaLoRA's rank_pattern for LoRA's when it loads one
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*rank_pattern keys did not match:RuntimeWarning")
SMALL = {"r": 4, "target_modules": ["q_proj", "fc1"]}
KINDS = {
    "lora": lambda: LoraConfig(**SMALL),
    "dora": lambda: LoraConfig(use_dora=True, **SMALL),
    "rslora": lambda: LoraConfig(use_rslora=True, **SMALL),
    "adalora": lambda: adalora(),
    "ia3": lambda: IA3Config(target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"]),
}


def first_scores(dpo) -> torch.Tensor:
    batch = dpo.data_collator([dpo.train_dataset[i] for i in range(2)])
    with torch.no_grad():
        return dpo.family.score_groups(dpo.model, batch).logps


def scores_of(model, dpo) -> torch.Tensor:
    """Of another model, the first two rows."""
    dpo.family.install(model.get_base_model() if isinstance(model, PeftModel) else model)
    batch = dpo.data_collator([dpo.train_dataset[i] for i in range(2)])
    with torch.no_grad():
        return dpo.family.score_groups(model.eval(), batch).logps


@pytest.fixture
def base(tmp_path):
    """A tiny checkpoint in a folder, with its processor."""
    return saved(tiny_whisper(), tmp_path / "base")


# ---- every kind ----


def test_an_adapter_loaded_for_use_alone_is_refused_with_the_way_to_train_it(tmp_path):
    base, processor = tiny_whisper()
    saved((base, processor), tmp_path / "base")
    get_peft_model(base, LoraConfig(**SMALL)).save_pretrained(tmp_path / "adapter")

    def fresh(**loading):
        base = WhisperForConditionalGeneration.from_pretrained(tmp_path / "base")
        return PeftModel.from_pretrained(base, tmp_path / "adapter", **loading)

    with pytest.raises(ValueError, match=r"0 of the model's [\d,]+ parameters are trained.*is_trainable=True"):
        trainer(tmp_path, trainer_model=fresh())
    trainer(tmp_path, trainer_model=fresh(is_trainable=True)).train()


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_trains_and_switched_off_it_is_the_reference(tmp_path, kind):
    before, _ = tiny_whisper()
    dpo = adapted(tmp_path, KINDS[kind]())
    dpo.train()
    batch = dpo.data_collator([dpo.train_dataset[i] for i in range(2)])
    untouched = scores_of(before, dpo)
    reference = dpo.reference.token_logps(dpo.model, batch, None)
    torch.testing.assert_close(reference, untouched, rtol=1e-5, atol=1e-5)
    assert (first_scores(dpo) - untouched).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["lora", "dora", "adalora"])
def test_the_adapter_alone_is_saved_and_loads_on_its_base(tmp_path, base, kind):
    model, _ = tiny_whisper()
    model.config._name_or_path = model.name_or_path = base
    dpo = adapted(tmp_path / "out", KINDS[kind](), trainer_model=model)
    dpo.train()
    dpo.save_model()
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json"} <= written
    assert not {"model.safetensors", "ref", ".incomplete"} & written
    assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_size < 0.5 * sum(
        p.numel() * 4 for p in model.parameters()
    )
    expected = first_scores(dpo)
    loaded = PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(base), tmp_path / "out")
    torch.testing.assert_close(scores_of(loaded, dpo), expected, rtol=1e-5, atol=1e-5)
    merged = merge_and_unload(tmp_path / "out")
    assert type(merged) is WhisperForConditionalGeneration
    torch.testing.assert_close(scores_of(merged, dpo), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "step"),
    [("lora", 3), ("adalora", 3), ("adalora", 7), pytest.param("dora", 3, marks=pytest.mark.slow)],
)
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path, kind, step):
    """Of 8 steps AdaLoRA cuts ranks from step 2 to step 6: step 3 stops amid the cuts, step 7 behind them."""
    whole = adapted(tmp_path / "whole", KINDS[kind](), **SAVING)
    whole.train()
    resumed = adapted(tmp_path / "resumed", KINDS[kind](), **SAVING)
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / "resumed" / f"checkpoint-{step}")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 8
    assert largest_difference(weights(whole.model), weights(resumed.model)) == 0
    if kind == "adalora":
        assert adapter_ranks(resumed.model) == adapter_ranks(whole.model)
        assert resumed.model.peft_config["default"].total_step == 8


@pytest.mark.parametrize("kind", ["lora", "adalora"])
def test_an_adapter_goes_on_from_its_folder_or_as_a_model(tmp_path, base, kind):
    model, _ = tiny_whisper()
    model.config._name_or_path = model.name_or_path = base
    first = adapted(tmp_path / "first", KINDS[kind](), trainer_model=model)
    first.train()
    first.save_model()
    start = first_scores(first)
    ranks = adapter_ranks(first.model)
    for name, source in (("folder", str(tmp_path / "first")), ("model", first.model)):
        again = trainer(tmp_path / name, trainer_model=source, learning_rate=1e-2)
        torch.testing.assert_close(first_scores(again), start, rtol=1e-5, atol=1e-5)
        again.train()
        assert (first_scores(again) - start).abs().max() > 1e-3
        batch = again.data_collator([again.train_dataset[i] for i in range(2)])
        reference = again.reference.token_logps(again.model, batch, None)
        torch.testing.assert_close(reference, start, rtol=1e-5, atol=1e-5)
        # ranks that were allocated stay as they are
        assert adapter_ranks(again.model) == ranks
        again.save_model()
        assert not (tmp_path / name / "ref").exists()
        loaded = PeftModel.from_pretrained(tiny_whisper()[0], tmp_path / name)
        torch.testing.assert_close(scores_of(loaded, again), first_scores(again), rtol=1e-5, atol=1e-5)


def test_a_frozen_encoder_keeps_its_part_of_an_adapter_that_came_with_the_model(tmp_path):
    model, _ = tiny_whisper()
    model = get_peft_model(model, LoraConfig(init_lora_weights=False, **SMALL))
    dpo = trainer(tmp_path, trainer_model=model, freeze_encoder=True)
    before = weights(dpo.model)
    dpo.train()
    after = weights(dpo.model)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved and not any(".encoder." in name for name in moved)
    assert dpo.family.encoder_is_frozen(dpo.model)


# ---- where an adapter sits ----


def test_without_target_modules_attention_and_mlp_are_adapted_and_the_head_is_not(tmp_path):
    dpo = adapted(tmp_path, LoraConfig(r=2))
    found = {name.split(".lora_A")[0].rpartition(".")[2] for name in weights(dpo.model) if ".lora_A" in name}
    assert found == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}


@pytest.mark.parametrize("kind", ["english", "large_v3"])
def test_decoder_only_targets_are_the_decoders_linear_layers(kind):
    model, _ = tiny_whisper(kind)
    config = LoraConfig(r=2, target_modules=decoder_only_targets(model))
    named = weights(get_peft_model(model, config))
    layers = {name.split(".lora_A")[0].removeprefix("base_model.model.") for name in named if ".lora_A" in name}
    expected = {
        name
        for name, module in tiny_whisper(kind)[0].named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.decoder.")
    }
    assert layers == expected and len(layers) == 10 * model.config.decoder_layers


def test_an_adapter_in_the_decoder_only_shares_the_encoder(tmp_path):
    dpo = adapted(tmp_path, LoraConfig(r=2, target_modules="decoder-linear"), freeze_encoder=True)
    calls = []
    dpo.model.get_base_model().model.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    dpo.train()
    assert len(calls) == dpo.state.global_step


def test_the_users_configuration_is_not_changed():
    model, _ = tiny_whisper()
    config = LoraConfig(r=2)
    assert checked_adapter(model, config).target_modules == "all-linear"
    assert config.target_modules is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("lora", r"peft_config describes an adapter, but it is a str: 'lora'. Pass"),
        (LoraConfig(target_modules=["q_proj", "ffc1"]), r"\['ffc1'\] match no module.*Did you mean fc1"),
        (LoraConfig(target_modules=r".*decode\..*"), r"match no module of WhisperFor.*k_proj"),
        (LoraConfig(task_type="CAUSAL_LM", target_modules=["fc1"]), r"CAUSAL_LM.*insists on text inputs. Leave"),
        (PromptTuningConfig(num_virtual_tokens=2), r"PROMPT_TUNING puts prompts.*Use one"),
        (adalora(init_r=2, target_r=2), r"init_r down to target_r.*got 2 and 2"),
        (adalora(deltaT=0), r"deltaT >= 1"),
        (adalora(tinit=-1), r"tinit and tfinal are steps"),
    ],
)
def test_a_wrong_adapter_is_refused_before_rows_are_read(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, [{"audio": "missing.wav", "chosen": "a", "rejected": "b"}], trainer_peft_config=config)


def test_an_adapter_folder_that_cannot_be_read_says_why(tmp_path):
    for content, message in (
        ({"peft_type": "MAGIC"}, "no adapter that this version of PEFT can read"),
        ({"peft_type": "LORA", "target_modules": ["fc1"]}, "does not say which model"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path / "out", trainer_model=str(tmp_path))


# ---- flags ----


def test_flags_become_the_adapter_they_describe():
    assert adapter_config(SpeechModelConfig()) is None
    lora = adapter_config(SpeechModelConfig(use_peft=True, lora_r=4, use_dora=True))
    assert (lora.r, lora.use_dora, lora.task_type, lora.target_modules) == (4, True, None, None)
    assert adapter_config(SpeechModelConfig(use_peft=True, use_rslora=True)).use_rslora
    own = adapter_config(SpeechModelConfig(use_peft=True, lora_target_modules=["q_proj", "fc1"]))
    assert own.target_modules == {"q_proj", "fc1"}
    assert adapter_config(SpeechModelConfig(use_peft=True, lora_decoder_only=True)).target_modules == "decoder-linear"
    ada = adapter_config(SpeechModelConfig(use_peft=True, peft_type="AdaLoRA", lora_r=5, adalora_tinit=3))
    assert (ada.init_r, ada.target_r, ada.tinit, ada.tfinal, ada.deltaT) == (8, 5, 3, 0.3, 10)
    assert ada.total_step == TOLD_BY_TRAINER


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"use_peft": True, "peft_type": "adalor"}, r"--peft_type adalor is unknown.*Did you mean adalora"),
        ({"use_peft": True, "peft_type": "prefix"}, r"known: lora, adalora"),
        ({"lora_r": 8}, r"--lora_r would do nothing without an adapter. Add --use_peft"),
        ({"peft_type": "adalora"}, r"--peft_type would do nothing.*--use_peft"),
        ({"use_peft": True, "adalora_tinit": 5}, r"--adalora_tinit belong to AdaLoRA"),
        ({"use_peft": True, "peft_type": "adalora", "use_dora": True}, r"AdaLoRA has no --use_dora"),
        ({"use_peft": True, "lora_decoder_only": True, "lora_target_modules": ["fc1"]}, "Choose one"),
        ({"attn_implementation": "eager"}, r"--attn_implementation must stay unset.*SDPA"),
        ({"lora_task_type": "CAUSAL_LM", "use_peft": True}, "text inputs"),
        ({"use_bnb_nested_quant": True}, r"--use_bnb_nested_quant would do nothing.*--load_in_4bit"),
        ({"load_in_4bit": True, "dtype": "auto"}, "4-bit layers"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "at the same time"),
    ],
)
def test_flags_that_contradict_or_do_nothing_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        SpeechModelConfig(**flags)


# ---- precision and memory ----


@pytest.mark.parametrize("kind", ["lora", "adalora"])
def test_checkpointing_gives_an_adapter_the_same_weights(tmp_path, kind):
    plain = adapted(tmp_path / "a", KINDS[kind](), **PLAIN_STEPS)
    checkpointed = adapted(tmp_path / "b", KINDS[kind](), **{CHECKPOINTING: True}, **PLAIN_STEPS)
    plain.train()
    checkpointed.train()
    assert any(getattr(module, "gradient_checkpointing", False) for module in checkpointed.model.modules())
    assert largest_difference(weights(plain.model), weights(checkpointed.model)) < 1e-6
    start = weights(adapted(tmp_path / "c", KINDS[kind](), **PLAIN_STEPS).model)
    assert largest_difference(weights(plain.model), start) > 1e-5


def test_bf16_computes_in_bfloat16_and_trains_an_adapter_in_float32(tmp_path):
    dpo = adapted(tmp_path, adalora(orth_reg_weight=0.1), bf16=True, num_train_epochs=5)
    seen = set()
    layer = dpo.model.get_base_model().model.decoder.layers[0].fc1
    layer.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    dpo.train()
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in dpo.model.parameters()} == {torch.float32}
    logged = [log["rewards/margins"] for log in dpo.state.log_history if "rewards/margins" in log]
    assert sum(logged[-4:]) / 4 > 0.1
