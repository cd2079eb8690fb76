"""`ORPOTrainer` against plain transformers calls, and rows of another project end to end."""

from __future__ import annotations

import json
import logging
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import soundfile
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from audiorl.batch import PLACEHOLDER_ROW_ID, GroupBatch
from audiorl.datasets import BadRowsError
from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer
from tests import oracles_odds_ratio as oracle
from tests.demo_runs import rates_of_demo
from tests.forks import run_forked
from tests.tiny_models import SAMPLING_RATE, saved, tiny_clips, tiny_whisper
from tests.trainers import pair_rows as shared
from tests.trainers.pair_rows import CHECKPOINTING, PLAIN_STEPS, largest_difference, pair_rows, weights

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "orpo_whisper.py"


def config(output_dir: Any, **changes: Any) -> ORPOConfig:
    return ORPOConfig(**{**shared.settings(output_dir), **changes})


def trainer(output_dir: Any, rows: Any = None, *, kind: str = "english", **changes: Any) -> ORPOTrainer:
    """An `ORPOTrainer` on a fresh tiny model; `trainer_` prefixed changes go to the trainer."""
    options = {name.removeprefix("trainer_"): changes.pop(name) for name in list(changes) if name[:8] == "trainer_"}
    model, processor = tiny_whisper(kind)
    model = options.pop("model", model)
    rows = pair_rows() if rows is None else rows
    return ORPOTrainer(model, config(output_dir, **changes), train_dataset=rows, processing_class=processor, **options)


def first_batch(orpo: ORPOTrainer, count: int = 2) -> GroupBatch:
    return orpo.data_collator([orpo.train_dataset[i] for i in range(count)])


def token_logps(model, features, ids, first_kept) -> list[float]:
    """Log-probabilities of one transcript's tokens by a stock forward."""
    logits = model(input_features=features[None], decoder_input_ids=torch.tensor([ids[:-1]])).logits[0]
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1)[first_kept - 1 :]


def plain_orpo_loss(model, batch: GroupBatch, texts, family, beta: float, nll_weight: float) -> torch.Tensor:
    """Four stock forwards for two pairs, the formula as it stands in the paper."""
    nll, tokens, ratios = 0.0, 0, []
    for features, pair in zip(batch.audio, texts, strict=True):
        logps = [token_logps(model, features, *family.tokenize(text)) for text in pair]
        nll, tokens = nll - logps[0].sum(), tokens + len(logps[0])
        p = [x.mean().exp() for x in logps]
        ratios.append(torch.sigmoid(torch.log((p[0] / (1 - p[0])) / (p[1] / (1 - p[1])))).log())
    return nll_weight * nll / tokens - beta * torch.stack(ratios).mean()


@pytest.mark.parametrize("nll_weight", [1.0, 0.25])
def test_loss_and_gradients_equal_one_stock_forward_for_each_transcript(tmp_path, nll_weight):
    orpo = trainer(tmp_path, beta=0.7, nll_weight=nll_weight)
    stock, _ = tiny_whisper()
    orpo.model.train()
    batch = first_batch(orpo)
    loss = orpo.compute_loss(orpo.model, batch)
    loss.backward()
    texts = [(row["chosen"], row["rejected"]) for row in pair_rows(2)]
    expected = plain_orpo_loss(stock, batch, texts, orpo.family, 0.7, nll_weight)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():
        table = [
            [token_logps(stock, features, *orpo.family.tokenize(text)).tolist() for text in pair]
            for features, pair in zip(batch.audio, texts, strict=True)
        ]
    everything = [[[True] * len(tokens) for tokens in pair] for pair in table]
    assert loss.item() == pytest.approx(oracle.orpo_loss(table, everything, 0.7, nll_weight), rel=1e-5)
    mine = {name: p.grad for name, p in orpo.model.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    scale = max(float(g.abs().max()) for g in theirs.values())
    assert largest_difference(mine, theirs) < 1e-4 * scale


def test_encoder_and_decoder_run_once_with_a_row_for_each_clip_and_no_model_beside(tmp_path):
    orpo = trainer(tmp_path)
    rows = {"encoder": [], "decoder": []}
    for name, seen in rows.items():
        part = getattr(orpo.model.model, name)
        part.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append(len(args[0] if args else kwargs["input_ids"])),
            with_kwargs=True,
        )
    orpo.model.train()
    orpo.compute_loss(orpo.model, first_batch(orpo))
    assert rows == {"encoder": [2], "decoder": [2]}
    assert orpo.reference is None


