"""`DPOTrainer` against plain transformers calls, one model call for each transcript."""

from __future__ import annotations

import copy
import math

import datasets
import pytest
import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig, TrainerCallback, WhisperForConditionalGeneration

from audiorl.batch import GroupBatch
from audiorl.datasets import BadRowsError
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from audiorl.trainers.raft import RAFTConfig
from tests.tiny_models import saved, tiny_whisper
from tests.trainers.pair_rows import CHECKPOINTING, PLAIN_STEPS, config, largest_difference, pair_rows, trainer, weights
from tests.trainers.stock_scores import nudge, sequence_logp


def plain_dpo_loss(model, ref_model, batch: GroupBatch, texts, family, beta: float) -> torch.Tensor:
    """-log sigmoid(beta (chosen ratio - rejected ratio)), averaged over pairs, eight stock forwards for two pairs."""
    losses = []
    for features, pair in zip(batch.audio, texts, strict=True):
        ratios = []
        for text in pair:
            ids, first_kept = family.tokenize(text)
            own = sequence_logp(model, features, ids, first_kept)
            with torch.no_grad():
                frozen = sequence_logp(ref_model, features, ids, first_kept)
            ratios.append(own - frozen)
        losses.append(-torch.nn.functional.logsigmoid(beta * (ratios[0] - ratios[1])))
    return torch.stack(losses).mean()


def first_batch(dpo: DPOTrainer, count: int = 2) -> GroupBatch:
    return dpo.data_collator([dpo.train_dataset[i] for i in range(count)])


@pytest.mark.parametrize("freeze", [False, True])
def test_loss_and_gradients_equal_one_stock_forward_for_each_transcript(tmp_path, freeze):
    dpo = trainer(tmp_path, freeze_encoder=freeze, beta=0.3)
    stock, _ = tiny_whisper()
    reference = copy.deepcopy(stock)
    if freeze:
        stock.model.encoder.requires_grad_(False)
    nudge(dpo.model)
    nudge(stock)
    batch = first_batch(dpo)
    rows = pair_rows(2)
    dpo.model.train()
    loss = dpo.compute_loss(dpo.model, batch)
    loss.backward()
    expected = plain_dpo_loss(stock, reference, batch, [(r["chosen"], r["rejected"]) for r in rows], dpo.family, 0.3)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() != pytest.approx(0.6931, abs=1e-3)
    mine = {name: p.grad for name, p in dpo.model.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert mine.keys() == theirs.keys()
    scale = max(float(g.abs().max()) for g in theirs.values())
    assert largest_difference(mine, theirs) < 1e-4 * scale


@pytest.mark.parametrize(("freeze", "calls"), [(True, 1), (False, 2)])
def test_encoder_runs_once_for_policy_and_a_frozen_reference_adds_nothing(tmp_path, freeze, calls):
    dpo = trainer(tmp_path, freeze_encoder=freeze)
    batches = []
    for model in (dpo.model, dpo.reference.ref_model):
        model.model.encoder.register_forward_pre_hook(lambda _, args: batches.append(args[0].shape[0]))
    dpo.model.train()
    dpo.compute_loss(dpo.model, first_batch(dpo))
    assert batches == [2] * calls


def test_frozen_parameters_are_shared_with_the_reference_and_trained_ones_are_not(tmp_path):
    dpo = trainer(tmp_path, freeze_encoder=True)
    ref = dpo.reference.ref_model
    assert ref.model.encoder.conv1.weight is dpo.model.model.encoder.conv1.weight
    before = weights(ref)
    dpo.train()
    assert largest_difference(before, weights(ref)) == 0
    assert ref.model.decoder.layers[0].fc1.weight is not dpo.model.model.decoder.layers[0].fc1.weight


def test_precomputed_reference_trains_to_the_same_weights(tmp_path):
    kept = trainer(tmp_path / "a")
    kept.train()
    made = trainer(tmp_path / "b", precompute_ref_log_probs=True, precompute_ref_batch_size=3)
    assert made.reference is None
    made.train()
    assert largest_difference(weights(kept.model), weights(made.model)) < 1e-6


def test_streams_train_as_data_sets_do_and_refuse_a_precomputed_reference(tmp_path):
    stream = datasets.Dataset.from_list(pair_rows()).to_iterable_dataset()
    streamed = trainer(tmp_path / "a", stream, max_steps=4)
    streamed.train()
    ordered = trainer(tmp_path / "b", train_sampling_strategy="sequential")
    ordered.train()
    assert largest_difference(weights(streamed.model), weights(ordered.model)) < 1e-6
    with pytest.raises(ValueError, match=r"stream cannot offer.*Load the rows"):
        trainer(tmp_path / "c", stream, max_steps=4, precompute_ref_log_probs=True)


@pytest.mark.parametrize("loss_type", [["sigmoid"], ["sigmoid", "sft"], ["ipo"]])
def test_accumulating_four_micro_batches_of_one_equals_one_batch_of_four(tmp_path, loss_type):
    """Six rows: the second optimizer step has two rows only, and token counts differ from row to row."""
    rows = pair_rows(6)
    settings = {"loss_type": loss_type, **PLAIN_STEPS}
    big = trainer(tmp_path / "a", rows, per_device_train_batch_size=4, **settings)
    small = trainer(tmp_path / "b", rows, per_device_train_batch_size=1, gradient_accumulation_steps=4, **settings)
    big.train()
    small.train()
    assert big.state.global_step == small.state.global_step == 2
    assert largest_difference(weights(big.model), weights(small.model)) < 1e-6
    logged = [[log["loss"] for log in t.state.log_history if "loss" in log] for t in (big, small)]
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)


