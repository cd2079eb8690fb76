"""Quantised bases, 8-bit and paged optimizers, on the CPU kernels of bitsandbytes."""

from __future__ import annotations

import shutil

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration

from audiorl import adapters
from audiorl.flags import adapter_and_quantization
from audiorl.models import speech_family
from audiorl.models.eight_bit import RoundedProduct
from audiorl.models.forward import footprint, weight_bytes
from audiorl.testing.case import group_batch
from audiorl.trainers.dpo import DPOTrainer
from audiorl.trainers.loading import load_model, merge_and_unload
from tests.tiny_audio_llms import KINDS as AUDIO_LLMS
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_models import saved, tiny_clips, tiny_whisper
from tests.trained_models import FAST_QUANTISED
from tests.trainers.adapted import adalora
from tests.trainers.pair_rows import config, largest_difference, logged, pair_rows, trainer, weights

# PEFT takes AdaLoRA's rank_pattern for LoRA's when it loads one
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*rank_pattern keys did not match:RuntimeWarning")
BASES = {
    "8 bit": {"load_in_8bit": True},
    "4 bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}


@pytest.fixture
def base(tmp_path):
    return saved(tiny_whisper(), tmp_path / "base")


def on_quantised(base, folder, bits, peft_config, **changes):
    return DPOTrainer(
        base,
        args=config(folder, **{"learning_rate": 1e-2, "num_train_epochs": 4, **changes}),
        train_dataset=pair_rows(4),
        quantization_config=BitsAndBytesConfig(**BASES[bits]),
        peft_config=peft_config,
    )


def logps(family, model, rows):
    family.install(model.get_base_model() if isinstance(model, PeftModel) else model)
    with torch.no_grad():
        return family.score_groups(model.eval(), rows).logps


@pytest.mark.parametrize(
    ("kind", "bits"),
    [("lora", "8 bit"), ("lora", "4 bit"), ("dora", "4 bit"), ("adalora", "8 bit"), ("adalora", "4 bit")],
)
def test_an_adapter_on_a_quantised_base_learns_and_loads_on_the_full_one(tmp_path, base, bits, kind, capsys):
    small = {"r": 4, "target_modules": ["q_proj", "fc1"]}
    configs = {"lora": LoraConfig(**small), "dora": LoraConfig(use_dora=True, **small), "adalora": adalora()}
    quick = {"learning_rate": 5e-2, "num_train_epochs": 12} if kind == "adalora" else {}
    dpo = on_quantised(base, tmp_path / "out", bits, configs[kind], **quick)
    dpo.train()
    line = capsys.readouterr().out.splitlines()[0]
    assert "parameters are trained" in line and f"linear layers in {bits}" in line and "MB" in line
    losses = [log["loss"] - log.get("loss/orthogonality", 0.0) for log in dpo.state.log_history if "loss" in log]
    assert losses[0] == pytest.approx(0.693147, abs=1e-3)
    assert sum(losses[-2:]) / 2 < 0.65
    dpo.save_model()
    full = WhisperForConditionalGeneration.from_pretrained(base)
    check_the_adapter_on(full, dpo, {"8 bit": 0.95, "4 bit": 0.7}[bits])


def check_the_adapter_on(full, dpo, at_least):
    """What was learnt came along: it moves the full base as it moved the quantised one, with that cosine."""
    batch = dpo.data_collator([dpo.train_dataset[i] for i in range(4)])
    learnt = logps(dpo.family, dpo.model, batch) - dpo.reference.token_logps(dpo.model, batch, None)
    before = logps(dpo.family, full, batch)
    adapted = PeftModel.from_pretrained(full, dpo.args.output_dir)
    after = logps(dpo.family, adapted, batch)
    merged = logps(dpo.family, merge_and_unload(dpo.args.output_dir), batch)
    torch.testing.assert_close(merged, after, rtol=1e-3, atol=1e-3)
    alike = torch.nn.functional.cosine_similarity((after - before).flatten(), learnt.flatten(), 0)
    assert alike > at_least
    assert 0.5 < (after - before).norm() / learnt.norm() < 2
    assert {p.dtype for p in adapted.parameters()} == {torch.float32}


QUANTISED = {"4 bit": Linear4bit, "8 bit": Linear8bitLt}
# The others take as long again: they run before a release.
AUDIO_LLM_BASES = [
    pytest.param(kind, bits, marks=[pytest.mark.slow] * ((kind, bits) not in FAST_QUANTISED))
    for kind in AUDIO_LLMS
    for bits in BASES
]


@pytest.mark.parametrize(("kind", "bits"), AUDIO_LLM_BASES)
def test_an_audio_language_model_learns_on_a_quantised_base_with_its_tower_whole(tmp_path, kind, bits):
    model, processor = tiny_audio_llm(kind)
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    asked = BitsAndBytesConfig(**BASES[bits])
    dpo = DPOTrainer(
        str(tmp_path / "base"),
        args=config(tmp_path / "out", learning_rate=3e-3, num_train_epochs=4),
        train_dataset=pair_rows(4, language=["en"] * 4),
        quantization_config=asked,
        peft_config=LoraConfig(r=8, lora_alpha=16),
    )
    assert asked.llm_int8_skip_modules is None
    rounded = {name: part for name, part in dpo.model.named_modules() if isinstance(part, QUANTISED[bits])}
    adapted = [name for name, _ in dpo.model.named_modules() if name.endswith("base_layer")]
    assert adapted and set(adapted) <= set(rounded)
    whole = {id(parameter) for parameter in dpo.family.encoder_parameters(dpo.model)}
    assert not any(id(part.weight) in whole for part in rounded.values())
    batch = dpo.data_collator([dpo.train_dataset[i] for i in range(4)])
    with torch.no_grad():
        states, full = dpo.family.encode(dpo.model, batch), speech_family(model, processor).encode(model, batch)
    assert states.dtype == torch.float32 and torch.equal(states, full)
    dpo.train()
    losses = logged(dpo, "loss")
    assert losses[0] == pytest.approx(0.693147, abs=1e-3) and sum(losses[-2:]) / 2 < 0.6
    dpo.save_model()
    loaded = type(model).from_pretrained(tmp_path / "base", dtype=torch.float32)
    # every layer of a language model of width 32 is rounded: 4 bits are coarser here than in a Whisper's three
    check_the_adapter_on(loaded, dpo, {"8 bit": 0.95, "4 bit": 0.5}[bits])


def test_a_quantised_audio_language_model_computes_in_the_dtype_it_was_loaded_in(tmp_path):
    """States are the tower's, in bfloat16 too; what is learnt from is float32."""
    model, processor = tiny_audio_llm("qwen2_audio")
    model.save_pretrained(tmp_path / "base")
    for dtype in (torch.float32, torch.bfloat16):
        quantised = BitsAndBytesConfig(**BASES["4 bit"], bnb_4bit_compute_dtype=dtype)
        args = config(tmp_path, model_init_kwargs={"dtype": str(dtype).removeprefix("torch.")})
        loaded = load_model(str(tmp_path / "base"), args, quantised)
        family = speech_family(loaded, processor)
        batch = group_batch(family, tiny_clips(1), [["the dog", "a fox"]])
        scores = family.score_groups(loaded, batch)
        assert scores.states.dtype == dtype and scores.logps.dtype == torch.float32
        assert torch.isfinite(scores.logps).all() and scores.logps.sum() < 0


def test_a_user_s_choice_of_what_stays_whole_is_kept(tmp_path):
    model, _ = tiny_audio_llm("qwen2_audio")
    model.save_pretrained(tmp_path / "base")
    mine = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head"])
    loaded = load_model(str(tmp_path / "base"), config(tmp_path), mine)
    assert isinstance(loaded.model.audio_tower.layers[0].fc1, Linear4bit) and type(loaded.lm_head) is torch.nn.Linear


def test_the_footprint_counts_weights_scales_and_what_is_trained(base, tmp_path):
    """8 bit: one byte for each weight of a quantised layer and a float32 scale for each of its rows."""
    args = config(tmp_path)
    full = load_model(base, args)
    eight = load_model(base, args, BitsAndBytesConfig(load_in_8bit=True))
    saved = sum(
        3 * module.weight.numel() - 4 * module.weight.shape[0]
        for name, module in full.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "proj_out"
    )
    assert weight_bytes(full) == 4 * sum(p.numel() for p in full.parameters())
    assert weight_bytes(full) - weight_bytes(eight) == saved
    batch = {"input_features": torch.zeros(1, 80, 100), "decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)}
    eight(**batch)  # bitsandbytes moves the scales on the first forward
    assert weight_bytes(full) - weight_bytes(eight) == saved
    total = sum(p.numel() for p in full.parameters())
    trained = sum(p.numel() for p in full.parameters() if p.requires_grad)
    assert f"{trained:,} of {total:,} parameters are trained" in footprint(full)
    four = load_model(base, args, BitsAndBytesConfig(**BASES["4 bit"]))
    assert f" of {total:,} parameters" in footprint(four), "two weights share a byte"
    assert weight_bytes(four) < weight_bytes(full)


def test_full_training_of_a_quantised_model_is_refused_before_rows_are_read(tmp_path, base):
    with pytest.raises(ValueError, match=r"quantised model cannot be trained.*peft_config"):
        DPOTrainer(
            base,
            args=config(tmp_path / "out"),
            train_dataset=[{"audio": "missing.wav", "chosen": "a", "rejected": "b"}],
            quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        )


def test_dora_on_eight_bits_without_a_gpu_is_refused(tmp_path, base):
    with pytest.raises(ValueError, match=r"DoRA on an 8-bit base does not run on a CPU.*Use load_in_4bit"):
        on_quantised(base, tmp_path / "out", "8 bit", LoraConfig(r=4, use_dora=True, target_modules=["fc1"]))


def test_evaluation_leaves_four_bit_weights_trainable(tmp_path):
    """Of 64 and more columns: bitsandbytes repacks those for inference where the CPU has bfloat16 instructions."""
    wide = tiny_whisper(d_model=64, encoder_ffn_dim=128, decoder_ffn_dim=128)
    lora = LoraConfig(r=4, target_modules=["q_proj"])
    dpo = on_quantised(saved(wide, tmp_path / "base"), tmp_path / "out", "4 bit", lora)
    batch = dpo.data_collator([dpo.train_dataset[i] for i in range(2)])

    def gradients_of() -> list[torch.Tensor]:
        dpo.model.train()
        dpo.model.zero_grad()
        dpo.family.score_groups(dpo.model, batch).logps.sum().backward()
        return [p.grad.clone() for p in dpo.model.parameters() if p.grad is not None]

    before = gradients_of()
    dpo.evaluate(pair_rows(2))
    dpo.decode([{**row, "text": "the dog"} for row in pair_rows(2)])
    after = gradients_of()
    assert len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_four_bit_model_that_was_repacked_is_refused(tmp_path, base):
    model = load_model(base, config(tmp_path), BitsAndBytesConfig(**BASES["4 bit"]))
    model.model.decoder.layers[0].fc1.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match=r"4-bit model has run in evaluation mode.*Load it anew"):
        trainer(tmp_path / "out", trainer_model=model, trainer_peft_config=LoraConfig(r=2, target_modules=["fc1"]))


def test_without_bitsandbytes_quantised_bases_and_its_optimizers_say_what_to_install(tmp_path, base, monkeypatch):
    monkeypatch.setattr("audiorl.adapters.is_bitsandbytes_available", lambda: False)
    for flag in ("load_in_8bit", "load_in_4bit"):
        with pytest.raises(ImportError, match=rf"--{flag} needs bitsandbytes, .*pip install 'audiorl\[quantization\]'"):
            adapter_and_quantization(adapters.SpeechModelConfig(**{flag: True}))
    with pytest.raises(ImportError, match=r"Loading .* in 8 bit needs bitsandbytes"):
        load_model(base, config(tmp_path), BitsAndBytesConfig(load_in_8bit=True))
    with pytest.raises(ImportError, match=r"optim='adamw_bnb_8bit' needs bitsandbytes"):
        config(tmp_path, optim="adamw_bnb_8bit")
    config(tmp_path, optim="adamw_torch_8bit")


@pytest.mark.parametrize("name", ["adamw_bnb_8bit", "adamw_8bit", "lion_8bit"])
def test_an_eight_bit_optimizer_takes_nearly_the_steps_of_its_full_precision_twin(tmp_path, name):
    twin = {"lion_8bit": "lion_32bit"}.get(name, "adamw_torch")
    start = weights(trainer(tmp_path / "start").model)
    moved = {}
    for optim in (name, twin):
        dpo = trainer(tmp_path / optim, optim=optim, num_train_epochs=2)
        dpo.train()
        moved[optim] = torch.cat([(p - start[n]).flatten() for n, p in weights(dpo.model).items()])
        states = [
            s for s in dpo.optimizer.state.values() if any(getattr(v, "dtype", None) == torch.uint8 for v in s.values())
        ]
        assert bool(states) is (optim == name), "states of large matrices are quantised, and only here"
    assert torch.nn.functional.cosine_similarity(moved[name], moved[twin], 0) > 0.9


@pytest.mark.parametrize(
    ("optim", "instead"),
    [
        ("paged_adamw_8bit", "'adamw_8bit'"),
        ("paged_adamw_32bit", "'adamw_torch'"),
        ("paged_lion_8bit", "'lion_8bit'"),
        ("paged_ademamix_32bit", "'ademamix'"),
    ],
)
def test_a_paged_optimizer_without_a_gpu_is_refused_with_one_that_runs(tmp_path, optim, instead):
    with pytest.raises(ValueError, match=rf"optim='{optim}' moves its state.*no GPU here.*Use {instead}"):
        config(tmp_path, optim=optim)
    config(tmp_path, optim=instead.strip("'"))


def test_fp16_without_a_gpu_is_refused_when_the_config_is_built(tmp_path):
    with pytest.raises(ValueError, match=r"fp16 \(--fp16\) needs a GPU.*Use bf16"):
        config(tmp_path, fp16=True)


def test_a_resumed_run_on_a_quantised_base_equals_one_that_was_not_stopped(tmp_path, base):
    lora = LoraConfig(r=4, target_modules=["q_proj", "fc1"])
    saving = {"save_strategy": "steps", "save_steps": 1}
    whole = on_quantised(base, tmp_path / "out", "4 bit", lora, **saving)
    whole.train()
    for step in (6, 7, 8):
        shutil.rmtree(tmp_path / "out" / f"checkpoint-{step}")
    resumed = on_quantised(base, tmp_path / "out", "4 bit", lora, **saving)
    resumed.train(resume_from_checkpoint=True)
    own = [{n: p for n, p in weights(t.model).items() if "lora_" in n} for t in (whole, resumed)]
    assert largest_difference(*own) == 0


# ---- 8-bit layers ----


def eight_bit_layer(threshold: float) -> Linear8bitLt:
    torch.manual_seed(0)
    layer = Linear8bitLt(48, 24, has_fp16_weights=False, threshold=threshold)
    return layer.requires_grad_(False).to("cpu")


def told_by_bitsandbytes(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("bitsandbytes")]


@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_the_product_with_rounded_inputs_is_that_of_bitsandbytes(threshold):
    layer = eight_bit_layer(threshold)
    x = torch.randn(2, 5, 48, requires_grad=True)
    expected = layer.eval()(x)  # also fills layer.state
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    found = RoundedProduct.apply(x, layer.bias, layer.state)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)