def test_accumulating_four_micro_batches_of_one_equals_one_batch_of_four(tmp_path):
    """Six rows: the second optimizer step has two rows only, and token counts differ from row to row."""
    rows = pair_rows(6)
    settings = {"beta": 0.5, **PLAIN_STEPS}
    big = trainer(tmp_path / "a", rows, per_device_train_batch_size=4, **settings)
    small = trainer(tmp_path / "b", rows, per_device_train_batch_size=1, gradient_accumulation_steps=4, **settings)
    big.train()
    small.train()
    assert big.state.global_step == small.state.global_step == 2
    assert largest_difference(weights(big.model), weights(small.model)) < 1e-6
    for name in ("loss", "nll_loss", "log_odds_ratio"):
        logged = [[log[name] for log in t.state.log_history if name in log][:2] for t in (big, small)]
        assert logged[0] == pytest.approx(logged[1], rel=1e-5), name


def test_metrics_carry_trl_names_and_add_up_to_the_loss(tmp_path):
    orpo = trainer(tmp_path, beta=0.5, nll_weight=0.8)
    orpo.train()
    logs = [log for log in orpo.state.log_history if "loss" in log]
    names = {
        "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected",
        "logits/chosen", "logits/rejected", "nll_loss", "log_odds_ratio", "log_odds_chosen", "entropy",
        "mean_token_accuracy", "loss", "grad_norm",
    }  # fmt: skip
    assert names <= logs[0].keys()
    for log in logs:
        assert log["loss"] == pytest.approx(0.8 * log["nll_loss"] - 0.5 * log["log_odds_ratio"], rel=1e-5)
        assert log["rewards/chosen"] == pytest.approx(0.5 * log["logps/chosen"], rel=1e-5)
        assert log["rewards/margins"] == pytest.approx(log["rewards/chosen"] - log["rewards/rejected"], abs=1e-6)
        assert log["log_odds_ratio"] < 0 < log["nll_loss"]


def test_tuning_raises_the_odds_of_the_chosen_and_its_likelihood(tmp_path):
    orpo = trainer(tmp_path, num_train_epochs=6, beta=1.0)
    orpo.train()
    logs = [log for log in orpo.state.log_history if "loss" in log]

    def over(epoch: list[dict], name: str) -> float:
        return sum(log[name] for log in epoch) / len(epoch)

    assert over(logs[-4:], "log_odds_chosen") > over(logs[:4], "log_odds_chosen") + 0.5
    assert over(logs[-4:], "nll_loss") < over(logs[:4], "nll_loss") - 0.5


