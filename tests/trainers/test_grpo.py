"""`GRPOTrainer` against plain transformers calls, one model call for each hypothesis."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from audiorl.collator import SpeechCollator
from audiorl.rewards import RewardError
from audiorl.trainers.checkpoints import run_of, write_list
from audiorl.trainers.grpo import GRPOConfig, GRPOTrainer
from audiorl.trainers.rollout_trainer import RepeatedBlocks
from tests.tiny_models import SAMPLING_RATE, tiny_whisper
from tests.trainers.grpo_rows import check_accumulation, config, letters, rows, shortness, trainer
from tests.trainers.pair_rows import CHECKPOINTING, PLAIN_STEPS, apart_from_cost, largest_difference, weights
from tests.trainers.stock_scores import first_inputs, nudge, stock_scores


def plain_dapo_loss(model, ref_model, inputs, texts, family, *, temperature, beta, sft_weight, entropy_coef):
    """Token means of -A pi/pi_old + beta k3 pi/pi_old - c H, and of -log p(transcript); one forward for each text."""
    total, tokens, supervised, words = 0.0, 0, 0.0, 0
    for b, group in enumerate(texts):
        features = inputs.audio[b]
        rewards = np.array(letters(group["said"], [group["true"]] * len(group["said"])))
        advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        for k, advantage in enumerate(advantages):
            ids, keep = inputs.tokens[b, k], inputs.keep[b, k]
            logps, entropy = stock_scores(model, features, ids, keep, temperature)
            with torch.no_grad():
                ref_logps, _ = stock_scores(ref_model, features, ids, keep, temperature)
            ratio = torch.exp(logps - logps.detach())
            difference = ref_logps - logps
            k3 = torch.exp(difference) - difference - 1
            total = total + (-ratio * float(advantage) + beta * k3 * ratio - entropy_coef * entropy).sum()
            tokens += int(keep.sum())
        ids, first_kept = family.tokenize(group["true"])
        keep = torch.arange(len(ids) - 1) >= first_kept - 1
        supervised = supervised - stock_scores(model, features, torch.tensor(ids), keep, temperature)[0].sum()
        words += int(keep.sum())
    return total / tokens + sft_weight * supervised / words


@pytest.mark.parametrize("freeze", [False, True])
def test_loss_and_gradients_equal_one_stock_forward_for_each_hypothesis(tmp_path, freeze):
    terms = {"temperature": 0.8, "beta": 0.2, "sft_weight": 0.3, "entropy_coef": 0.05}
    grpo = trainer(tmp_path, freeze_encoder=freeze, loss_type="dapo", **terms)
    stock, _ = tiny_whisper()
    reference = copy.deepcopy(stock)
    if freeze:
        stock.model.encoder.requires_grad_(False)
    nudge(grpo.model)
    nudge(stock)
    inputs = first_inputs(grpo)
    loss = grpo.compute_loss(grpo.model, inputs)
    loss.backward()
    said = grpo.family.text(inputs.tokens[:, :4], inputs.keep[:, :4])
    texts = [{"said": group, "true": row["text"]} for group, row in zip(said, rows(2), strict=True)]
    expected = plain_dapo_loss(stock, reference, inputs, texts, grpo.family, **terms)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    mine = {name: p.grad for name, p in grpo.model.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert mine.keys() == theirs.keys()
    scale = max(float(g.abs().max()) for g in theirs.values())
    assert scale > 1e-3 and largest_difference(mine, theirs) < 1e-4 * scale


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({"freeze_encoder": True, "beta": 0.1, "sft_weight": 0.3, "dynamic_sampling_tries": 2}, 1),
        ({"freeze_encoder": True, "num_iterations": 2, "max_steps": 2}, 1),
        ({"sft_weight": 0.3}, 2),
        ({"beta": 0.1}, 3),
    ],
    ids=["frozen: once for all", "frozen: once for two updates", "rollout, policy", "rollout, policy, reference"],
)
def test_the_encoder_reads_each_clip_once_for_all_hypotheses(tmp_path, changes, calls):
    grpo = trainer(tmp_path, **{"max_steps": 1, **changes})
    heard = []
    models = [grpo.model] + ([grpo.reference.ref_model] if grpo.reference else [])
    for model in models:
        model.model.encoder.register_forward_pre_hook(lambda _, args: heard.append(args[0].shape[0]))
    grpo.train()
    if changes.get("num_iterations") == 2:
        # the loader brings the rows of the second update again, their states are kept
        assert grpo.state.global_step == 2
    assert heard == [2] * calls


def test_an_adapter_in_the_decoder_shares_the_encoder_with_its_reference(tmp_path):
    adapter = LoraConfig(r=4, target_modules=r".*decoder.*\.(q_proj|v_proj)", init_lora_weights=False)
    grpo = trainer(tmp_path, trainer_peft_config=adapter, beta=0.1, max_steps=2)
    heard = []
    grpo.model.get_base_model().model.encoder.register_forward_pre_hook(lambda *_: heard.append(1))
    grpo.train()
    assert len(heard) == 2
    assert grpo.state.log_history[0]["kl"] > 1e-3


def test_without_beta_there_is_no_frozen_policy(tmp_path):
    assert trainer(tmp_path).reference is None


# ---- splits, seeds, resuming ----


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "dapo", "sft_weight": 0.3},
        {"loss_type": "grpo", "scale_rewards": "batch", "num_iterations": 2},
        {"online_dpo": True},
        {"loss_type": "mwer", "scale_rewards": "none", "mask_truncated_completions": True, "learning_rate": 1.0},
    ],
    ids=["dapo, sft", "grpo, batch, two updates", "online DPO", "mwer, truncated masked"],
)
def test_accumulating_four_micro_batches_of_one_equals_one_batch_of_four(tmp_path, settings):
    """Six rows: the second step has two rows only."""
    check_accumulation(trainer, tmp_path, 2 * settings.get("num_iterations", 1), **settings)


def test_same_seed_same_rollouts_other_seed_others(tmp_path):
    def sampled(seed: int, count: int) -> list[list[int]]:
        inputs = first_inputs(trainer(tmp_path, seed=seed), count)
        return [ids[keep].tolist() for ids, keep in zip(inputs.tokens[0, :, 1:], inputs.keep[0], strict=True)]

    assert sampled(1, 2) == sampled(1, 3) != sampled(2, 2)


# Six rows, four a step, three updates each; the last block is filled up.
INNER_UPDATES = {"num_iterations": 3, "gradient_accumulation_steps": 2, "beta": 0.1, "sft_weight": 0.2, "max_steps": 9}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    whole = trainer(folder, rows(6), **INNER_UPDATES, save_strategy="steps", save_steps=1)
    whole.train()
    return whole


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_resumed_from_any_checkpoint_equals_not_stopped_bit_for_bit(tmp_path, uninterrupted, stop):
    """Checkpoints 1 and 7 lie between updates on one round of rollouts, 7 in the second epoch."""
    whole = uninterrupted
    checkpoint = Path(whole.args.output_dir) / f"checkpoint-{stop}"
    assert (checkpoint / "rollouts_0.pt").exists() is (stop % 3 != 0)
    resumed = trainer(tmp_path, rows(6), **INNER_UPDATES)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert largest_difference(weights(whole.model), weights(resumed.model)) == 0
    runs = [[log for log in t.state.log_history if "loss" in log and log["step"] > stop] for t in (whole, resumed)]
    logs = [[apart_from_cost(log) for log in run] for run in runs]
    assert logs[0] == logs[1]


def test_resuming_between_updates_with_other_settings_is_refused(tmp_path):
    saving = {"num_iterations": 2, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trainer(tmp_path, **saving).train()
    checkpoint = str(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match=r"rollouts of step 0 belong to other rows.*Resume with the batch size"):
        changed = {**saving, "max_steps": 3, "seed": 8, "allow_changed_resume": True}
        trainer(tmp_path / "b", **changed).train(resume_from_checkpoint=checkpoint)
    (tmp_path / "checkpoint-1" / "rollouts_0.pt").unlink()
    with pytest.raises(ValueError, match=r"not a whole checkpoint: rollouts_0.pt is missing"):
        trainer(tmp_path / "c", **{**saving, "max_steps": 3}).train(resume_from_checkpoint=checkpoint)
    write_list(checkpoint, run_of(checkpoint))
    with pytest.raises(ValueError, match=r"between the 2 updates.*rollouts_0.pt. Resume with"):
        trainer(tmp_path / "c", **{**saving, "max_steps": 3}).train(resume_from_checkpoint=checkpoint)


def test_blocks_are_repeated_and_the_last_one_filled_up():
    ordered = RepeatedBlocks(5, 4, 2, seed=None, steps_done=lambda: 0)
    assert list(ordered) == [0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4] and len(ordered) == 16
    assert list(RepeatedBlocks(5, 4, 2, seed=None, steps_done=lambda: 0, drop_last=True)) == [0, 1, 2, 3] * 2


def test_blocks_come_in_another_order_in_each_epoch():
    """Eight rows, four a step, three updates each: an epoch has six steps."""

    def order(step: int) -> list[int]:
        return list(RepeatedBlocks(8, 4, 3, seed=1, steps_done=lambda: step))

    first = order(0)
    assert sorted(first) == sorted(list(range(8)) * 3) and first[:4] == first[4:8] == first[8:12]
    assert first == order(5) != order(6) == order(11)


def test_inner_updates_reuse_the_samples_and_weigh_them_by_the_ratio(tmp_path):
    grpo = trainer(tmp_path, num_iterations=2, num_train_epochs=1)
    seen = []
    rollout_loss = grpo.rollout_loss

    def watch(batch, scores, counts):
        seen.append((batch.tokens, "old_logps" in batch, scores.logps.detach(), batch.get("old_logps")))
        return rollout_loss(batch, scores, counts)

    grpo.rollout_loss = watch
    grpo.train()
    assert len(seen) == 8
    for (tokens, old, logps, _), (again, old_again, _, old_logps) in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(tokens, again) and not old and old_again
        # what sampling said of the tokens is what scoring said before the update
        assert torch.allclose(old_logps, logps, atol=1e-4)
    logged = [log for log in grpo.state.log_history if "loss" in log]
    assert "reward" in logged[0] and "reward" not in logged[1]


# ---- rewards ----


def test_rewards_get_every_column_of_their_row_by_name(tmp_path):
    seen = []

    def watch(prompts, completions, completion_ids, text, speaker, audio, trainer_state, **kwargs):
        seen.extend(zip(prompts, completions, completion_ids, text, speaker, strict=True))
        assert "row_id" not in kwargs and "where" not in kwargs and all(entry["bytes"] for entry in audio)
        return [float(len(ids)) for ids in completion_ids]

    speakers = [f"speaker {i}" for i in range(8)]
    grpo = trainer(tmp_path, rows(speaker=speakers), trainer_reward_funcs=watch, max_steps=2, dataloader_num_workers=1)
    grpo.train()
    texts = {row["text"]: name for row, name in zip(rows(), speakers, strict=True)}
    assert len(seen) == 2 * 2 * 4
    for prompt, completion, ids, text, speaker in seen:
        assert prompt == "" and texts[text] == speaker and 1 <= len(ids) <= 36 and isinstance(completion, str)
    assert seen[0][3] == seen[3][3] != seen[4][3]


def test_rewards_and_wer_get_the_words_of_timed_transcripts(tmp_path):
    seen = []

    def watch(completions, text, **kwargs):
        seen.extend(text)
        return letters(completions, text)

    timed = [{**row, "text": f"<|0.00|> {row['text']}<|0.40|>"} for row in rows(2)]
    grpo = trainer(
        tmp_path, timed, trainer_kind="multilingual", trainer_reward_funcs=watch, max_steps=1, language="english"
    )
    grpo.train()
    assert set(seen) == {row["text"] for row in rows(2)}
    words = sum(len(row["text"].split()) for row in rows(2))
    assert (grpo.state.log_history[0]["wer"] * 4 * words) == pytest.approx(
        round(grpo.state.log_history[0]["wer"] * 4 * words), abs=1e-3
    )


def test_metrics_carry_trl_names_and_worked_values(tmp_path):
    """Two clips of four hypotheses; rewards 1, 2, 3, 4 and 2, 2, 2, 2, and a second one that abstains for one clip."""

    def ladder(completions, **kwargs):
        return [1.0, 2.0, 3.0, 4.0, 2.0, 2.0, 2.0, 2.0]

    def shy(completions, **kwargs):
        return [None] * 4 + [5.0] * 4

    grpo = trainer(tmp_path, rows(2), trainer_reward_funcs=[ladder, shy], reward_weights=[1.0, 0.0], max_steps=1)
    grpo.train()
    log = grpo.state.log_history[0]
    expected = {
        "reward": 18 / 8,
        "reward_std": np.std([1, 2, 3, 4, 2, 2, 2, 2], ddof=1),
        "frac_reward_zero_std": 0.5,
        "rewards/ladder/mean": 18 / 8,
        "rewards/shy/mean": 5.0,
        "rewards/shy/std": 0.0,
        "clip_ratio/low_mean": 0.0,
        "clip_ratio/high_mean": 0.0,
        "clip_ratio/region_mean": 0.0,
    }
    assert {name: log[name] for name in expected} == pytest.approx(expected)
    assert log["completions/min_length"] <= log["completions/mean_length"] <= log["completions/max_length"] <= 36
    assert {"completions/clipped_ratio", "entropy", "wer", "loss", "grad_norm"} <= log.keys()


def test_clips_that_no_reward_scored_count_nowhere(tmp_path):
    """Row 1 abstains throughout: the step is that of row 0 alone."""

    def only_first(completions, text, **kwargs):
        scores = letters(completions, text)
        return [score if said == rows()[0]["text"] else None for score, said in zip(scores, text, strict=True)]

    both = trainer(tmp_path / "a", rows(2), trainer_reward_funcs=only_first, **PLAIN_STEPS)
    alone = trainer(tmp_path / "b", rows(1), trainer_reward_funcs=only_first, **PLAIN_STEPS)
    both.train()
    alone.train()
    assert both.state.global_step == alone.state.global_step == 1
    assert largest_difference(weights(both.model), weights(alone.model)) < 1e-6
    assert both.state.log_history[0]["reward"] == pytest.approx(alone.state.log_history[0]["reward"])


def test_rewards_that_do_not_vary_change_nothing(tmp_path):
    grpo = trainer(tmp_path, trainer_reward_funcs=lambda completions, **kwargs: [0.5] * len(completions))
    before = weights(grpo.model)
    grpo.train()
    assert largest_difference(before, weights(grpo.model)) == 0
    assert grpo.state.log_history[0]["frac_reward_zero_std"] == 1


def test_groups_without_variance_are_sampled_again(tmp_path):
    """The first round is worth nothing for row 0; the second is other hypotheses of row 0 alone."""
    calls = []

    def fussy(completions, text, **kwargs):
        calls.append(list(zip(text, completions, strict=True)))
        return [0.0] * 4 + [1.0, 2.0, 3.0, 4.0] if len(calls) == 1 else [1.0, 2.0, 3.0, 4.0]

    grpo = trainer(tmp_path, rows(2), trainer_reward_funcs=fussy, dynamic_sampling_tries=3, seed=3)
    inputs = first_inputs(grpo)
    assert len(calls) == 2 and len(calls[1]) == 4
    again = [completion for _, completion in calls[1]]
    assert {text for text, _ in calls[1]} == {rows()[0]["text"]}
    assert again != [completion for _, completion in calls[0][:4]]
    learnt = grpo.family.text(inputs.tokens, inputs.keep)
    assert learnt[0] == again and learnt[1] == [completion for _, completion in calls[0][4:]]
    assert grpo.metrics.drain("train")["frac_groups_resampled"] == 0.5


def test_rows_that_no_reward_scores_are_not_sampled_again(tmp_path):
    calls = []

    def shy(completions, **kwargs):
        calls.append(completions)
        return [None] * 4 + [1.0, 2.0, 3.0, 4.0]

    grpo = trainer(tmp_path, trainer_reward_funcs=shy, dynamic_sampling_tries=2)
    inputs = first_inputs(grpo)
    assert len(calls) == 1 and not inputs.keep[0].any() and inputs.keep[1].any()
    assert grpo.metrics.drain("train")["frac_reward_zero_std"] == 0


def test_resampling_stops_after_its_tries(tmp_path):
    calls = []

    def flat(completions, **kwargs):
        calls.append(completions)
        return [1.0] * len(completions)

    first_inputs(trainer(tmp_path, trainer_reward_funcs=flat, dynamic_sampling_tries=2))
    assert [len(completions) for completions in calls] == [8, 8, 8] and calls[0] != calls[1] != calls[2]


def test_cut_hypotheses_are_masked_on_request(tmp_path):
    short = [{**row, "text": "a"} for row in rows(2)]
    masked, kept = (
        first_inputs(trainer(tmp_path, short, max_completion_length=4, mask_truncated_completions=mask, seed=11))
        for mask in (True, False)
    )
    ended = (kept.tokens[..., 1:] == trainer(tmp_path).family.end_token) & kept.keep
    finished = ended.any(-1)
    assert finished.any() and not finished.all()
    assert torch.equal(masked.keep.any(-1), finished) and kept.keep.any(-1).all()


def test_tuning_raises_the_reward(tmp_path):
    grpo = trainer(tmp_path, trainer_reward_funcs=shortness, num_train_epochs=6)
    grpo.train()
    logged = [log["reward"] for log in grpo.state.log_history if "reward" in log]
    assert np.mean(logged[-6:]) > np.mean(logged[:6]) + 1


def test_gradient_checkpointing_samples_and_trains_the_same(tmp_path):
    plain, checkpointed = trainer(tmp_path / "a"), trainer(tmp_path / "b", **{CHECKPOINTING: True})
    plain.train()
    checkpointed.train()
    assert largest_difference(weights(plain.model), weights(checkpointed.model)) < 1e-6


# ---- rows that cannot be used, losses that are not finite ----


def test_placeholders_of_bad_rows_count_nowhere(tmp_path):
    """A silent clip breaks on decoding, after the check of the rows; alone in a micro-batch it is a placeholder."""
    silent = {"audio": {"array": np.zeros(8000, np.float32), "sampling_rate": SAMPLING_RATE}, "text": "water"}
    ordered = {"train_sampling_strategy": "sequential", "on_bad_rows": "skip", "sft_weight": 0.3, **PLAIN_STEPS}
    with_bad = trainer(
        tmp_path / "a",
        [rows(1)[0], silent],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        **ordered,
    )
    alone = trainer(tmp_path / "b", rows(1), **ordered)
    with_bad.train()
    alone.train()
    assert "silent" in (tmp_path / "a" / "skipped_rows.jsonl").read_text()
    assert largest_difference(weights(with_bad.model), weights(alone.model)) < 1e-6
    for name in ("loss", "reward", "wer", "completions/mean_length"):
        logs = [t.state.log_history[0][name] for t in (with_bad, alone)]
        assert logs[0] == pytest.approx(logs[1], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    class Spoil(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                model.model.decoder.layer_norm.weight.data[0] = float("nan")

    grpo = trainer(tmp_path, trainer_callbacks=[Spoil()])
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 2, rows \[\d, \d\]"):
        grpo.train()


@pytest.mark.parametrize("online_dpo", [False, True])
def test_a_model_that_has_diverged_stops_the_run_where_it_samples(tmp_path, online_dpo):
    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            model.model.decoder.layer_norm.weight.data.fill_(float("nan"))

    rollouts = trainer(tmp_path, online_dpo=online_dpo, trainer_callbacks=[Spoil()])
    with pytest.raises(
        FloatingPointError, match=r"not finite at step 2, rows \[\d, \d\] .*no hypotheses .* Resume from"
    ):
        rollouts.train()


def test_a_broken_reward_stops_the_run_with_its_name_and_row(tmp_path):
    def broken(completions, text, **kwargs):
        if "the lazy dog" in text:
            raise KeyError("dog")
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r"'broken' raised KeyError.*row 2"):
        trainer(tmp_path, trainer_reward_funcs=broken).train()


# ---- evaluation and logging ----


def test_evaluation_decodes_and_rewards_and_has_no_loss(tmp_path):
    grpo = trainer(tmp_path, trainer_reward_funcs=[letters, shortness], trainer_eval_dataset=rows(3))
    metrics = grpo.evaluate()
    decoded = grpo.decode(grpo.eval_dataset)
    expected = np.mean(letters(decoded.hypotheses, decoded.transcripts))
    assert metrics["eval_rewards/letters/mean"] == pytest.approx(expected)
    parts = metrics["eval_rewards/letters/mean"] + metrics["eval_rewards/shortness/mean"]
    assert metrics["eval_reward"] == pytest.approx(parts)
    assert {"eval_wer", "eval_cer"} <= metrics.keys() and "eval_loss" not in metrics


def test_the_best_checkpoint_is_that_of_the_lowest_wer(tmp_path):
    best = config(tmp_path, load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps")
    assert (best.metric_for_best_model, best.greater_is_better) == ("wer", False)


def test_completions_are_printed_and_written(tmp_path, capsys):
    grpo = trainer(tmp_path, log_completions=True, num_completions_to_print=1, max_steps=1)
    grpo.train()
    (line,) = (tmp_path / "completions" / "step_00001.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["step"] == 1 and record["best"]["reward"] > record["worst"]["reward"]
    assert record["best"]["rewards"]["letters"] == record["best"]["reward"]
    printed = capsys.readouterr().out
    assert "Completions of step 1" in printed
    for words in (record["where"], record["transcript"], record["best"]["text"], record["worst"]["text"]):
        assert words in printed


# ---- what is refused ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 1}, r"num_generations >= 2; got 1. Raise it"),
        ({"loss_type": "gpro"}, "grpo"),
        ({"scale_rewards": "groups"}, "group"),
        ({"beta": -0.1}, "beta"),
        ({"epsilon": -2.0}, "epsilon"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"num_iterations": 0}, "num_iterations"),
        ({"sft_weight": -1.0}, "sft_weight"),
        ({"dynamic_sampling_tries": -1}, "dynamic_sampling_tries"),
        ({"ref_model_mixup_alpha": 0.0}, "ref_model_mixup_alpha"),
        ({"num_iterations": 2, "train_sampling_strategy": "group_by_length"}, "orders random, sequential"),
    ],
)
def test_wrong_settings_are_refused_when_the_config_is_built(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_scale_rewards_takes_trl_s_booleans(tmp_path):
    assert [config(tmp_path, scale_rewards=value).scale_rewards for value in (True, False)] == ["group", "none"]


def test_wrong_trainer_arguments_are_refused_before_anything_is_spent(tmp_path):
    def needs_speaker(completions, speaker, **kwargs):
        raise AssertionError("never called")

    with pytest.raises(RewardError, match=r"needs_speaker reads the column 'speaker', which is missing"):
        trainer(tmp_path, trainer_reward_funcs=needs_speaker)
    with pytest.raises(ValueError, match=r"text has 32 tokens, rollouts stop after 8. Raise max_completion_length"):
        trainer(tmp_path, max_completion_length=8)
    with pytest.raises(ValueError, match=r"ref_model would not be read.*Raise beta"):
        trainer(tmp_path, trainer_ref_model=tiny_whisper()[0])
    stream = datasets.Dataset.from_list(rows()).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"stream cannot offer.*num_iterations=1"):
        trainer(tmp_path, stream, num_iterations=2, max_steps=2)
    family = trainer(tmp_path).family
    with pytest.raises(ValueError, match=r"SpeechCollator. Leave it out"):
        trainer(tmp_path, trainer_data_collator=SpeechCollator(family, ("text",)))


def test_streams_are_rolled_out_as_data_sets_are(tmp_path):
    stream = datasets.Dataset.from_list(rows()).to_iterable_dataset()
    streamed = trainer(tmp_path / "a", stream, max_steps=4)
    streamed.train()
    ordered = trainer(tmp_path / "b", train_sampling_strategy="sequential")
    ordered.train()
    assert largest_difference(weights(streamed.model), weights(ordered.model)) < 1e-6


@pytest.mark.parametrize("told", ["eval_wer and compute_metrics decode", "Rewards at an evaluation decode"])
def test_an_evaluation_that_cannot_decode_a_stream_is_refused_before_a_step(tmp_path, told):
    stream = datasets.Dataset.from_list(rows()).to_iterable_dataset()
    with pytest.raises(ValueError, match=rf"{told} the evaluation rows again .*streaming=False.*leave it out"):
        trainer(tmp_path, trainer_eval_dataset=stream, eval_wer=told.startswith("eval_wer"))


def test_default_config_writes_beside_the_model_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, processor = tiny_whisper()
    model.save_pretrained("base")
    processor.save_pretrained("base")
    grpo = GRPOTrainer("base", letters, train_dataset=rows(2))
    assert isinstance(grpo.args, GRPOConfig) and grpo.args.output_dir == "base-GRPO"
