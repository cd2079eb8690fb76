"""What a run writes down: files, console, sounds and tables in real loggers without a network, files for the report."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import TrainerCallback
from transformers.utils import logging as hf_logging

import audiorl
from audiorl.commands.train import tune_and_measure
from audiorl.files import METRICS_FILE
from audiorl.report import read_run, write_report
from audiorl.trainers import logs
from audiorl.trainers.logs import log_line
from audiorl.trainers.media import markdown_table
from tests.closed_pipe import ClosedPipe
from tests.forks import on_a_screen
from tests.tiny_models import SAMPLING_RATE, saved, tiny_clips, tiny_whisper
from tests.trainers import grpo_rows, pair_rows, raft_rows


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def text_rows(count: int = 4) -> list[dict]:
    return pair_rows.pair_rows(count, text=list(pair_rows.CHOSEN))


def cells(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_log_stands_in_both_files_and_a_resumed_run_repeats_none(tmp_path):
    changes = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    whole = pair_rows.trainer(tmp_path, trainer_eval_dataset=text_rows(2), eval_wer=True, **changes)
    whole.train()
    logged = lines(tmp_path / METRICS_FILE)
    assert [record["step"] for record in logged] == [1, 2, 2, 3, 4, 4, 4]
    assert logged == whole.state.log_history
    table = cells(tmp_path / "metrics.csv")
    for row, record in zip(table, logged, strict=True):
        assert {name: float(value) for name, value in row.items() if value} == pytest.approx(record)
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 4

    again = pair_rows.trainer(tmp_path, trainer_eval_dataset=text_rows(2), eval_wer=True, **changes)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    resumed = lines(tmp_path / METRICS_FILE)
    assert [record["step"] for record in resumed] == [1, 2, 2, 3, 4, 4, 4]
    assert resumed[0] == logged[0] and len(cells(tmp_path / "metrics.csv")) == 7
    checkpoints = read_run(tmp_path).checkpoints
    assert [(found.name, found.step) for found in checkpoints] == [("checkpoint-2", 2), ("checkpoint-4", 4)]
    assert checkpoints[0].loss == logged[1]["loss"] and checkpoints[0].wer == {"": logged[2]["eval_wer"]}


def strict(text: str) -> object:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not in the standard of JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_no_finite_number_is_null_in_json_and_named_in_the_table(tmp_path):
    class Odd(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if state.global_step == 2 and "loss" in logs:
                state.log_history[-1] |= {"rewards/margins": math.nan, "grad_norm": math.inf}

    trained = pair_rows.trainer(tmp_path, text_rows(4), max_steps=3)
    trained.callback_handler.callbacks.insert(0, Odd())
    trained.train()
    logged = [strict(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    first, odd = logged[:2]
    assert first["grad_norm"] > 0 and (odd["step"], odd["rewards/margins"], odd["grad_norm"]) == (2, None, None)
    row = cells(tmp_path / "metrics.csv")[1]
    assert (row["rewards/margins"], row["grad_norm"]) == ("nan", "inf")
    assert strict((tmp_path / "trainer_state.json").read_text())["global_step"] == 3
    # read back it is a number again, of which a curve makes a gap
    history = {record["step"]: record for record in read_run(tmp_path).history if "loss" in record}
    assert math.isnan(history[2]["grad_norm"]) and math.isfinite(history[3]["grad_norm"])
    assert "NaN" not in write_report(tmp_path).read_text().split('id="data"')[1].split("</script>")[0]


def test_an_evaluation_alone_leaves_the_files_of_a_run(tmp_path):
    (tmp_path / METRICS_FILE).write_text("of a run\n")
    pair_rows.trainer(tmp_path, trainer_eval_dataset=text_rows(2)).evaluate()
    assert (tmp_path / METRICS_FILE).read_text() == "of a run\n"


def test_console_tells_progress_time_left_and_wer_and_quiet_tells_nothing(tmp_path, capsys):
    options = {"trainer_eval_dataset": text_rows(2), "eval_wer": True, "eval_strategy": "steps", "eval_steps": 2}
    tuned = pair_rows.trainer(tmp_path, **options)
    tuned.train()
    told = capsys.readouterr().out.splitlines()
    wer = next(log["eval_wer"] for log in tuned.state.log_history if "eval_wer" in log)
    assert told[0].startswith("step 1/4, 0:00:0") and " left: loss 0." in told[0]
    assert any(f"WER {100 * wer:.1f} %" in line for line in told)
    assert any(line.startswith("step 4/4: ") for line in told)
    pair_rows.trainer(tmp_path, quiet=True, disable_tqdm=False, **options).train()
    said = capsys.readouterr()
    assert said.out == "" and said.err == ""


def test_a_line_of_the_console_gives_rates_in_percent():
    logs = {"loss": 0.123456, "wer": 0.5, "reward": -0.25, "grad_norm": 3.0, "learning_rate": 1e-5}
    assert log_line(logs) == "loss 0.1235, reward -0.25, WER of samples 50.0 %, learning rate 1e-05"
    assert log_line({"train_runtime": 3.0, "train_loss": 0.25}) == "mean loss 0.25", (
        "the last line of a run has its loss"
    )
    assert log_line({"eval_accuracy": 0.25, "rewards/accuracies": 0.5}) == "pairs in order 0.5, accuracy 25.0 %"


def test_tensorboard_holds_audio_transcripts_and_completions(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    train = grpo_rows.rows(4)
    train[0]["text"] = "a|b <script>"
    tuned = grpo_rows.trainer(
        tmp_path, train, report_to="tensorboard", log_audio_every=2, log_completions=True, logging_steps=2
    )
    tuned.train()
    events = accumulator.EventAccumulator(str(tmp_path / "events"), size_guidance={"audio": 0, "tensors": 0})
    events.Reload()
    assert set(events.Tags()["audio"]) == {f"audio_samples/{i}" for i in range(4)}
    (found,) = events.Audio("audio_samples/1")
    (tmp_path / "found.wav").write_bytes(found.encoded_audio_string)
    samples, rate = soundfile.read(tmp_path / "found.wav")
    assert (found.step, rate) == (2, SAMPLING_RATE)
    np.testing.assert_allclose(samples, train[1]["audio"]["array"], atol=1e-4)

    def text(name: str) -> str:
        return events.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode()

    heard = tuned.decode(tuned.train_dataset.select(range(4))).hypotheses
    assert text("audio_samples_texts").count("\n") == 5
    assert "a&#124;b &#60;script&#62;" in text("audio_samples_texts")
    assert markdown_table(["h"], [[heard[1]]]).splitlines()[2].strip("| ") in text("audio_samples_texts")
    assert "best&#95;reward" not in text("completions") and "best_reward" in text("completions")
    assert events.Scalars("train/reward")


def assert_these_clips(found: list[np.ndarray]) -> None:
    """The first four clips of the rows in any order, as 16-bit samples."""
    expected = sorted((row["audio"]["array"] for row in grpo_rows.rows(4)), key=len)
    for clip, one in zip(sorted(found, key=len), expected, strict=True):
        np.testing.assert_allclose(clip, one, atol=1e-4)


def test_wandb_holds_audio_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    grpo_rows.trainer(
        tmp_path / "run", grpo_rows.rows(4), report_to="wandb", log_audio_every=2, log_completions=True
    ).train()
    wandb.finish()
    (run,) = tmp_path.glob("wandb/offline-run-*")
    tables = [json.loads(path.read_text()) for path in run.glob("files/media/table/*.table.json")]
    samples = next(table for table in tables if table["columns"] == ["clip", "transcript", "hypothesis"])
    assert [row[1] for row in samples["data"]] == [row["text"] for row in grpo_rows.rows(4)]
    assert any("best_reward" in table["columns"] for table in tables)
    heard = [soundfile.read(path) for path in run.glob("files/media/audio/*.wav")]
    assert [rate for _, rate in heard] == [SAMPLING_RATE] * 4
    assert_these_clips([samples for samples, _ in heard])


def test_trackio_holds_audio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    grpo_rows.trainer(
        tmp_path / "run", grpo_rows.rows(4), report_to="trackio", log_audio_every=2, log_completions=True
    ).train()
    assert_these_clips([soundfile.read(path)[0] for path in (tmp_path / "trackio").rglob("*.wav")])


def test_audio_for_no_logger_and_from_a_stream_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"log_audio_every.*tensorboard, wandb, trackio.*none.*report_to"):
        pair_rows.config(tmp_path, log_audio_every=5)
    with pytest.raises(ValueError, match="log_audio_every"):
        pair_rows.config(tmp_path, log_audio_every=-1)


def test_a_run_with_rewards_leaves_its_groups_and_its_page(tmp_path, capsys):
    rows = grpo_rows.rows(4)
    tuned = grpo_rows.trainer(tmp_path, rows, report_html=True)
    tuned.train()
    assert f"The report lies in {tmp_path / 'report.html'}" in capsys.readouterr().out
    run = read_run(tmp_path)
    assert run.facts["trainer"] == "GRPOTrainer" and run.facts["training_rows"] == 4
    assert [group["step"] for group in run.groups] == [1, 1, 2, 2]
    rewards = [log["reward"] for log in tuned.state.log_history if "reward" in log]
    for step, reward in enumerate(rewards, 1):
        of_step = [h["reward"] for group in run.groups if group["step"] == step for h in group["hypotheses"]]
        assert len(of_step) == 8 and math.isclose(sum(of_step) / 8, reward, rel_tol=1e-6)
    group = run.groups[0]
    assert group["transcript"] == rows[group["row_id"]]["text"] and group["audio"] is None
    assert run.kept_audio(f"row-{group['row_id']}") is not None
    assert {"letters"} == set(group["hypotheses"][0]["rewards"])


def test_a_run_of_raft_leaves_what_each_cycle_sampled_and_kept(tmp_path, monkeypatch):
    """Two cycles of six clips, two steps each; of each cycle the first three clips stay behind."""
    monkeypatch.setattr("audiorl.trainers.raft.GROUPS_A_CYCLE", 3)
    settings = {"max_kept_per_clip": 2, "keep_top_percent": 0.2, "per_device_train_batch_size": 3}
    tuned = raft_rows.trainer(tmp_path, grpo_rows.rows(6), **settings)
    cycles, sample = {}, tuned._sample_cycle
    tuned._sample_cycle = lambda cycle: cycles.setdefault(2 * cycle + 1, sample(cycle))
    tuned.train()
    run = read_run(tmp_path)
    assert [group["step"] for group in run.groups] == [1, 1, 1, 3, 3, 3]
    counts = []
    for group in run.groups:
        tokens, keep = cycles[group["step"]].hypotheses.get(group["row_id"], (torch.zeros(0, 2), torch.zeros(0, 1)))
        learnt = tuned.family.text(tokens.long()[None], keep.bool()[None])[0] if len(tokens) else []
        assert [one["text"] for one in group["hypotheses"] if one["kept"]] == learnt
        assert len(group["hypotheses"]) == 4 and all(one["reward"] is not None for one in group["hypotheses"])
        counts.append(len(learnt))
    assert 0 in counts and max(counts) > 0
    assert not (tmp_path / "report.html").exists() and '"kept":true' in write_report(tmp_path).read_text()


def test_raft_resumed_at_the_end_and_within_a_cycle_leaves_each_group_once(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 4}
    raft_rows.trainer(tmp_path, **saving).train()
    whole = read_run(tmp_path).groups
    assert [group["step"] for group in whole] == [1] * 8 + [3] * 8
    for checkpoint in (2, 3):
        raft_rows.trainer(tmp_path, **saving).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{checkpoint}"))
        assert read_run(tmp_path).groups == whole


@pytest.mark.parametrize("labels", [False, True])
def test_a_measured_run_is_whole_though_nobody_reads_what_is_printed(tmp_path, monkeypatch, labels):
    tuned = pair_rows.trainer(tmp_path)
    if labels:
        tuned.family.labels = ["the lazy dog", "water"]
    pushed = []
    tuned.args.push_to_hub = True
    monkeypatch.setattr(tuned, "push_to_hub", lambda: pushed.append(True))
    monkeypatch.setattr(logs, "print", lambda text: ClosedPipe().write(text), raising=False)
    with pytest.raises(BrokenPipeError):
        tune_and_measure(tuned, text_rows(3))
    assert len(read_run(tmp_path).evaluation["measurements"]) == 2 and pushed == [True]


def test_a_measured_run_leaves_before_and_after_of_each_clip(tmp_path, capsys):
    tuned = pair_rows.trainer(tmp_path, report_html=True)
    before = tuned.decode(text_rows(3))
    tune_and_measure(tuned, text_rows(3))
    told = capsys.readouterr().out
    assert told.count("The report lies in") == 1 and "WER after" in told
    run = read_run(tmp_path)
    first, second = (one["clips"] for one in run.evaluation["measurements"])
    assert [clip["hypothesis"] for clip in first] == before.hypotheses
    assert [clip["hypothesis"] for clip in second] == tuned.decode(text_rows(3)).hypotheses
    assert [clip["transcript"] for clip in second] == list(pair_rows.CHOSEN[:3])
    assert [clip["seconds"] for clip in first] == pytest.approx([0.9, 0.81, 0.72], abs=0.001)
    assert all(run.kept_audio(f"clip-{place}") for place in range(3))


def test_a_run_without_a_page_leaves_its_pairs_and_less_audio(tmp_path, monkeypatch):
    pair_rows.trainer(tmp_path).train()
    run = read_run(tmp_path)
    assert [pair["chosen"] for pair in run.pairs] == list(pair_rows.CHOSEN) and run.facts["pairs"] == 8
    assert all(run.kept_audio(f"row-{pair['row_id']}") for pair in run.pairs)
    assert not (tmp_path / "report.html").exists()
    page = write_report(tmp_path).read_text()
    assert page.count('<script type="text/plain"') == 8
    monkeypatch.setattr("audiorl.trainers.report_files.UNASKED_BYTES", 1)
    for asked, clips in ((False, 1), (True, 8)):
        pair_rows.trainer(tmp_path, report_html=asked).train()
        assert len(list((tmp_path / "report" / "audio").iterdir())) == clips


def test_a_failing_report_loses_nothing(tmp_path, monkeypatch):
    def fails(run):
        raise OSError("the disk is full")

    monkeypatch.setattr("audiorl.trainers.report_files.write_report", fails)
    tuned = pair_rows.trainer(tmp_path, report_html=True)
    tuned.train()
    assert tuned.state.global_step == 4


# ---- bars ----


def test_a_command_shows_one_bar_at_a_time_on_a_terminal(tmp_path):
    """A second bar would be drawn in the line below, which tqdm reaches by "\\n" and leaves by the code for up."""
    saved(tiny_whisper(), tmp_path / "base")
    rows = []
    for i, clip in enumerate(tiny_clips(4)):
        soundfile.write(tmp_path / f"{i}.wav", clip, 16_000)
        rows.append({"audio": f"{i}.wav", "text": "the lazy dog"})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["--model_name_or_path", "base", "--dataset_name", "rows.jsonl", "--eval_dataset_name", "rows.jsonl"]
    flags += ["--output_dir", "out", "--num_cycles", "1", "--max_completion_length", "30", "--save_steps", "1"]
    flags += ["--eval_strategy", "steps", "--eval_steps", "1", "--eval_wer", "--report_to", "none", "--use_cpu"]
    code, said = on_a_screen(Path(audiorl.__file__).parent / "__main__.py", ["raft", *flags], 80, tmp_path)
    assert code == 0, said[-3000:]
    assert "step/s]" in said and "sampling" in said and "transcribing" in said
    assert "\x1b[A" not in said
    assert max(len(line) for part in said.split("\n") for line in part.rstrip("\r").split("\r") if "it/s" in line) <= 80


def test_a_bar_that_was_put_away_still_tells_the_time_left():
    console = logs.Console()
    console.training_bar = bar = console._bar(30, 10)  # a run resumed at step 10
    bar.update(5)
    bar.start_t -= 50
    with console.paused():
        pass
    shown = str(console.training_bar)
    console.training_bar.close()
    assert "15/30 [00:50<02:30, 10.0" in shown


def test_bars_depend_on_the_terminal_and_not_on_how_much_transformers_says(tmp_path, monkeypatch):
    hf_logging.set_verbosity_error()
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        assert pair_rows.config(tmp_path, disable_tqdm=None).disable_tqdm is not terminal
    assert pair_rows.config(tmp_path, disable_tqdm=False).disable_tqdm is False