def test_gradient_checkpointing_trains_to_the_same_weights(tmp_path):
    plain, checkpointed = trainer(tmp_path / "a"), trainer(tmp_path / "b", **{CHECKPOINTING: True})
    plain.train()
    checkpointed.train()
    assert getattr(checkpointed.args, f"{CHECKPOINTING}_kwargs") == {"use_reentrant": False}
    assert largest_difference(weights(plain.model), weights(checkpointed.model)) < 1e-6


def test_metrics_carry_trl_names_and_worked_values(tmp_path):
    dpo = trainer(tmp_path, beta=0.5)
    dpo.train()
    log = dpo.state.log_history[0]
    names = {
        "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
        "logps/rejected", "logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy", "loss", "grad_norm",
    }  # fmt: skip
    assert names <= log.keys()
    # before the first step policy and reference agree
    assert log["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert log["rewards/margins"] == pytest.approx(0, abs=1e-4)
    later = dpo.state.log_history[3]
    assert later["rewards/margins"] == pytest.approx(later["rewards/chosen"] - later["rewards/rejected"], abs=1e-6)


def test_each_loss_of_a_sum_is_logged_and_they_add_up(tmp_path):
    dpo = trainer(tmp_path, loss_type="mpo")
    dpo.train()
    log = dpo.state.log_history[1]
    parts = 0.8 * log["loss/sigmoid"] + 0.2 * log["loss/bco_pair"] + log["loss/sft"]
    assert log["loss"] == pytest.approx(parts, rel=1e-5)


def test_tuning_raises_the_margin(tmp_path):
    dpo = trainer(tmp_path, num_train_epochs=5)
    dpo.train()
    logged = [log["rewards/margins"] for log in dpo.state.log_history if "rewards/margins" in log]
    assert sum(logged[-4:]) / 4 > 0.2


def test_an_adapter_trains_alone_and_its_reference_is_the_model_without_it(tmp_path):
    before, _ = tiny_whisper()
    dpo = trainer(tmp_path, trainer_peft_config=LoraConfig(r=4, target_modules=["q_proj", "fc1"]), num_train_epochs=2)
    dpo.train()
    base = dpo.model.get_base_model()
    for name, parameter in before.named_parameters():
        trained = name.replace("q_proj.", "q_proj.base_layer.").replace("fc1.", "fc1.base_layer.")
        assert torch.equal(base.get_parameter(trained), parameter)
    batch = first_batch(dpo)
    frozen = dpo.reference.token_logps(dpo.model, batch, None)
    dpo.family.install(before)
    assert torch.allclose(frozen, dpo.family.score_groups(before, batch).logps, atol=1e-5)
    assert not torch.allclose(frozen, dpo.family.score_groups(dpo.model, batch).logps, atol=1e-3)


def test_an_adapter_in_the_decoder_leaves_the_encoder_shared(tmp_path):
    dpo = trainer(tmp_path, trainer_peft_config=LoraConfig(r=4, target_modules=r".*decoder.*\.(q_proj|v_proj)"))
    calls = []
    dpo.model.get_base_model().model.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    dpo.model.train()
    dpo.compute_loss(dpo.model, first_batch(dpo))
    assert len(calls) == 1


def test_an_adapter_that_came_with_the_model_is_its_own_reference(tmp_path):
    from peft import get_peft_model

    model, _ = tiny_whisper()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["v_proj"], init_lora_weights=False))
    dpo = trainer(tmp_path, trainer_model=adapted)
    batch = first_batch(dpo)
    start = dpo.family.score_groups(dpo.model, batch).logps.detach()
    dpo.train()
    assert torch.allclose(dpo.reference.token_logps(dpo.model, batch, None), start, atol=1e-6)
    assert not torch.allclose(dpo.family.score_groups(dpo.model, batch).logps, start, atol=1e-4)