def test_an_8_bit_model_says_the_same_in_training_and_in_evaluation_and_logs_nothing(base, caplog):
    policy = load_model(base, config("out"), BitsAndBytesConfig(load_in_8bit=True))
    family = speech_family(policy, tiny_whisper()[1])
    batch = group_batch(family, tiny_clips(2), [["the dog", "a fox"], ["over", "the lazy dog"]])
    family.install(policy)
    with torch.no_grad():
        found = [family.score_groups(policy.train(mode), batch).logps for mode in (True, False)]
    assert torch.equal(*found)
    assert told_by_bitsandbytes(caplog) == []


@pytest.mark.parametrize("given", ["by name", "as an instance"])
def test_tuning_and_decoding_on_an_8_bit_base_logs_nothing_about_casts(tmp_path, base, caplog, given):
    model, quantised = base, BitsAndBytesConfig(load_in_8bit=True)
    if given == "as an instance":
        model, quantised = WhisperForConditionalGeneration.from_pretrained(base, quantization_config=quantised), None
    dpo = DPOTrainer(
        model,
        args=config(tmp_path / "out", max_steps=1),
        train_dataset=pair_rows(4),
        processing_class=tiny_whisper()[1],
        quantization_config=quantised,
        peft_config=LoraConfig(r=4, target_modules=["q_proj"]),
    )
    dpo.train()
    dpo.decode([{**row, "text": row["chosen"]} for row in pair_rows(2)])
    assert told_by_bitsandbytes(caplog) == []
