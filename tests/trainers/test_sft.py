"""`SFTTrainer` against transformers' own: `Seq2SeqTrainer`, its label smoothing, stock CTC and classifier losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from audiorl.batch import PLACEHOLDER_ROW_ID
from audiorl.losses import supervised_loss
from audiorl.trainers.sft import SFTConfig, SFTTrainer
from tests.cards import card_of
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import SAMPLING_RATE, saved, tiny_whisper
from tests.trainers.ctc_rows import texts
from tests.trainers.pair_rows import PLAIN_STEPS, largest_difference, logged, settings, weights
from tests.trainers.text_rows import sft, text_rows

# ---- against transformers ----


def stock_batch(batch: Any) -> dict[str, torch.Tensor]:
    """A `GroupBatch` as `Seq2SeqTrainer` takes it: labels of -100 where a token does not count."""
    labels = batch.tokens[:, 0, 1:].masked_fill(~batch.keep[:, 0], -100)
    return {"input_features": batch.audio, "decoder_input_ids": batch.tokens[:, 0, :-1], "labels": labels}


def token_mean(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """What a model of transformers does that is told the labels of the whole step; Whisper's forward is not."""
    loss = torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return loss / num_items_in_batch


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("batch", "accumulate"), [(4, 1), (1, 4), (2, 2)])
def test_steps_are_those_of_seq2seq_trainer_on_the_same_batches(tmp_path, smoothing, batch, accumulate):
    """Two plain steps, so that the weights show the gradients; six rows, so that the second has half as many."""
    same = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulate,
        "label_smoothing_factor": smoothing,
        "train_sampling_strategy": "sequential",
        **PLAIN_STEPS,
    }
    ours = sft(tmp_path / "ours", text_rows(6), **same)
    collate, rows = ours.data_collator, ours.train_dataset
    ours.train()
    stock, _ = tiny_whisper()
    theirs = Seq2SeqTrainer(
        stock,
        Seq2SeqTrainingArguments(**{**settings(tmp_path / "theirs"), **same, "remove_unused_columns": False}),
        train_dataset=Dataset.from_list([{"row": i} for i in range(6)]),
        data_collator=lambda picked: stock_batch(collate([rows[one["row"]] for one in picked])),
        **({} if smoothing else {"compute_loss_func": token_mean}),
    )
    # whether the labels of a step are counted hangs on the signature of the forward; Whisper's does not say so
    theirs.model_accepts_loss_kwargs = True
    compute = theirs.compute_loss
    theirs.compute_loss = lambda model, inputs, **given: _without_count(theirs, compute, model, inputs, given)
    theirs.train()
    assert logged(ours, "loss") == pytest.approx(logged(theirs, "loss"), rel=1e-5)
    assert len(logged(ours, "loss")) == 2
    assert logged(ours, "grad_norm") == pytest.approx(logged(theirs, "grad_norm"), rel=1e-4)
    assert largest_difference(weights(ours.model), weights(theirs.model)) < 1e-6


def _without_count(trainer: Any, compute: Any, model: Any, inputs: Any, given: dict[str, Any]) -> torch.Tensor:
    """`compute_loss` as it stands, but the forward is not handed the count, which Whisper's does not take."""
    trainer.model_accepts_loss_kwargs = False
    try:
        return compute(model, inputs, **given)
    finally:
        trainer.model_accepts_loss_kwargs = True