def test_a_placeholder_counts_for_nothing(tmp_path):
    orpo = trainer(tmp_path)
    orpo.model.eval()
    batch = first_batch(orpo, 3)
    dropped = batch.replace(
        keep=batch.keep & torch.tensor([True, False, True])[:, None, None],
        row_ids=torch.tensor([0, PLACEHOLDER_ROW_ID, 2]),
    )
    others = orpo.data_collator([orpo.train_dataset[i] for i in (0, 2)])
    with torch.no_grad():
        losses = [orpo.compute_loss(orpo.model, b).item() for b in (dropped, others)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_evaluation_logs_the_same_names_and_its_parts_do_not_depend_on_the_batch_size(tmp_path):
    found = [trainer(tmp_path / str(n), per_device_eval_batch_size=n).evaluate(pair_rows(5)) for n in (1, 5)]
    for name in ("eval_nll_loss", "eval_log_odds_ratio", "eval_rewards/margins"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-5)


def test_an_adapter_trains_alone(tmp_path):
    orpo = trainer(tmp_path, trainer_peft_config=LoraConfig(r=4, target_modules=["q_proj", "fc1"]))
    before = weights(orpo.model)
    orpo.train()
    after = weights(orpo.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name for name in changed)


def test_streams_train_as_data_sets_do(tmp_path):
    stream = datasets.Dataset.from_list(pair_rows()).to_iterable_dataset()
    streamed = trainer(tmp_path / "a", stream, max_steps=4)
    ordered = trainer(tmp_path / "b", train_sampling_strategy="sequential")
    streamed.train()
    ordered.train()
    assert largest_difference(weights(streamed.model), weights(ordered.model)) < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": -1.0}, "beta"),
        ({"beta": 0.0, "nll_weight": 0.0}, "not both 0"),
        ({"min_audio_seconds": 2.0, "max_audio_seconds": 1.0}, "min <= max"),
    ],
)
def test_wrong_settings_are_refused_when_the_config_is_built(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_default_config_writes_beside_the_model_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    orpo = ORPOTrainer(saved(tiny_whisper(), "base"), train_dataset=pair_rows(2))
    assert isinstance(orpo.args, ORPOConfig)
    assert orpo.args.output_dir == "base-ORPO"


# ---- clips outside the wanted length ----


@pytest.mark.parametrize("on_bad_rows", ["error", "skip"])
def test_clips_outside_the_bounds_are_left_out_before_the_check_and_counted(tmp_path, caplog, on_bad_rows):
    """Clips of 0.90, 0.81, 0.72, 0.63, 0.54 s. Row 0 is too long and lacks a text: no fault."""
    rows = pair_rows(5)
    rows[0]["rejected"] = ""
    caplog.set_level(logging.WARNING)
    orpo = trainer(
        tmp_path, rows, min_audio_seconds=0.6, max_audio_seconds=0.85, on_bad_rows=on_bad_rows,
        trainer_eval_dataset=rows,
    )  # fmt: skip
    assert orpo.train_dataset["row_id"][:] == orpo.eval_dataset["row_id"][:] == [1, 2, 3]
    told = [record.getMessage() for record in caplog.records]
    line = "2 of 5 clips left out: 1 shorter than 0.6 s, 1 longer than 0.85 s."
    assert told[:2] == [f"train_dataset: {line}", f"eval_dataset: {line}"]
    assert len(told) == 3 and told[2].startswith("3 of 3 clips of eval_dataset are trained on too")
    orpo.train()
    assert not (tmp_path / "skipped_rows.jsonl").exists()


def test_faults_of_wanted_rows_are_told_all_the_same(tmp_path):
    rows = pair_rows(5)
    rows[1]["rejected"] = ""
    with pytest.raises(BadRowsError, match="row 1: rejected is empty"):
        trainer(tmp_path, rows, max_audio_seconds=0.85)
    with pytest.raises(ValueError, match=r"5 of 5 clips left out.*none is left.*Change min_audio_seconds"):
        trainer(tmp_path, rows, min_audio_seconds=5.0)


def test_a_stream_leaves_clips_out_as_they_come_and_says_how_many_at_the_end(tmp_path, caplog):
    stream = datasets.Dataset.from_list(pair_rows(8)).to_iterable_dataset()
    streamed = trainer(tmp_path / "a", stream, max_steps=3, min_audio_seconds=0.6, **PLAIN_STEPS)
    caplog.set_level(logging.WARNING)
    output = streamed.train()
    assert output.metrics["left_out_clips"] == 1
    assert "1 clips of streams were left out" in caplog.text
    whole = trainer(
        tmp_path / "b", min_audio_seconds=0.6, train_sampling_strategy="sequential", max_steps=3, **PLAIN_STEPS
    )
    whole.train()
    assert largest_difference(weights(streamed.model), weights(whole.model)) < 1e-6


# ---- rows as another project writes them ----


@pytest.fixture
def foreign(tmp_path) -> Path:
    """Six lines `{"audio": {"path"}, "duration", "chosen", "rejected", "language"}`; lines 3 and 4 carry timestamps."""
    texts = [
        ("你好世界", "你好"),
        ("the lazy dog", "the lazy lazy dog"),
        ("<|0.00|>你好<|0.40|><|0.40|>世界<|0.72|>", "<|0.00|>你好<|0.72|>"),
        ("<|0.00|> the lazy dog<|0.62|>", "<|0.00|> lazy<|0.62|>"),
        ("all year", "year"),
        ("water", "waiter"),
    ]
    languages = ["Chinese", "English", "Chinese", "English", None, "en"]
    lines = []
    for i, (clip, pair, language) in enumerate(zip(tiny_clips(6), texts, languages, strict=True)):
        soundfile.write(tmp_path / f"{i}.wav", clip, SAMPLING_RATE)
        row = {"audio": {"path": f"{i}.wav"}, "duration": round(len(clip) / SAMPLING_RATE, 2)}
        row |= {"chosen": pair[0], "rejected": pair[1]} | ({"language": language} if language else {})
        lines.append(json.dumps(row, ensure_ascii=False))
    path = tmp_path / "train.json"
    path.write_text("\n".join(lines))
    return path


def change_line(path: Path, line: int, **fields: Any) -> None:
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    rows[line - 1].update(fields)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def test_rows_with_and_without_timestamps_get_their_own_prefix_and_train(tmp_path, foreign):
    orpo = trainer(tmp_path / "out", str(foreign), kind="multilingual", language="Chinese")
    batch = first_batch(orpo, 6)
    ids = orpo.processing_class.tokenizer.get_vocab()
    start, zh, en, transcribe, plain = (
        ids[f"<|{name}|>"] for name in ("startoftranscript", "zh", "en", "transcribe", "notimestamps")
    )
    prefixes = batch.tokens[:, 0, :4].tolist()
    for row, language in enumerate((zh, en, zh, en, zh, en)):
        timed = row in (2, 3)
        assert prefixes[row] == [start, language, transcribe, ids["<|0.00|>"] if timed else plain]
        # what counts begins behind the prefix: with the first timestamp where there is one
        assert batch.keep[row, :, :4].tolist() == [[False, False, timed, True]] * 2
    heard = batch.tokens[2, 0][1:][batch.keep[2, 0]].tolist()
    assert [ids["<|0.00|>"], ids["<|0.40|>"], ids["<|0.72|>"]] == sorted(
        set(heard) & {i for token, i in ids.items() if re.fullmatch(r"<\|\d+\.\d\d\|>", token)}
    )
    assert plain not in heard
    orpo.train()
    assert orpo.state.global_step == 3
    decoded = orpo.decode(str(foreign))
    assert decoded.transcripts[2:4] == ["你好世界", "the lazy dog"]


BAD_TIMES = {
    "back": ("<|0.00|> the<|0.60|><|0.40|> dog<|0.62|>", r"timestamps go back from 0.60 s to 0.40 s"),
    "beyond the clip": ("<|0.00|> the lazy dog<|1.50|>", r"timestamp at 1.50 s, the clip ends at 0.63 s"),
    "beyond the window": ("<|0.00|> the lazy dog<|2.50|>", r"unknown timestamp <\|2.50\|>"),
    "not at the start": ("the lazy<|0.40|> dog<|0.62|>", r"does not begin with one"),
}


@pytest.mark.parametrize("column", ["chosen", "rejected"])
@pytest.mark.parametrize(("text", "message"), BAD_TIMES.values(), ids=BAD_TIMES)
def test_timestamps_that_cannot_be_are_faults_of_their_line(tmp_path, foreign, text, message, column):
    change_line(foreign, 4, **{column: text})
    with pytest.raises(BadRowsError, match=rf"train.json:4: {column}.*{message}"):
        trainer(tmp_path / "out", str(foreign), kind="multilingual", language="Chinese")
    assert not (tmp_path / "out").exists()


def test_a_last_timestamp_may_be_rounded_up(tmp_path, foreign):
    """The clip of line 4 has 0.63 s, times come in steps of 0.02 s."""
    change_line(foreign, 4, chosen="<|0.00|> the lazy dog<|0.64|>")
    assert len(trainer(tmp_path, str(foreign), kind="multilingual", language="Chinese").train_dataset) == 6


def test_a_stream_hears_of_bad_timestamps_when_they_come(tmp_path, foreign):
    change_line(foreign, 2, chosen="<|0.00|> the lazy dog<|1.50|>")
    rows = trainer(
        tmp_path / "a", str(foreign), kind="multilingual", language="Chinese", on_bad_rows="skip"
    ).train_dataset
    assert len(rows) == 5
    from audiorl.datasets import speech_rows

    stream = speech_rows(str(foreign)).to_iterable_dataset()
    orpo = trainer(tmp_path / "b", stream, kind="multilingual", language="Chinese", max_steps=3)
    with pytest.raises(BadRowsError, match=r"train.json:2: chosen has a timestamp at 1.50 s"):
        orpo.train()


# ---- the example ----


def run_example(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *flags])
    runpy.run_path(str(EXAMPLE))["main"]()


