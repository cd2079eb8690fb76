"""Real speech and a real model: skipped where AUDIORL_TEST_DATA is not set."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from audiorl.evaluation import evaluate_model
from audiorl.trainers.dpo import DPOTrainer
from tests.trainers.pair_rows import config

pytestmark = pytest.mark.real_speech


def checkpoint(root: Path) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    folder = root / "models" / "whisper-tiny-regrown"
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, WhisperProcessor.from_pretrained(folder)


def validation_rows(root: Path, count: int) -> list[dict]:
    folder = root / "data" / "librispeech-mini"
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    fitting = [row for row in rows if row["duration"] <= 11.9][:count]
    return [{**row, "audio": str(folder / row["audio"]), "text": row["text"].lower()} for row in fitting]


def test_one_real_pair_one_step_and_its_word_errors(tmp_path, test_data):
    """The model's own mistake is rejected: after one step the transcript has gained on it."""
    model, processor = checkpoint(test_data)
    row = validation_rows(test_data, 1)[0]
    result = evaluate_model(model, processor, [row], normalise="lower", progress=False)
    assert (result.words, result.errors.total.errors) == (3, 2)  # "illestration long peeter"
    pair = {**row, "chosen": row["text"], "rejected": result.hypotheses[0]}
    dpo = DPOTrainer(
        model,
        args=config(tmp_path, max_steps=1, learning_rate=3e-5, freeze_encoder=True),
        train_dataset=[pair],
        processing_class=processor,
    )
    before = dpo.evaluate([pair])
    dpo.train()
    after = dpo.evaluate([pair])
    assert before["eval_loss"] == pytest.approx(0.693147, abs=1e-4)
    assert after["eval_loss"] < 0.68
    assert after["eval_rewards/margins"] > 0.01


def test_clips_longer_than_the_window_are_refused_with_both_lengths(tmp_path, test_data):
    model, processor = checkpoint(test_data)
    folder = test_data / "data" / "librispeech-mini"
    long = next(
        row for row in map(json.loads, (folder / "train.jsonl").read_text().splitlines()) if row["duration"] > 12.5
    )
    row = {**long, "audio": str(folder / long["audio"]), "chosen": "yes", "rejected": "no"}
    with pytest.raises(ValueError, match=r"\d\d\.\d\d s long, the model hears 12 s"):
        DPOTrainer(model, args=config(tmp_path), train_dataset=[row], processing_class=processor)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_preference_tuning_lowers_the_error_rate_of_an_unseen_speaker(test_data):
    """Three seeds, mined pairs, 1.5 CPU minutes; on average the unseen speaker is transcribed with fewer errors."""
    from wer_after_tuning import run_seed

    runs = [run_seed(test_data, seed, 1.5, ["DPO + SFT"], None, 4)["DPO + SFT"]["result"] for seed in range(3)]
    before = runs[0].before.wer
    assert statistics.mean(run.after.wer for run in runs) < before
    assert min(run.paired.p_value for run in runs) < 0.05