def test_a_synced_reference_moves_to_the_stated_mix(tmp_path):
    """ref = 0.25 policy + 0.75 ref after step 2 (TR-DPO, eq. for the soft update)."""
    dpo = trainer(tmp_path, sync_ref_model=True, ref_model_mixup_alpha=0.25, ref_model_sync_steps=2, max_steps=2)
    start = weights(dpo.model)
    dpo.train()
    now, ref = weights(dpo.model), weights(dpo.reference.ref_model)
    mixed = {name: 0.75 * start[name] + 0.25 * now[name] for name in now}
    assert largest_difference(mixed, ref) < 1e-6
    assert largest_difference(start, ref) > 1e-5


def test_an_objective_without_reference_keeps_none(tmp_path):
    dpo = trainer(tmp_path, loss_type="sft")
    assert dpo.reference is None
    dpo.train()
    assert "rewards/margins" not in dpo.state.log_history[0]


def test_eval_wer_and_compute_metrics_see_transcripts_and_hypotheses(tmp_path):
    seen = {}

    def measure(prediction):
        seen["texts"] = (prediction.predictions, prediction.label_ids)
        return {"empty": 0.25}

    dpo = trainer(
        tmp_path,
        eval_wer=True,
        trainer_eval_dataset=pair_rows(3),
        trainer_compute_metrics=measure,
        eval_strategy="epoch",
    )
    dpo.train()
    metrics = dpo.evaluate()
    assert {"eval_loss", "eval_wer", "eval_cer", "eval_empty", "eval_rewards/margins"} <= metrics.keys()
    assert len(seen["texts"][0]) == 3
    assert seen["texts"][1] == [row["chosen"] for row in pair_rows(3)]


def test_evaluate_takes_rows_of_any_form_and_names_bad_ones(tmp_path):
    dpo = trainer(tmp_path)
    assert "eval_loss" in dpo.evaluate(pair_rows(3))
    broken = pair_rows(2)
    broken[1]["rejected"] = ""
    with pytest.raises(BadRowsError, match="row 1"):
        dpo.evaluate(broken)