@pytest.fixture
def base(tmp_path) -> str:
    """A folder with a multilingual checkpoint."""
    return saved(tiny_whisper("multilingual"), tmp_path / "base")


def test_two_processes_leave_the_same_clips_out_and_end_with_the_weights_of_one(
    tmp_path, base, foreign, monkeypatch, capsys, caplog
):
    """Five clips are left, so one process has a repeated row in the second step."""
    flags = [
        *("--model_name_or_path", base, "--dataset_name", str(foreign), "--eval_dataset_name", str(foreign)),
        *("--language", "Chinese", "--max_audio_seconds", "0.85", "--num_train_epochs", "1", "--beta", "0.5"),
        *("--optim", "sgd", "--max_grad_norm", "0", "--learning_rate", "1e-2", "--save_strategy", "no"),
        *("--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true", "--logging_steps", "1"),
    ]
    change_line(foreign, 6, duration=0.8)
    run_example(monkeypatch, *flags, "--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "one"))
    one = capsys.readouterr()
    flags += ["--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / "two")]
    two = run_forked(EXAMPLE, *flags, processes=2)
    assert two.returncode == 0, two.stderr[-3000:]
    for shown in (caplog.text, two.stderr):
        assert shown.count("1 of 6 clips left out: 1 longer than 0.85 s") == 2, "of the training and of the test rows"
    single, double = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    start = load_file(f"{base}/model.safetensors")
    assert largest_difference(single, double) < 1e-5 < largest_difference(start, single)
    assert [line for line in one.out.splitlines() if "WER" in line] == [
        line for line in two.stdout.splitlines() if "WER" in line
    ]


def test_the_example_takes_what_the_other_command_line_offers(tmp_path, base, foreign, monkeypatch, capsys, caplog):
    flags = [
        *("--model_name_or_path", base, "--dataset_name", str(foreign)),
        *("--eval_dataset_name", str(foreign), "--language", "Chinese", "--task", "transcribe"),
        *("--learning_rate", "1e-3", "--beta", "1.0", "--num_train_epochs", "2", "--warmup_steps", "2"),
        *("--per_device_train_batch_size", "2", "--per_device_eval_batch_size", "2"),
        *("--gradient_accumulation_steps", "1", "--min_audio_seconds", "0.55", "--max_audio_seconds", "0.85"),
        *("--use_peft", "--lora_r", "4", "--lora_alpha", "8", "--lora_dropout", "0.05", "--load_in_8bit"),
        *("--disable_dropout", "false", f"--{CHECKPOINTING}", "true", "--lr_scheduler_type", "cosine", "--seed", "42"),
        *("--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end", "true"),
        *("--dataloader_num_workers", "0", "--logging_steps", "1", "--optim", "adamw_torch"),
        *("--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true", "--output_dir", str(tmp_path / "out")),
    ]
    run_example(monkeypatch, *flags)
    shown = capsys.readouterr()
    assert "WER before" in shown.out and "WER after" in shown.out
    assert "3 of 6 clips left out: 1 shorter than 0.55 s, 2 longer than 0.85 s" in caplog.text
    logged = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert any("eval_log_odds_ratio" in line for line in logged)
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    last = max((tmp_path / "out").glob("checkpoint-*"))
    run_example(monkeypatch, *flags, "--num_train_epochs", "3", "--resume_from_checkpoint", str(last))
    assert "WER after" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "words"), [("--timestamps", "each row does"), ("--disable_prompt_loss", "no prompt beside an encoder")]
)
def test_flags_without_a_meaning_here_are_refused_with_the_reason(monkeypatch, capsys, flag, words):
    with pytest.raises(SystemExit) as ended:
        run_example(monkeypatch, "--model_name_or_path", "x", flag, "true")
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_without_arguments_improves_held_out_wer_by_a_fifth(tmp_path, seed):
    before, after = rates_of_demo("orpo_whisper.py", tmp_path, seed)
    assert after <= 0.8 * before