def test_the_forward_of_whisper_itself_gives_the_loss_of_a_batch(tmp_path):
    made = sft(tmp_path)
    batch = made.data_collator([made.train_dataset[i] for i in range(3)])
    stock, _ = tiny_whisper()
    expected = stock(**stock_batch(batch)).loss
    expected.backward()
    found = made.compute_loss(made.model.train(), batch)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    mine = {name: p.grad for name, p in made.model.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert largest_difference(mine, theirs) < 1e-5 * max(float(g.abs().max()) for g in theirs.values())


def test_smoothing_equals_a_loop_over_tokens_in_float64():
    """Written from Szegedy et al. 2016: the target has 1 - e on the label and e / V on every token."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 3, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (2, 1, 3), generator=generator)
    keep = torch.tensor([[[True, True, False]], [[True, False, False]]])
    expected, e = 0.0, 0.3
    for b, t in ((0, 0), (0, 1), (1, 0)):
        z = logits[b, 0, t]
        log_p = [float(x) for x in z - torch.log(torch.exp(z).sum())]
        target = [e / 5 + (1 - e) * (v == int(labels[b, 0, t])) for v in range(5)]
        expected -= sum(q * x for q, x in zip(target, log_p, strict=True)) / 7
    log_p = logits.log_softmax(-1)
    logps, mean_logps = log_p.gather(-1, labels[..., None]).squeeze(-1), log_p.mean(-1)
    logps = logps.masked_fill(~keep, torch.nan)
    found = supervised_loss(logps, keep, 7, mean_logps=mean_logps, label_smoothing=e)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match=r"label_smoothing=0.3 needs mean_logps.*label_smoothing_factor to 0"):
        supervised_loss(logps, keep, 7, label_smoothing=e)


def test_ctc_models_get_their_stock_loss(tmp_path):
    model, processor = tiny_ctc()
    rows = texts(3)
    args = SFTConfig(**settings(tmp_path))
    made = SFTTrainer(model, args, train_dataset=rows, processing_class=processor)
    batch = made.data_collator([made.train_dataset[i] for i in range(3)])
    stock, _ = tiny_ctc()
    stock.config.ctc_loss_reduction = "sum"
    total, symbols = 0.0, 0
    for row in rows:
        clip = processor(row["audio"]["array"], sampling_rate=SAMPLING_RATE, return_tensors="pt")
        labels = torch.tensor([processor.tokenizer(row["text"].upper()).input_ids])
        total = total + stock.eval()(**clip, labels=labels).loss
        symbols += labels.shape[1] + 1  # and the end
    total.backward()
    loss = made.compute_loss(made.model.eval(), batch)
    loss.backward()
    assert loss.item() == pytest.approx(total.item() / symbols, rel=1e-5)
    name = "lm_head.weight"
    torch.testing.assert_close(
        made.model.get_parameter(name).grad, stock.get_parameter(name).grad / symbols, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classifiers_get_the_cross_entropy_of_their_labels(tmp_path, smoothing):
    model, extractor = tiny_classifier("ast")
    labels = list(model.config.id2label.values())
    rows = [{**row, "text": labels[i % len(labels)]} for i, row in enumerate(text_rows(4))]
    args = SFTConfig(**settings(tmp_path), label_smoothing_factor=smoothing)
    made = SFTTrainer(model, args, train_dataset=rows, processing_class=extractor)
    batch = made.data_collator([made.train_dataset[i] for i in range(4)])
    with torch.no_grad():
        logits = model(input_values=batch.audio.transpose(1, 2)).logits
        found = made.compute_loss(made.model.eval(), batch).item()
    target = torch.tensor([labels.index(row["text"]) for row in rows])
    expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing).item()
    assert found == pytest.approx(expected, rel=1e-5)


# ---- of its own ----


def test_tuning_lowers_the_loss_and_logs_it_by_trl_s_names(tmp_path):
    made = sft(
        tmp_path, num_train_epochs=6, label_smoothing_factor=0.1, eval_wer=True, trainer_eval_dataset=text_rows(2)
    )
    made.train()
    losses = logged(made, "nll_loss")
    assert sum(losses[-4:]) < sum(losses[:4]) - 2
    for log in (log for log in made.state.log_history if "loss" in log):
        assert {"entropy", "mean_token_accuracy", "grad_norm"} <= log.keys() and log["loss"] > 0
    found = made.evaluate()
    assert {"eval_nll_loss", "eval_mean_token_accuracy", "eval_wer", "eval_cer"} <= found.keys()


def test_the_likelihood_of_an_evaluation_does_not_depend_on_the_batch_size(tmp_path):
    found = [sft(tmp_path / str(n), per_device_eval_batch_size=n).evaluate(text_rows(5)) for n in (1, 5)]
    assert found[0]["eval_nll_loss"] == pytest.approx(found[1]["eval_nll_loss"], rel=1e-5)


def test_a_placeholder_counts_for_nothing(tmp_path):
    made = sft(tmp_path, label_smoothing_factor=0.1)
    made.model.eval()
    batch = made.data_collator([made.train_dataset[i] for i in range(3)])
    dropped = batch.replace(
        keep=batch.keep & torch.tensor([True, False, True])[:, None, None],
        row_ids=torch.tensor([0, PLACEHOLDER_ROW_ID, 2]),
    )
    others = made.data_collator([made.train_dataset[i] for i in (0, 2)])
    with torch.no_grad():
        losses = [made.compute_loss(made.model, each).item() for each in (dropped, others)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_settings_that_do_not_fit_are_refused_when_they_are_given(tmp_path):
    for value in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="label_smoothing_factor"):
            SFTConfig(**settings(tmp_path), label_smoothing_factor=value)
    model, processor = tiny_ctc()
    with pytest.raises(ValueError, match=r"label_smoothing_factor=0.1 .*CTC.* as a whole\. Leave"):
        SFTTrainer(model, SFTConfig(**settings(tmp_path), label_smoothing_factor=0.1), processing_class=processor)


def test_the_default_config_writes_beside_the_model_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = SFTTrainer(saved(tiny_whisper(), "base"), train_dataset=text_rows(2))
    assert isinstance(made.args, SFTConfig) and made.args.output_dir == "base-SFT"


def test_a_card_names_the_checkpoint_that_the_model_came_from(tmp_path):
    made = sft(tmp_path / "out", text_rows(2), max_steps=1, init_from="openai/whisper-tiny", label_smoothing_factor=0.1)
    made.save_model()
    data, text = card_of(tmp_path / "out")
    assert data["base_model"] == "openai/whisper-tiny" and data["base_model_relation"] == "finetune"
    assert "which came from [openai/whisper-tiny](https://huggingface.co/openai/whisper-tiny), tuned with" in text
    assert "It learns from transcripts." in text and "Rethinking the Inception" in text and "init\\_from" not in text
    local = sft(tmp_path / "local", text_rows(2), max_steps=1, init_from="first stage")
    local.save_model()
    data, text = card_of(tmp_path / "local")
    assert "base_model" not in data and "which came from first stage, tuned with" in text
