"""`RAFTTrainer` against plain transformers calls, its cycles, and what it logs of them."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from audiorl.adapters import SpeechModelConfig
from audiorl.flags import RewardScriptArguments, parse
from audiorl.rewards.labels import LabelMatch
from audiorl.trainers.checkpoints import run_of, write_list
from audiorl.trainers.raft import RAFTConfig, RAFTTrainer
from audiorl.trainers.raft_cycle import KEPT_FILE
from tests.families.toys import ToyCTC, build_toy
from tests.tiny_classifiers import DIGITS, tiny_classifier
from tests.tiny_models import SAMPLING_RATE, tiny_whisper
from tests.trainers.grpo_rows import check_accumulation, letters, rows, shortness
from tests.trainers.pair_rows import apart_from_cost, largest_difference, weights
from tests.trainers.raft_rows import config, trainer
from tests.trainers.stock_scores import nudge, stock_scores


def watch_losses(raft: RAFTTrainer) -> list[Any]:
    """Every batch that a loss is computed of, from here on."""
    seen, compute_loss = [], raft.compute_loss

    def watched(model, inputs, *args, **kwargs):
        seen.append(inputs)
        return compute_loss(model, inputs, *args, **kwargs)

    raft.compute_loss = watched
    return seen


def by_row(batch: Any) -> Any:
    """(row, keep (H, T)) of each clip."""
    return zip(batch.row_ids.tolist(), batch.keep, strict=True)


def cycle_logs(raft: RAFTTrainer) -> list[dict[str, float]]:
    return [log for log in raft.state.log_history if "raft/cycle" in log]


def step_logs(raft: RAFTTrainer) -> list[dict[str, float]]:
    return [log for log in raft.state.log_history if "loss" in log]


def test_a_model_that_has_diverged_stops_the_run_where_it_samples(tmp_path):
    class Spoil(TrainerCallback):
        def on_epoch_end(self, args, state, control, model=None, **kwargs):
            model.model.decoder.layer_norm.weight.data.fill_(float("nan"))

    raft = trainer(tmp_path, trainer_callbacks=[Spoil()])
    with pytest.raises(
        FloatingPointError, match=r"not finite at step 5, rows \[\d, \d\] .*no hypotheses .* Resume from"
    ):
        raft.train()


# ---- what is learnt ----


@pytest.mark.parametrize("freeze", [False, True])
def test_loss_and_gradients_equal_one_stock_forward_for_each_kept_hypothesis(tmp_path, freeze):
    """Rows 0 and 2 in one micro-batch, of which two and one hypotheses were kept, at another temperature than 1."""
    raft = trainer(tmp_path, freeze_encoder=freeze, max_kept_per_clip=2, sft_weight=0.3, temperature=1.3)
    stock, _ = tiny_whisper()
    if freeze:
        stock.model.encoder.requires_grad_(False)
    nudge(raft.model)
    nudge(stock)
    raft.kept = raft._sample_cycle(0)
    raft.kept.hypotheses[2] = tuple(part[:1] for part in raft.kept.hypotheses[2])
    collated = raft.data_collator([raft.train_dataset[i] for i in (0, 2)])
    (inputs,), _ = raft.get_batch_samples(iter([collated]), 1, torch.device("cpu"))
    raft.current_gradient_accumulation_steps = 1
    raft.model.train()
    loss = raft.compute_loss(raft.model, inputs)
    loss.backward()
    terms = {"kept": [0.0, 0], "true": [0.0, 0]}
    for b, row in enumerate((0, 2)):
        ids, first_kept = raft.family.tokenize(rows()[row]["text"])
        texts = [("true", torch.tensor(ids), torch.arange(len(ids) - 1) >= first_kept - 1)]
        tokens, keep = raft.kept.hypotheses[row]
        texts += [("kept", tokens[k].long(), keep[k]) for k in range(len(tokens))]
        for kind, text, counts in texts:
            logps, _ = stock_scores(stock, inputs.audio[b], text, counts, temperature=1.0)
            terms[kind][0], terms[kind][1] = terms[kind][0] - logps.sum(), terms[kind][1] + int(counts.sum())
    expected = terms["kept"][0] / terms["kept"][1] + 0.3 * terms["true"][0] / terms["true"][1]
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    mine = {name: p.grad for name, p in raft.model.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert mine.keys() == theirs.keys()
    scale = max(float(g.abs().max()) for g in theirs.values())
    assert scale > 1e-3 and largest_difference(mine, theirs) < 1e-4 * scale


def test_a_clip_is_encoded_once_for_all_its_samples_and_once_for_all_it_kept(tmp_path):
    raft = trainer(tmp_path, max_kept_per_clip=3, sft_weight=0.1, num_cycles=1, rollout_batch_size=4)
    heard = []
    raft.model.model.encoder.register_forward_pre_hook(lambda _, args: heard.append(args[0].shape[0]))
    raft.train()
    assert heard == [4, 4, 2, 2, 2, 2]


def test_what_is_kept_is_what_the_steps_learn(tmp_path):
    """The reward is the number of tokens: of each clip the longest that ended, however late it was sampled."""
    seen: dict[str, set[int]] = {}

    def length(completion_ids, text, **kwargs):
        for ids, true in zip(completion_ids, text, strict=True):
            seen.setdefault(true, set()).add(len(ids) if len(ids) < 36 else 0)
        return [float(len(ids)) for ids in completion_ids]

    raft = trainer(tmp_path, rows(4), trainer_reward_funcs=length, num_cycles=1)
    batches = watch_losses(raft)
    raft.train()
    assert len(batches) == 2 and all(batch.num_hypotheses == 1 for batch in batches)
    learnt = {
        row: int(keep.sum()) for batch in batches for row, keep in zip(batch.row_ids.tolist(), batch.keep, strict=True)
    }
    assert learnt == {row: max(seen[rows()[row]["text"]]) for row in range(4)}
    log = cycle_logs(raft)[0]
    assert log["raft/kept_reward"] == pytest.approx(np.mean(list(learnt.values())))
    assert log["raft/kept_reward"] > log["reward"]


def test_the_same_text_twice_and_what_was_cut_are_kept_once_and_never(tmp_path):
    """Four tokens at most: most hypotheses are cut; a low temperature repeats the others."""
    short = [{**row, "text": "a"} for row in rows(4)]
    settings = {"max_completion_length": 4, "num_generations": 16, "max_kept_per_clip": 16, "temperature": 0.5}
    raft = trainer(tmp_path, short, **settings)
    kept = raft._sample_cycle(0)
    end = raft.family.end_token
    texts = [
        [tuple(ids[1:][counts].tolist()) for ids, counts in zip(*known, strict=True)]
        for known in kept.hypotheses.values()
    ]
    assert all(ids[-1] == end for group in texts for ids in group)
    assert all(len(set(group)) == len(group) for group in texts)
    assert 0 < sum(map(len, texts)) < 40


def test_transcripts_alone_are_learnt_of_clips_that_kept_nothing(tmp_path):
    def only_first(completions, text, **kwargs):
        return [float(true == rows()[0]["text"]) for true in text]

    settings = {"reward_threshold": 0.5, "num_cycles": 1, "trainer_reward_funcs": only_first}
    with_transcripts = trainer(tmp_path / "a", rows(4), sft_weight=0.5, **settings)
    without = trainer(tmp_path / "b", rows(4), **settings)
    seen = [watch_losses(raft) for raft in (with_transcripts, without)]
    for raft in (with_transcripts, without):
        raft.train()
        assert cycle_logs(raft)[0]["raft/kept_clips"] == 1
    assert sorted(row for batch in seen[0] for row in batch.row_ids.tolist()) == [0, 1, 2, 3]
    for batch in seen[0]:
        assert torch.equal(batch.keep[:, 0].any(-1), batch.row_ids == 0) and batch.keep[:, -1].any(-1).all()
    # two steps of two clips go over the one that is left
    assert [row for batch in seen[1] for row in batch.row_ids.tolist()] == [0] * 4
    assert cycle_logs(without)[0]["raft/passes"] == 4 and cycle_logs(with_transcripts)[0]["raft/passes"] == 1


def test_tuning_raises_the_reward(tmp_path):
    raft = trainer(tmp_path, trainer_reward_funcs=shortness, num_cycles=5, learning_rate=3e-3)
    raft.train()
    rewards = [log["reward"] for log in cycle_logs(raft)]
    assert rewards[-1] > rewards[0] + 2


def test_an_adapter_learns_and_its_base_stays(tmp_path):
    adapter = LoraConfig(r=4, target_modules=r".*decoder.*\.(q_proj|v_proj)")
    raft = trainer(
        tmp_path, trainer_peft_config=adapter, trainer_reward_funcs=shortness, num_cycles=3, learning_rate=3e-2
    )
    start = weights(raft.model)
    raft.train()
    moved = {name for name, value in weights(raft.model).items() if not torch.equal(value, start[name])}
    assert moved and all("lora_" in name for name in moved)
    assert cycle_logs(raft)[-1]["reward"] > cycle_logs(raft)[0]["reward"] + 1


def test_a_family_that_scores_hypotheses_as_a_whole_learns_too(tmp_path):
    model, processor = build_toy(ToyCTC)
    generator = np.random.default_rng(0)
    clips = [generator.normal(size=1000).astype(np.float32) for _ in range(4)]
    spoken = [{"audio": {"array": clip, "sampling_rate": 1000}, "text": "hi"} for clip in clips]
    raft = trainer(
        tmp_path,
        spoken,
        trainer_model=model,
        trainer_processing_class=processor,
        trainer_reward_funcs=shortness,
        num_cycles=4,
        learning_rate=3e-2,
        sft_weight=0.01,
        max_kept_per_clip=2,
    )
    raft.train()
    assert cycle_logs(raft)[-1]["reward"] > cycle_logs(raft)[0]["reward"] + 1


def test_a_classifier_learns_the_labels_it_guessed_right_and_logs_its_accuracy(tmp_path):
    """Labels for words: 16 guesses a clip, of which the right one is kept once."""
    model, processor = tiny_classifier("whisper")
    named = [{**row, "text": DIGITS[i]} for i, row in enumerate(rows(6))]
    raft = trainer(
        tmp_path,
        named,
        trainer_model=model,
        trainer_processing_class=processor,
        trainer_reward_funcs=[LabelMatch(column="text")],
        num_generations=16,
        reward_threshold=1.0,
        num_cycles=4,
        epochs_per_cycle=2.0,
        learning_rate=1e-2,
        lr_decay_per_cycle=1.0,
    )
    raft.train()
    logs = cycle_logs(raft)
    assert logs[-1]["accuracy"] > logs[0]["accuracy"] + 0.2
    assert all(log["raft/kept_accuracy"] == 1 and log["raft/kept"] == log["raft/kept_clips"] for log in logs)
    assert logs[0]["accuracy"] == pytest.approx(logs[0]["reward"]) and "wer" not in logs[0]


# ---- cycles ----


def test_one_run_has_all_cycles_and_its_learning_rate_falls_by_cycles(tmp_path):
    """Eight rows, two a step: four steps a cycle."""
    raft = trainer(tmp_path, num_cycles=3, learning_rate=1e-3, lr_decay_per_cycle=0.5, min_lr=4e-4)
    assert raft.args.num_train_epochs == 3
    raft.train()
    assert raft.state.max_steps == raft.state.global_step == 12
    rates = [log["learning_rate"] for log in step_logs(raft)]
    assert rates == pytest.approx([1e-3] * 4 + [5e-4] * 4 + [4e-4] * 4)
    assert [log["step"] for log in cycle_logs(raft)] == [0, 4, 8]
    assert [log["raft/cycle"] for log in cycle_logs(raft)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"steps_per_cycle": 3}, 3),
        ({"epochs_per_cycle": 1.5}, 6),
        ({"clips_per_cycle": 3}, 2),
        ({"clips_per_cycle": 3, "epochs_per_cycle": 2.0, "gradient_accumulation_steps": 2}, 2),
    ],
)
def test_steps_of_a_cycle(tmp_path, changes, steps):
    raft = trainer(tmp_path, max_steps=steps + 1, **changes)
    batches = watch_losses(raft)
    raft.train()
    assert raft.state.global_step == steps + 1 and len(cycle_logs(raft)) == 2
    clips = changes.get("clips_per_cycle", 8)
    assert cycle_logs(raft)[0]["raft/generated"] == 4 * clips
    accumulated = changes.get("gradient_accumulation_steps", 1)
    first = {row for batch in batches[: steps * accumulated] for row in batch.row_ids.tolist()}
    assert len(first) == min(clips, 2 * steps * accumulated)


def test_metrics_of_a_cycle_carry_worked_values(tmp_path):
    """Two clips of four hypotheses with rewards 1, 2, 3, 4 and 5, 6, 7, 8; the second reward abstains for one clip."""

    def ladder(completions, text, **kwargs):
        return [float(i % 4 + 1 + 4 * (true == rows()[1]["text"])) for i, true in enumerate(text)]

    def shy(completions, text, **kwargs):
        return [5.0 if true == rows()[1]["text"] else None for true in text]

    raft = trainer(
        tmp_path,
        rows(2),
        trainer_reward_funcs=[ladder, shy],
        reward_weights=[1.0, 0.0],
        max_kept_per_clip=2,
        keep_top_percent=0.75,
        reward_threshold=4.0,
        num_cycles=1,
        steps_per_cycle=3,
        seed=3,
    )
    batches = watch_losses(raft)
    raft.train()
    log = cycle_logs(raft)[0]
    # two of each clip, 3 4 7 8; three of these four, 4 7 8; all of them reach the threshold
    expected = {
        "raft/cycle": 1,
        "raft/generated": 8,
        "raft/kept": 3,
        "raft/kept_clips": 2,
        "raft/passes": 3.0,
        "raft/kept_reward": 19 / 3,
        "reward": 36 / 8,
        "rewards/ladder/mean": 36 / 8,
        "rewards/shy/mean": 5.0,
    }
    assert {name: log[name] for name in expected} == pytest.approx(expected)
    assert {"wer", "raft/kept_wer", "completions/clipped_ratio", "reward_std"} <= log.keys()
    assert not {"loss/kept", "entropy"} & log.keys() and {"loss/kept", "entropy"} <= step_logs(raft)[0].keys()
    found = sorted(
        (row, int(keep.any(-1).sum())) for row, keep in zip(batches[0].row_ids.tolist(), batches[0].keep, strict=True)
    )
    assert found == [(0, 1), (1, 2)]


def test_training_hears_what_was_sampled_from(tmp_path):
    """Augmented anew in each cycle, alike within one."""
    raft = trainer(tmp_path, rows(4), augmentation={"noise": {"std": [0.01, 0.1]}})
    heard = []
    raft.model.model.encoder.register_forward_pre_hook(lambda _, args: heard.append(args[0].detach().clone()))
    raft.train()
    clips = [{tuple(clip.flatten()[:50].tolist()) for clip in torch.cat(heard[i : i + 2])} for i in range(0, 8, 2)]
    assert clips[0] == clips[1] and clips[2] == clips[3] and not clips[0] & clips[2]


def test_completions_of_a_cycle_are_written(tmp_path, capsys):
    trainer(tmp_path, log_completions=True, num_completions_to_print=3).train()
    assert [path.name for path in sorted((tmp_path / "completions").iterdir())] == [
        "step_00000.jsonl",
        "step_00004.jsonl",
    ]
    assert "Completions of step 4" in capsys.readouterr().out


# ---- splits, seeds, resuming ----


def test_accumulating_four_micro_batches_of_one_equals_one_batch_of_four(tmp_path):
    """Six rows: the second step of a cycle begins another pass."""
    check_accumulation(trainer, tmp_path, 4, max_kept_per_clip=2, keep_top_percent=0.8, sft_weight=0.3)


def test_cycles_sample_anew_and_seeds_sample_otherwise(tmp_path):
    def sampled(seed: int, cycle: int) -> list[list[int]]:
        kept = trainer(tmp_path, seed=seed, data_seed=0)._sample_cycle(cycle)
        return [kept.hypotheses[row][0].tolist() for row in sorted(kept.hypotheses)]

    assert sampled(1, 0) == sampled(1, 0) != sampled(1, 1) != sampled(2, 1)


# Seven rows, four a step: three steps a cycle, in two micro-batches.
CYCLES = {
    "gradient_accumulation_steps": 2,
    "steps_per_cycle": 3,
    "sft_weight": 0.2,
    "max_kept_per_clip": 2,
    "num_cycles": 2,
    "warmup_steps": 2,
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    whole = trainer(folder, rows(7), **CYCLES, save_strategy="steps", save_steps=1)
    whole.train()
    return whole


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_from_any_checkpoint_equals_not_stopped_bit_for_bit(tmp_path, uninterrupted, stop):
    """Checkpoints 1 and 5 lie within a cycle, 3 between the two."""
    checkpoint = Path(uninterrupted.args.output_dir) / f"checkpoint-{stop}"
    assert (checkpoint / KEPT_FILE).exists() is (stop % 3 != 0)
    resumed = trainer(tmp_path, rows(7), **CYCLES)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert largest_difference(weights(uninterrupted.model), weights(resumed.model)) == 0
    runs = (uninterrupted, resumed)
    logs = [[apart_from_cost(log) for log in t.state.log_history if "train_loss" not in log] for t in runs]
    assert logs[0] == logs[1] and len(cycle_logs(resumed)) == 2


def test_resuming_within_a_cycle_with_other_settings_is_refused(tmp_path, uninterrupted):
    checkpoint = Path(uninterrupted.args.output_dir) / "checkpoint-4"
    with pytest.raises(ValueError, match=r"have 3 optimizer steps, those of this run 5. Resume with the batch size"):
        changed = {**CYCLES, "steps_per_cycle": 5, "allow_changed_resume": True}
        trainer(tmp_path / "a", rows(7), **changed).train(str(checkpoint))
    checkpoint = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint-4"))
    (checkpoint / KEPT_FILE).unlink()
    with pytest.raises(ValueError, match=r"not a whole checkpoint: kept_samples.pt is missing"):
        trainer(tmp_path / "b", rows(7), **CYCLES).train(str(checkpoint))
    write_list(str(checkpoint), run_of(checkpoint))
    with pytest.raises(ValueError, match=r"middle of a cycle, but .*kept_samples.pt.*Resume from another"):
        trainer(tmp_path / "b", rows(7), **CYCLES).train(str(checkpoint))


def test_training_again_samples_again(tmp_path):
    """What a run that stopped within its only cycle kept is not what the next one learns."""
    raft = trainer(tmp_path, num_cycles=1, max_steps=2)
    raft.train()
    raft.train()
    assert raft.kept is None and len(cycle_logs(raft)) == 1 and cycle_logs(raft)[0]["step"] == 0


# ---- what goes wrong ----


def test_a_cycle_that_keeps_nothing_says_so_and_what_to_change(tmp_path):
    """The second cycle is the one: its rewards are lower."""
    calls = []

    def falling(completions, **kwargs):
        calls.append(len(completions))
        return [1.0 if len(calls) <= 4 else 0.25] * len(completions)

    raft = trainer(tmp_path, trainer_reward_funcs=falling, reward_threshold=0.5, save_strategy="steps", save_steps=3)
    words = r"Cycle 2 of 2 kept none of 32 hypotheses: the best reward is 0.25, reward_threshold is 0.5.*step 4.*Lower"
    with pytest.raises(ValueError, match=words):
        raft.train()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"checkpoint-3", "report"}
    assert raft.kept is None


def test_a_cycle_that_no_reward_scores_says_so(tmp_path):
    raft = trainer(tmp_path, trainer_reward_funcs=lambda completions, **kwargs: [None] * len(completions))
    with pytest.raises(ValueError, match=r"Cycle 1 of 2 kept none of 32 hypotheses: no reward scored any of them"):
        raft.train()


def test_a_clip_that_breaks_on_decoding_is_left_out_of_the_cycle(tmp_path):
    silent = {"audio": {"array": np.zeros(8000, np.float32), "sampling_rate": SAMPLING_RATE}, "text": "water"}
    raft = trainer(tmp_path, [*rows(3), silent], on_bad_rows="skip", sft_weight=0.3)
    raft.train()
    assert "silent" in (tmp_path / "skipped_rows.jsonl").read_text()
    assert cycle_logs(raft)[0]["raft/generated"] == 12 and cycle_logs(raft)[0]["raft/passes"] == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_cycles": 0}, "num_cycles has to be 1 or more"),
        ({"num_generations": 0}, "num_generations has to be 1 or more"),
        ({"max_kept_per_clip": 5}, r"1 to num_generations=4; got 5"),
        ({"max_kept_per_clip": 0}, "max_kept_per_clip"),
        ({"keep_top_percent": 50}, r"share above 0 and at most 1; got 50.*as 0.5"),
        ({"keep_top_percent": 0.0}, "keep_top_percent"),
        ({"reward_threshold": float("nan")}, "reward_threshold has to be a finite number"),
        ({"lr_decay_per_cycle": 0.0}, "lr_decay_per_cycle"),
        ({"lr_decay_per_cycle": 1.1}, "lr_decay_per_cycle"),
        ({"min_lr": 1e-2}, r"decay of learning_rate=0.001 ends; got 0.01"),
        ({"min_lr": -1.0}, "min_lr"),
        ({"learning_rate": 0.0}, "learning_rate has to be above 0"),
        ({"epochs_per_cycle": 0.0}, "epochs_per_cycle"),
        ({"steps_per_cycle": 0}, "steps_per_cycle"),
        ({"clips_per_cycle": 0}, "clips_per_cycle"),
        ({"rollout_batch_size": 0}, "rollout_batch_size"),
        ({"sft_weight": -0.1}, "sft_weight"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"num_train_epochs": 3}, r"num_train_epochs=3 with num_cycles=2. Leave num_train_epochs out"),
        ({"lr_scheduler_type": "cosine"}, r"lr_scheduler_type='cosine'. Leave it out"),
        ({"train_sampling_strategy": "group_by_length"}, "in these orders: random, sequential"),
    ],
)
def test_wrong_settings_are_refused_when_the_config_is_built(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_rows_and_steps_that_do_not_fit_the_cycles_are_refused_when_the_trainer_is_built(tmp_path):
    with pytest.raises(ValueError, match=r"clips_per_cycle=9 asks for more clips than there are rows \(8\)"):
        trainer(tmp_path, clips_per_cycle=9)
    with pytest.raises(ValueError, match=r"max_steps=9 is more than 2 cycles of 4 optimizer steps"):
        trainer(tmp_path, max_steps=9)
    with pytest.raises(ValueError, match=r"a stream cannot offer.*streaming=False"):
        trainer(tmp_path, datasets.Dataset.from_list(rows()).to_iterable_dataset(), max_steps=2)
    with pytest.raises(ValueError, match=r"rollouts stop after 8"):
        trainer(tmp_path, max_completion_length=8)


def test_samples_per_prompt_is_the_former_name_of_num_generations(tmp_path):
    args = RAFTConfig(str(tmp_path), samples_per_prompt=3)
    assert args.num_generations == args.samples_per_prompt == 3
    assert dataclasses.replace(args, num_generations=5).samples_per_prompt == 5
    args.samples_per_prompt = 6
    assert args.num_generations == 6 and "samples_per_prompt" not in args.to_dict()
    with pytest.raises(TypeError, match="samples_per_prompt is the former name of num_generations"):
        RAFTConfig(str(tmp_path), samples_per_prompt=3, num_generations=3)
    _, parsed, _ = parse((RewardScriptArguments, RAFTConfig, SpeechModelConfig), [], ["--samples_per_prompt", "7"])
    assert parsed.num_generations == 7


def test_the_command_line_of_the_page_of_examples_says_what_its_table_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").touch()
    page = (Path(__file__).parents[2] / "examples" / "README.md").read_text()
    (block,) = re.findall(r"```bash\n(torchrun examples/raft_whisper.py .*?)```", page, re.S)
    flags = block.replace("\\\n", " ").split(".py ", 1)[1].split()
    script, args, model = parse((RewardScriptArguments, RAFTConfig, SpeechModelConfig), [], flags)
    rows_of_table = [[cell.strip(" `") for cell in line.split("|")] for line in page.splitlines()]
    theirs = {cells[1].split("`")[0]: cells[2] for cells in rows_of_table if len(cells) == 7}
    same = ("num_cycles", "samples_per_prompt", "keep_top_percent", "reward_threshold", "min_lr")
    same += ("learning_rate", "lr_decay_per_cycle", "gradient_accumulation_steps")
    assert {name: getattr(args, name) for name in same} == {name: float(theirs[name]) for name in same}
    assert model.model_name_or_path == theirs["model_name"] and script.reward_funcs == ["one_minus_wer"]


def test_default_config_writes_beside_the_model_name_and_keeps_the_best_of_four(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, processor = tiny_whisper()
    model.save_pretrained("base")
    processor.save_pretrained("base")
    raft = RAFTTrainer("base", letters, train_dataset=rows(2))
    assert isinstance(raft.args, RAFTConfig) and raft.args.output_dir == "base-RAFT"
    assert (raft.args.num_generations, raft.args.max_kept_per_clip, raft.args.num_cycles) == (4, 1, 6)
