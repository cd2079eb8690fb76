"""Runs on the released Whispers' own files, weights random: no warning, nothing lost, nothing changed by accident."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoProcessor, GenerationConfig, WhisperForConditionalGeneration

from audiorl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer
from audiorl.evaluation import evaluate_model
from audiorl.trainers.loading import export_merged
from tests.tiny_models import SAMPLING_RATE, tiny_clips
from tests.whisper_layouts import LAYOUTS, saved_layout

pytestmark = pytest.mark.real_speech

# bitsandbytes, whenever PEFT is imported
SAID_BY_OTHERS = ("Failed to load CPU gemm_4bit_forward",)
WARNS = re.compile(r"warn|deprecat|\[transformers\]|will be|is set to|have been set", re.IGNORECASE)


def rows(count: int = 2) -> list[dict]:
    texts = ["the colour of the fox", "the lazy dog"]
    return [
        {
            "audio": {"array": clip, "sampling_rate": SAMPLING_RATE},
            "text": text,
            "chosen": text,
            "rejected": f"{text} no",
        }
        for clip, text in zip(tiny_clips(count, 2.0), texts, strict=True)
    ]


def settings(output_dir: Path) -> dict:
    return {
        "output_dir": str(output_dir),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }


def loaded(folder: str, **more) -> tuple[WhisperForConditionalGeneration, object]:
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype="float32")
    model.generation_config.max_length = 8
    return model, AutoProcessor.from_pretrained(folder, **more)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LAYOUTS, "regrown"])
def test_a_users_run_says_no_warning(name, test_data, tmp_path):
    """In a process of its own: transformers says many things only once in a process."""
    if name == "regrown":
        checkpoint = str(test_data / "models" / "whisper-tiny-regrown")
    else:
        checkpoint = saved_layout(test_data, name, tmp_path / "checkpoint")
    language = ["en"] if name in ("tiny", "large-v3") else []
    script = Path(__file__).with_name("run_released.py")
    quiet = ("TRANSFORMERS_VERBOSITY", "PYTHONWARNINGS")
    environment = {key: value for key, value in os.environ.items() if key not in quiet}
    done = subprocess.run(
        [sys.executable, str(script), checkpoint, str(tmp_path / "out"), *language],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.stdout.endswith("done\n"), done.stderr[-3000:]
    # the folder is named after this test
    said = re.split(r"[\r\n]+", (done.stdout + done.stderr).replace(str(tmp_path), ""))
    alarming = [line for line in said if WARNS.search(line) and not line.startswith(SAID_BY_OTHERS)]
    assert not alarming, "\n".join(alarming)


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_what_is_meant_to_change_is_written(name, test_data, tmp_path):
    checkpoint = saved_layout(test_data, name, tmp_path / "checkpoint")
    model, processor = loaded(checkpoint, language=None if name == "tiny.en" else "en")
    dpo = DPOTrainer(
        model,
        args=DPOConfig(**settings(tmp_path / "out"), gradient_checkpointing=True),
        train_dataset=rows(),
        processing_class=processor,
    )
    dpo.train()
    dpo.save_model()
    # what the checkpoint says, as this release of transformers writes it down
    for kind, changed in ((AutoConfig, {"dtype"}), (GenerationConfig, {"max_length"})):
        before, after = (kind.from_pretrained(folder).to_dict() for folder in (checkpoint, tmp_path / "out"))
        different = {key for key in before | after if before.get(key) != after.get(key)}
        assert different <= {"transformers_version", "_name_or_path", *changed}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["use_cache"] is True


def test_spellings_are_saved_and_used(test_data, tmp_path):
    """normalizer.json lies beside the tuned checkpoint as beside the base, and both are measured by it."""
    checkpoint = saved_layout(test_data, "tiny.en", tmp_path / "checkpoint")
    model, processor = loaded(checkpoint)
    dpo = DPOTrainer(
        model,
        args=DPOConfig(**settings(tmp_path / "out"), wer_normaliser="english"),
        train_dataset=rows(),
        processing_class=processor,
    )
    assert dpo.normalizer.name == "english+spelling" and dpo.normalizer("colour") == "color"
    before = dpo.decode(rows())
    dpo.train()
    dpo.save_model()
    dpo.record_evaluation(before, dpo.decode(rows()))
    assert "english+spelling" in (tmp_path / "out" / "README.md").read_text()
    table = json.loads((Path(checkpoint) / "normalizer.json").read_text())
    assert json.loads((tmp_path / "out" / "normalizer.json").read_text()) == table
    again, its = loaded(str(tmp_path / "out"))
    assert its.tokenizer.normalize("The colour") == "the color"
    assert evaluate_model(again, its, rows(), normalise="english", progress=False).normaliser == "english+spelling"


def test_a_merged_adapter_keeps_the_spellings(test_data, tmp_path):
    from peft import LoraConfig

    checkpoint = saved_layout(test_data, "tiny.en", tmp_path / "checkpoint")
    model, processor = loaded(checkpoint)
    dpo = DPOTrainer(
        model,
        args=DPOConfig(**settings(tmp_path / "out")),
        train_dataset=rows(),
        processing_class=processor,
        peft_config=LoraConfig(target_modules="decoder-linear"),
    )
    dpo.save_model()
    export_merged(tmp_path / "out", tmp_path / "merged", processor)
    for folder in ("out", "merged"):
        assert AutoProcessor.from_pretrained(tmp_path / folder).tokenizer.normalize("colour") == "color"


@pytest.mark.parametrize("lacks", ["file", "ids"])
def test_reward_training_evaluates_with_an_old_generation_config(lacks, test_data, tmp_path):
    """It used to end in the first evaluation, after the steps were paid for."""
    checkpoint = Path(saved_layout(test_data, "tiny", tmp_path / "checkpoint"))
    file = checkpoint / "generation_config.json"
    known = json.loads(file.read_text())
    file.unlink()
    if lacks == "ids":
        ids = ("lang_to_id", "task_to_id", "is_multilingual", "no_timestamps_token_id", "prev_sot_token_id")
        file.write_text(json.dumps({key: value for key, value in known.items() if key not in ids}))
    model, processor = loaded(str(checkpoint))
    named = [{**row, "language": "german"} for row in rows()]
    grpo = GRPOTrainer(
        model,
        reward_funcs="one_minus_wer",
        args=GRPOConfig(
            **settings(tmp_path / "out"),
            num_generations=2,
            max_completion_length=16,
            eval_wer=True,
            eval_strategy="steps",
            eval_steps=1,
        ),
        train_dataset=named,
        eval_dataset=named,
        processing_class=processor,
    )
    grpo.train()
    assert any("eval_wer" in entry for entry in grpo.state.log_history)


def test_what_decoded_is_recorded_with_its_timestamps(test_data, tmp_path):
    model, processor = loaded(saved_layout(test_data, "tiny.en", tmp_path / "checkpoint"))
    plain = evaluate_model(model, processor, rows(), progress=False)
    assert plain.decoding["return_timestamps"] is False
    timed = copy.deepcopy(model)
    timed.generation_config.return_timestamps = True
    assert evaluate_model(timed, processor, rows(), progress=False).decoding["return_timestamps"] is True
