"""`KTOTrainer` against stock forwards of a Whisper, mismatched pairs, edges, and rows of pairs turned into its own."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from audiorl import BadRowsError
from audiorl.batch import PLACEHOLDER_ROW_ID
from audiorl.pairs import paired_rows, unpaired_rows
from audiorl.trainers.kto import KTOConfig, KTOTrainer, with_mismatched
from tests import oracles_unpaired as oracle
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import saved, tiny_whisper
from tests.trainers.ctc_rows import texts
from tests.trainers.pair_rows import PLAIN_STEPS, largest_difference, logged, pair_rows, settings
from tests.trainers.text_rows import judged_rows, kto

ONE_PROCESS = SimpleNamespace(num_processes=1, process_index=0)


def stock_logps(model: Any, features: torch.Tensor, ids: list[int], first_kept: int) -> torch.Tensor:
    logits = model(input_features=features[None], decoder_input_ids=torch.tensor([ids[:-1]])).logits[0]
    logps = logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1)
    return logps[first_kept - 1 :].sum()


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_loss_and_gradients_equal_stock_forwards_and_the_papers_loop(tmp_path, loss_type):
    """A frozen policy of other weights; each clip with its own transcript and with that of the clip before it."""
    policy, frozen = tiny_whisper()[0], tiny_whisper()[0]
    with torch.no_grad():
        frozen.model.decoder.layers[0].fc1.weight.mul_(1.5)
    made = kto(tmp_path, loss_type=loss_type, beta=0.4, desirable_weight=1.2, trainer_ref_model=frozen)
    rows = judged_rows(4)
    batch = made.data_collator([made.train_dataset[i] for i in range(4)])
    (inputs,), _ = made.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    made.current_gradient_accumulation_steps = 1
    loss = made.compute_loss(made.model.train(), inputs)
    loss.backward()
    ids = [made.family.tokenize(row["completion"]) for row in rows]
    scores = [
        [stock_logps(model, batch.audio[i], *ids[other(i)]) for i in range(4)]
        for model in (policy, frozen)
        for other in (lambda i: i, lambda i: i - 1)
    ]
    (own, mismatched, ref_own, ref_mismatched) = scores
    z0 = oracle.reference_point([x.item() for x in mismatched], [x.item() for x in ref_mismatched])
    desirable, weights = [row["label"] for row in rows], (1.2, 1.5)
    given = [x.item() for x in own], [x.item() for x in ref_own], desirable
    if loss_type == "kto":
        expected = sum(oracle.kto(*given, z0, 0.4, weights)) / 4
    else:
        expected = sum(oracle.apo_zero(*given, 0.4, weights)) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    total = 0.0
    for ours, theirs, good in zip(own, ref_own, desirable, strict=True):
        r = ours - theirs.detach() - (z0 if loss_type == "kto" else 0.0)
        total = total + (1.2 * torch.sigmoid(-0.4 * r) if good else 1.5 * torch.sigmoid(0.4 * r)) / 4
    total.backward()
    mine = {name: p.grad for name, p in made.model.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    scale = max(float(g.abs().max()) for g in theirs.values())
    assert largest_difference(mine, theirs) < 1e-4 * scale
    if loss_type == "kto":
        assert made.metrics.drain("train")["kl"] == pytest.approx(z0, rel=1e-4, abs=1e-5)


def test_sft_weight_adds_the_likelihood_of_the_steps_desirable_tokens(tmp_path):
    """Against stock forwards; the mean is over the whole step, however split, without undesirable ones."""
    policy, rows = tiny_whisper()[0], judged_rows(4)
    made = kto(tmp_path, rows, sft_weight=0.3)
    ids = [made.family.tokenize(row["completion"]) for row in rows]
    batch = made.data_collator([made.train_dataset[i] for i in range(4)])
    good = [i for i, row in enumerate(rows) if row["label"]]
    total = -sum(stock_logps(policy, batch.audio[i], *ids[i]) for i in good)
    expected = (total / sum(len(ids[i][0]) - ids[i][1] for i in good)).item()
    losses = {}
    for weight, parts in ((0.0, [4]), (0.3, [4]), (0.3, [3, 1])):
        made = kto(tmp_path, rows, sft_weight=weight)
        ends = [sum(parts[: i + 1]) for i in range(len(parts))]
        split = [
            made.data_collator([made.train_dataset[i] for i in range(end - size, end)])
            for size, end in zip(parts, ends, strict=True)
        ]
        batches, _ = made.get_batch_samples(iter(split), len(split), torch.device("cpu"))
        made.current_gradient_accumulation_steps = len(split)
        made.model.train()
        whole = sum(made.compute_loss(made.model, inputs).item() for inputs in batches)
        losses[weight, len(parts)] = whole / len(parts)  # Trainer divides by their number when it adds the gradients
        if weight:
            assert made.metrics.drain("train")["loss/sft"] == pytest.approx(expected, rel=1e-5)
    assert losses[0.3, 1] - losses[0.0, 1] == pytest.approx(0.3 * expected, rel=1e-4)
    assert losses[0.3, 2] == pytest.approx(losses[0.3, 1], rel=1e-5)
    with pytest.raises(ValueError, match="sft_weight"):
        kto(tmp_path, sft_weight=-1.0)


def test_each_model_encodes_a_clip_once(tmp_path):
    made, rows = kto(tmp_path), {"policy": [], "frozen": []}
    for name, model in (("policy", made.model), ("frozen", made.reference.ref_model)):
        model.model.encoder.register_forward_pre_hook(
            lambda _, args, kwargs, seen=rows[name]: seen.append(len(args[0] if args else kwargs["input_features"])),
            with_kwargs=True,
        )
    batch = made.data_collator([made.train_dataset[i] for i in range(3)])
    (inputs,), _ = made.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    made.current_gradient_accumulation_steps = 1
    made.compute_loss(made.model.train(), inputs).backward()
    assert rows == {"policy": [3], "frozen": [3]}


def test_a_frozen_encoder_runs_once_for_both_policies_however_a_step_is_split(tmp_path):
    made, seen = kto(tmp_path, freeze_encoder=True, gradient_accumulation_steps=2, max_steps=1), []
    made.model.model.encoder.layers[0].register_forward_pre_hook(lambda _, args: seen.append(1))
    made.reference.ref_model.model.encoder.layers[0].register_forward_pre_hook(lambda _, args: seen.append(2))
    made.train()
    assert seen == [1, 1]


# ---- mismatched pairs ----


def test_a_clip_gets_the_transcript_of_the_one_before_it_behind_its_own_prefix(tmp_path):
    rows = [
        {**row, "language": language} for row, language in zip(judged_rows(4), ("en", "de", "de", "en"), strict=True)
    ]
    made = kto(tmp_path, rows, kind="multilingual")
    batches = [made.data_collator([made.train_dataset[i] for i in some]) for some in ((0, 1), (2, 3))]
    batches[1] = batches[1].without(torch.tensor([True, False]))
    found = with_mismatched(batches, ONE_PROCESS, made.family.end_token)
    text = [made.family.text(batch.tokens, batch.keep) for batch in found]
    said = [row["completion"] for row in rows]
    assert text[0] == [[said[0], said[3]], [said[1], said[0]]]
    assert text[1] == [["", ""], [said[3], said[1]]], "a placeholder lends nothing and gets nothing"
    for batch in found:
        first = batch.tokens[:, :, :4]
        assert torch.equal(first[:, 0], first[:, 1]), "the prefix is the clip's own"
    one = with_mismatched([made.data_collator([made.train_dataset[0]])], ONE_PROCESS, made.family.end_token)
    assert not one[0].keep[:, 1].any(), "a clip that is alone in its step has no mismatched pair"


def test_a_transcript_too_long_for_another_prefix_does_not_count(tmp_path):
    rows = [{**row, "language": "en"} for row in judged_rows(2)]
    rows[0] |= {"prompt": "dogs"}
    made = kto(tmp_path, rows, kind="multilingual")
    room = made.model.config.max_target_positions
    long = "dog"
    while len(made.family.tokenize(long, language="en").ids) < room - 3:
        long += " a"
    rows[1] |= {"completion": long}
    made = kto(tmp_path, rows, kind="multilingual", max_steps=1)
    batch = made.data_collator([made.train_dataset[i] for i in range(2)])
    (pairs,) = with_mismatched([batch], ONE_PROCESS, made.family.end_token)
    assert pairs.keep.shape[-1] > room
    fitted = made._fitting(made.model, pairs, torch.zeros(2, 1, 1))
    assert fitted.keep.shape[-1] <= room and fitted.keep[:, 1].any(-1).tolist() == [False, True]
    assert torch.equal(fitted.keep[:, 0], pairs.keep[:, 0, :room])
    made.train()
    assert made.state.global_step == 1


def test_ctc_leaves_out_what_a_clip_cannot_say_and_learns(tmp_path):
    model, processor = tiny_ctc()
    rows = [{"audio": row["audio"], "completion": row["text"], "label": i % 2 == 0} for i, row in enumerate(texts(4))]
    rows[1]["completion"] = "A"
    rows[1]["audio"] = {**rows[1]["audio"], "array": rows[1]["audio"]["array"][:1600]}  # 0.1 s: a few frames
    args = KTOConfig(**{**settings(tmp_path), "per_device_train_batch_size": 4, "max_steps": 6, "learning_rate": 3e-3})
    made = KTOTrainer(model, args=args, train_dataset=rows, processing_class=processor)
    made.train()
    losses = logged(made, "loss")
    assert all(map(torch.isfinite, torch.tensor(losses))) and losses[-1] < losses[0] - 0.01


def test_labels_of_a_classifier_are_judged_too(tmp_path):
    model, extractor = tiny_classifier("ast")
    names = list(model.config.id2label.values())
    rows = [{**row, "completion": names[i], "label": i % 2 == 0} for i, row in enumerate(judged_rows(4))]
    args = KTOConfig(**{**settings(tmp_path), "per_device_train_batch_size": 4, "max_steps": 6, "beta": 1.0})
    made = KTOTrainer(model, args=args, train_dataset=rows, processing_class=extractor)
    made.train()
    assert logged(made, "loss")[-1] < logged(made, "loss")[0] - 0.02


# ---- edges ----


@pytest.mark.parametrize("label", [True, False])
def test_rows_of_one_kind_train_and_nothing_is_said_of_the_other(tmp_path, label, caplog):
    rows = [{**row, "label": label} for row in judged_rows(4)]
    made = kto(tmp_path, rows, max_steps=2)
    made.train()
    there, missing = ("chosen", "rejected") if label else ("rejected", "chosen")
    log = next(log for log in made.state.log_history if "loss" in log)
    assert abs(log[f"rewards/{there}"]) < 10 and f"rewards/{missing}" in log and log["loss"] > 0
    assert "outweighs" not in caplog.text


def test_a_step_of_one_clip_has_no_reference_point(tmp_path):
    made = kto(tmp_path, judged_rows(3), per_device_train_batch_size=1, learning_rate=1e-2)
    made.train()
    assert set(logged(made, "kl")) == {0.0}


def test_weights_that_do_not_balance_the_rows_are_told(tmp_path, caplog):
    kto(tmp_path, judged_rows(8), undesirable_weight=1.0)
    assert "5 rows are desirable and 3 are not" in caplog.text
    assert "desirable_weight (--desirable_weight) from 0.6 to 0.8." in caplog.text


def test_tuning_raises_desirable_transcripts_above_the_others(tmp_path):
    made = kto(tmp_path, num_train_epochs=6, per_device_train_batch_size=4, beta=0.5, learning_rate=2e-3)
    made.train()
    assert logged(made, "loss")[-1] < logged(made, "loss")[0] - 0.05
    last = [log for log in made.state.log_history if "loss" in log][-1]
    assert (
        last["rewards/margins"] == pytest.approx(last["rewards/chosen"] - last["rewards/rejected"]) and last["kl"] >= 0
    )
    assert last["rewards/margins"] > 0.2
    names = {"rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected"}
    assert names | {"kl", "entropy"} <= last.keys()


def test_a_placeholder_counts_for_nothing(tmp_path):
    made = kto(tmp_path)
    batch = made.data_collator([made.train_dataset[i] for i in range(3)])
    dropped = batch.without(torch.tensor([False, True, False]))
    assert dropped.row_ids[1] == PLACEHOLDER_ROW_ID
    others = made.data_collator([made.train_dataset[i] for i in (0, 2)])
    with torch.no_grad():
        losses = [made.prediction_step(made.model.eval(), each, True)[0].item() for each in (dropped, others)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_precomputed_reference_gives_the_same_steps_and_is_refused_where_pairs_are_new(tmp_path):
    same = {"loss_type": "apo_zero_unpaired", **PLAIN_STEPS}
    runs = [kto(tmp_path / str(early), precompute_ref_log_probs=early, **same) for early in (True, False)]
    for made in runs:
        made.train()
    assert logged(runs[0], "loss") == pytest.approx(logged(runs[1], "loss"), rel=1e-5)
    assert runs[0].reference is None
    with pytest.raises(ValueError, match=r"precompute_ref_log_probs .*'kto' compares.*apo_zero_unpaired"):
        kto(tmp_path, precompute_ref_log_probs=True)


def test_labels_that_are_none_are_faults_of_their_rows(tmp_path):
    rows = judged_rows(3)
    for value, told in (("yes", "label is 'yes' (str)"), (None, "label is None"), (2, "label is 2")):
        bad = [rows[0], {**rows[1], "label": value}, rows[2]]
        with pytest.raises(BadRowsError, match=f"row 1: {re.escape(told)}"):
            kto(tmp_path, bad)
    with pytest.raises(BadRowsError, match="the column 'label' is missing"):
        kto(tmp_path, [{name: value for name, value in row.items() if name != "label"} for row in rows])


def test_errors_are_counted_against_a_transcript_and_no_completion(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "text"} for row in judged_rows(2)]
    with pytest.raises(ValueError, match=r"only completions that may be wrong\. Add it"):
        kto(tmp_path, eval_wer=True, trainer_eval_dataset=rows)
    with pytest.raises(ValueError, match="no column 'text'"):
        kto(tmp_path, rows).decode(rows)


def test_the_default_config_writes_beside_the_model_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = KTOTrainer(saved(tiny_whisper(), "base"), train_dataset=judged_rows(2))
    assert isinstance(made.args, KTOConfig) and made.args.output_dir == "base-KTO"


# ---- pairs into single rows, and back ----


def test_pairs_become_single_rows_and_pairs_again():
    rows = pair_rows(4, chosen_reward=[1.0, 0.9, 0.8, 0.7], rejected_reward=[0.1] * 4, speaker=["a", "b", "a", "b"])
    single = unpaired_rows(rows)
    assert len(single) == 8 and single["label"][:] == [True] * 4 + [False] * 4
    assert single["completion"][:] == [row["chosen"] for row in rows] + [row["rejected"] for row in rows]
    assert single["reward"][:] == [1.0, 0.9, 0.8, 0.7, *[0.1] * 4] and single["speaker"][:4] == list("abab")
    assert single["row_id"][:] == list(range(8))
    again = paired_rows(single)
    for name in ("chosen", "rejected", "chosen_reward", "rejected_reward", "speaker"):
        assert [row[name] for row in again] == [row[name] for row in rows], name
    lone = paired_rows(single.select([0, 1, 2, 4]))
    assert [row["chosen"] for row in lone] == [rows[0]["chosen"]], "what has no counterpart is left out"


def test_rows_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match=r"no column 'chosen'.*speech_rows\(rows, columns="):
        unpaired_rows(judged_rows(2))
    with pytest.raises(ValueError, match="no column 'completion'"):
        paired_rows(pair_rows(2))
    with pytest.raises(ValueError, match=r"have a column 'label' already\. Rename"):
        unpaired_rows(pair_rows(2, label=[1, 0]))
    with pytest.raises(ValueError, match="stream cannot offer"):
        unpaired_rows(Dataset.from_list(pair_rows(2)).to_iterable_dataset())