def test_evaluation_loss_does_not_depend_on_the_batch_size(tmp_path):
    losses = [
        trainer(tmp_path / str(n), per_device_eval_batch_size=n).evaluate(pair_rows(5))["eval_loss"] for n in (1, 5)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_subclass_that_overrides_one_method_makes_a_new_objective(tmp_path):
    class OnlyRejected(DPOTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            batch = GroupBatch(inputs)
            return self.family.score_groups(model, batch).logps[:, 1].sum(-1).exp().mean()

    model, processor = tiny_whisper()
    dpo = OnlyRejected(model, args=config(tmp_path), train_dataset=pair_rows(4), processing_class=processor)
    dpo.train()
    assert dpo.state.global_step == 2


def test_a_loss_with_an_older_signature_is_refused_when_the_trainer_is_built(tmp_path):
    class Older(DPOTrainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            return super().compute_loss(model, inputs, return_outputs)

    model, processor = tiny_whisper()
    rest = {"args": config(tmp_path), "train_dataset": pair_rows(4), "processing_class": processor}
    with pytest.raises(TypeError, match=r"Older.compute_loss .* not take num_items_in_batch: .*_batch=None\)"):
        Older(model, **rest)

    class TakesAll(DPOTrainer):
        def compute_loss(self, model, inputs, **others):
            return super().compute_loss(model, inputs, **others)

    TakesAll(model, **rest).train()


@pytest.mark.parametrize(
    ("task", "meant"),
    [("asr", "transcribe"), ("automatic-speech-recognition", "transcribe"), ("translte", "translate"), ("tts", None)],
)
def test_tasks_that_no_model_has_are_refused_when_the_config_is_built(tmp_path, task, meant):
    hint = f"Did you mean '{meant}'" if meant else "Use transcribe, translate"
    for made in (DPOConfig, RAFTConfig):
        with pytest.raises(ValueError, match=rf"{made.__name__}.task '{task}' is no task of a model. {hint}"):
            made(output_dir=str(tmp_path), task=task, use_cpu=True)
    for known in ("transcribe", "translate", "translate:de"):
        assert DPOConfig(output_dir=str(tmp_path), task=known, use_cpu=True).task == known


def test_a_model_of_which_nothing_is_trained_is_refused_when_the_trainer_is_built(tmp_path):
    model, processor = tiny_whisper()
    model.requires_grad_(False)
    rest = {"args": config(tmp_path), "train_dataset": pair_rows(4), "processing_class": processor}
    with pytest.raises(ValueError, match=r"0 of the model's [\d,]+ parameters are trained.*requires_grad_\(True\), or"):
        DPOTrainer(model, **rest)
    DPOTrainer(model, peft_config=LoraConfig(r=4, target_modules=["q_proj"]), **rest)
    # what is only measured may be frozen
    DPOTrainer(tiny_whisper()[0].requires_grad_(False), **{**rest, "train_dataset": None}).evaluate(pair_rows(2))


def test_of_rows_with_samples_beyond_all_loudness_only_those_go(tmp_path):
    rows = pair_rows(4)
    damaged = {**rows[1]["audio"], "array": rows[1]["audio"]["array"].copy()}
    damaged["array"][100] = 1e20
    rows[1]["audio"] = damaged
    dpo = trainer(tmp_path, rows, on_bad_rows="skip")
    dpo.train()
    skipped = (tmp_path / "skipped_rows.jsonl").read_text().splitlines()
    assert len(skipped) == 1 and "samples of up to 1e+20 where full scale is 1" in skipped[0]
    assert all(torch.isfinite(parameter).all() for parameter in dpo.model.parameters())


def test_one_end_token_stays_a_number(tmp_path):
    """Older transformers make a list of it when training starts; Whisper's generate then takes it for padding."""
    dpo = trainer(tmp_path)
    end = dpo.model.generation_config.eos_token_id
    dpo.model.generation_config.eos_token_id = [end]
    dpo.train()
    assert dpo.model.generation_config.eos_token_id == end


def test_saved_checkpoint_transcribes_the_same_in_plain_transformers(tmp_path):
    dpo = trainer(tmp_path, num_train_epochs=2)
    dpo.train()
    dpo.save_model()
    plain = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    features = first_batch(dpo).audio
    with torch.no_grad():
        assert torch.equal(plain.generate(features), dpo.model.generate(features))
    assert "audiorl" not in (tmp_path / "config.json").read_text()


def test_a_loss_that_is_not_finite_names_step_and_rows(tmp_path):
    class Spoil(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                model.model.decoder.layer_norm.weight.data[0] = float("nan")

    dpo = trainer(tmp_path, save_strategy="steps", save_steps=1, trainer_callbacks=[Spoil()])
    with pytest.raises(
        FloatingPointError, match=r"nan at step 3, rows \[\d, \d\].*not updated.*checkpoint-2, is whole"
    ):
        dpo.train()
    healthy = WhisperForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-2")
    assert all(torch.isfinite(parameter).all() for parameter in healthy.parameters())


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path):
    dpo = trainer(tmp_path)
    dpo.model.model.decoder.layers[0].fc1.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(dpo.model)
    with pytest.raises(FloatingPointError, match=r"gradient is not finite at step 1"):
        dpo.train()
    assert largest_difference(before, weights(dpo.model)) == 0


def test_the_best_checkpoint_by_wer_has_the_lowest(tmp_path):
    """transformers takes every metric but a loss for one that should grow."""
    chosen = {"eval_wer": True, "metric_for_best_model": "wer"}
    dpo = trainer(tmp_path, trainer_eval_dataset=pair_rows(2), **chosen)
    assert (dpo.args.metric_for_best_model, dpo.args.greater_is_better) == ("wer", False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient_accumulation_steps": 0}, r"gradient_accumulation_steps has to be 1 or more; got 0. Set"),
        ({"gradient_accumulation_steps": 1.5}, r"gradient_accumulation_steps is a whole number; got 1.5. Set it to 2"),
        ({"per_device_train_batch_size": 0}, r"per_device_train_batch_size has to be 1 or more; got 0. Set"),
        ({"per_device_eval_batch_size": -1}, r"per_device_eval_batch_size has to be 1 or more; got -1. Set"),
        ({"num_train_epochs": math.inf}, r"num_train_epochs is .* finite and above 0; got inf. Set .* max_steps"),
        ({"num_train_epochs": math.nan}, r"num_train_epochs is .* got nan"),
        ({"num_train_epochs": 0}, r"num_train_epochs is .* got 0"),
    ],
)
def test_amounts_that_train_nothing_or_never_end_are_refused_when_built(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_dropout_is_off_unless_asked_for(tmp_path):
    model, _ = tiny_whisper(dropout=0.5, attention_dropout=0.5, activation_dropout=0.5)
    assert model.config.dropout == 0.5
    for disable, repeatable in ((True, True), (False, False)):
        dpo = trainer(tmp_path, trainer_model=copy.deepcopy(model), disable_dropout=disable)
        dpo.model.train()
        batch = first_batch(dpo)
        scores = [dpo.family.score_groups(dpo.model, batch).logps for _ in range(2)]
        assert torch.equal(*scores) is repeatable
        assert dpo.model.config.dropout == 0.5


def test_bf16_training_lowers_the_loss(tmp_path):
    dpo = trainer(tmp_path, bf16=True, num_train_epochs=5)
    dpo.train()
    logged = [log["loss"] for log in dpo.state.log_history if "loss" in log]
    assert logged[-1] < 0.69


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load_in_8bit": True}, "8 bit"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}, "4 bit"),
    ],
)
def test_an_adapter_trains_on_a_quantised_base(tmp_path, options, message):
    model, processor = tiny_whisper()
    model.save_pretrained(tmp_path / "base")
    arguments = dict(args=config(tmp_path / "out"), train_dataset=pair_rows(4), processing_class=processor)
    with pytest.raises(ValueError, match=r"quantised model cannot be trained.*peft_config"):
        DPOTrainer(str(tmp_path / "base"), quantization_config=BitsAndBytesConfig(**options), **arguments)
    dpo = DPOTrainer(
        str(tmp_path / "base"),
        quantization_config=BitsAndBytesConfig(**options),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "fc1"]),
        **arguments,
    )
    dpo.train()
    assert all(torch.isfinite(torch.tensor(log["loss"])) for log in dpo.state.log_history if "loss" in log), message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "sigmoidd"}, "sigmoid"),
        ({"beta": -1.0}, "beta"),
        ({"loss_weights": [1.0, 2.0]}, "weights"),
        ({"sync_ref_model": True, "precompute_ref_log_probs": True}, "Choose one"),
        ({"ref_model_mixup_alpha": 0.0}, "ref_model_mixup_alpha"),
        ({"on_bad_rows": "ignore"}, "on_bad_rows"),
        ({"wer_normaliser": "englisch"}, "english"),
        ({"ld_alpha": 2.0}, "ld_alpha"),
        ({"remove_unused_columns": True}, "must stay False"),
        ({"label_smoothing_factor": 0.1}, "would change nothing: DPOConfig .* Leave it out"),
    ],
)
def test_wrong_settings_are_refused_when_the_config_is_built(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_wrong_trainer_arguments_are_refused(tmp_path):
    model, processor = tiny_whisper()
    other, _ = tiny_whisper("multilingual")
    arguments = dict(args=config(tmp_path), train_dataset=pair_rows(2), processing_class=processor)
    with pytest.raises(ValueError, match="ref_model is the model that is trained"):
        DPOTrainer(model, ref_model=model, **arguments)
    with pytest.raises(ValueError, match="vocabulary"):
        DPOTrainer(model, ref_model=other, **arguments)
    with pytest.raises(ValueError, match=r"tokenizer does not fit|processor makes"):
        DPOTrainer(other, **arguments)
    with pytest.raises(ValueError, match=r"only transcribes English.*multilingual"):
        DPOTrainer(model, **{**arguments, "args": config(tmp_path, language="german")})
    with pytest.raises(ValueError, match=r"No processor was passed.*processing_class"):
        DPOTrainer(model, args=config(tmp_path), train_dataset=pair_rows(2))


def test_default_config_writes_beside_the_model_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dpo = DPOTrainer(saved(tiny_whisper(), "base"), train_dataset=pair_rows(2))
    assert isinstance(dpo.args, DPOConfig)
    assert dpo.args.output_dir == "base-DPO"
