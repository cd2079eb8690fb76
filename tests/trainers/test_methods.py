"""What every trainer has: the same of each method of `text_rows.MAKE`, which are not told apart here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration

from audiorl import BadRowsError
from tests.tiny_models import saved, tiny_whisper
from tests.trainers.pair_rows import PLAIN_STEPS, apart_from_cost, largest_difference, logged, weights
from tests.trainers.processes import finished, run_script
from tests.trainers.text_rows import MAKE, ROWS

EVERY = pytest.mark.parametrize("method", MAKE)
SMALL = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "fc1"])
# Seven rows: the last optimizer step has fewer than the others, and of two processes one has none of its own.
UNEVEN = {"num_train_epochs": 2, **PLAIN_STEPS}


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory) -> dict[str, dict]:
    """Weights and log of each method, trained by two processes, two clips each."""
    folder = tmp_path_factory.mktemp("two")
    runs = [
        {"method": name, "rows": 7, "output_dir": folder / name, "out": folder / f"{name}.pt", **UNEVEN}
        for name in MAKE
    ]
    done = run_script("run_methods.py", runs, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: finished(folder / f"{name}.pt") for name in MAKE}


@EVERY
def test_two_processes_end_with_the_weights_of_one(tmp_path, in_two_processes, method):
    one = MAKE[method](tmp_path, ROWS[method](7), per_device_train_batch_size=4, **UNEVEN)
    one.train()
    two = in_two_processes[method]
    assert largest_difference(weights(one.model), two["weights"]) < 1e-5
    runs = (one.state.log_history, two["log"])
    steps, others = ([apart_from_cost(log) for log in run if "loss" in log] for run in runs)
    assert len(steps) == len(others) == 4
    for mine, theirs in zip(steps, others, strict=True):
        assert mine.keys() == theirs.keys() and len(mine) > 5
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5, nan_ok=True)


@EVERY
def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path, method):
    saving = {"save_strategy": "steps", "save_steps": 1}
    whole = MAKE[method](tmp_path / "whole", **saving)
    whole.train()
    again = MAKE[method](tmp_path / "again", **saving)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == whole.state.global_step == 4
    assert largest_difference(weights(whole.model), weights(again.model)) == 0
    assert logged(whole, "loss") == logged(again, "loss")


@EVERY
def test_four_micro_batches_of_one_equal_one_batch_of_four(tmp_path, method):
    rows = ROWS[method](6)
    big = MAKE[method](tmp_path / "a", rows, per_device_train_batch_size=4, **PLAIN_STEPS)
    small = MAKE[method](
        tmp_path / "b", rows, per_device_train_batch_size=1, gradient_accumulation_steps=4, **PLAIN_STEPS
    )
    big.train()
    small.train()
    assert big.state.global_step == small.state.global_step == 2
    assert largest_difference(weights(big.model), weights(small.model)) < 1e-6
    assert logged(big, "loss") == pytest.approx(logged(small, "loss"), rel=1e-5)


@EVERY
def test_an_adapter_trains_alone_and_a_stream_trains_as_a_data_set(tmp_path, method):
    steps = {"max_steps": 2, "trainer_peft_config": SMALL}
    made = MAKE[method](tmp_path / "a", train_sampling_strategy="sequential", **steps)
    before = weights(made.model)
    made.train()
    after = weights(made.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name for name in changed)
    stream = datasets.Dataset.from_list(ROWS[method](8)).to_iterable_dataset()
    streamed = MAKE[method](tmp_path / "b", stream, **steps)
    streamed.train()
    assert largest_difference(after, weights(streamed.model)) < 1e-6


@pytest.mark.parametrize("bits", [8, 4])
@EVERY
def test_an_adapter_on_a_quantised_base_learns(tmp_path, method, bits):
    base = saved(tiny_whisper(), tmp_path / "base")
    made = MAKE[method](
        tmp_path / "out",
        ROWS[method](4),
        num_train_epochs=5,
        learning_rate=1e-2,
        trainer_model=base,
        trainer_peft_config=SMALL,
        trainer_quantization_config=BitsAndBytesConfig(**{f"load_in_{bits}bit": True}),
    )
    made.train()
    losses = logged(made, "loss")
    assert sum(losses[-2:]) < 0.95 * sum(losses[:2]), losses
    made.save_model()
    full = WhisperForConditionalGeneration.from_pretrained(base)
    assert PeftModel.from_pretrained(full, tmp_path / "out").active_adapter == "default"


@EVERY
def test_augmentation_reaches_training_and_no_evaluation(tmp_path, method):
    rows = ROWS[method](4)
    loud = {"gain": {"db": [20, 20]}, "noise": {"snr_db": [0, 0]}}
    plain, harder = (
        MAKE[method](tmp_path / str(i), rows, max_steps=1, trainer_eval_dataset=rows, augmentation=augmentation)
        for i, augmentation in enumerate((None, loud))
    )
    first = [made.evaluate()["eval_loss"] for made in (plain, harder)]
    assert first[0] == first[1]
    for made in (plain, harder):
        made.train()
    assert largest_difference(weights(plain.model), weights(harder.model)) > 0


@EVERY
def test_silence_is_a_fault_unless_it_is_allowed(tmp_path, method):
    rows = ROWS[method](3)
    column = MAKE[method](tmp_path, rows).text_columns[0]
    rows[1][column] = ""
    with pytest.raises(BadRowsError, match=rf"row 1: {column} is empty\. .*allow_silence if nothing is said"):
        MAKE[method](tmp_path, rows)
    made = MAKE[method](tmp_path, rows, allow_silence=True, max_steps=2)
    made.train()
    assert len(made.train_dataset) == 3 and made.state.global_step == 2


@EVERY
def test_timestamps_prompts_and_languages_of_rows_get_their_places(tmp_path, method):
    rows = ROWS[method](2)
    column = MAKE[method](tmp_path, rows).text_columns[0]
    rows = [{**row, "language": language, "prompt": prompt} for row, language, prompt in _asked(rows)]
    rows[0][column] = "<|0.00|> the lazy dog<|0.62|>"
    made = MAKE[method](tmp_path, rows, kind="multilingual", max_steps=1)
    ids = made.processing_class.tokenizer.get_vocab()
    batch = made.data_collator([made.train_dataset[i] for i in range(2)])
    first, second = (set(batch.tokens[i, 0].tolist()) for i in range(2))
    assert {ids["<|en|>"], ids["<|0.00|>"]} <= first and {ids["<|de|>"], ids["<|notimestamps|>"]} <= second
    assert ids["<|startofprev|>"] in first & second
    assert not batch.keep[:, :, :3].any()
    made.train()
    assert made.state.global_step == 1


def _asked(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str, str]]:
    return list(zip(rows, ("en", "german"), ("dogs", "foxes"), strict=True))


@EVERY
def test_a_run_leaves_logs_a_card_and_what_was_measured(tmp_path: Path, method):
    rows = ROWS[method](4)
    made = MAKE[method](tmp_path, rows, max_steps=1, eval_wer=True, trainer_eval_dataset=rows)
    made.train()
    found = made.evaluate()
    assert {"eval_loss", "eval_wer", "eval_cer"} <= found.keys()
    before = made.decode(rows)
    made.record_evaluation(before, before, rows=rows)
    made.save_model()
    card = (tmp_path / "README.md").read_text()
    assert type(made).__name__ in card and "## " in card
    assert {"metrics.jsonl", "metrics.csv", "evaluation.json", "model.safetensors"} <= {
        path.name for path in tmp_path.iterdir()
    }
