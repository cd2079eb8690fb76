"""The example with adapter flags, run in this process."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import soundfile
import transformers
from peft import PeftModel
from transformers import WhisperForConditionalGeneration

from audiorl.trainers.adapters import adapter_ranks
from tests.tiny_models import saved, tiny_clips, tiny_whisper

EXAMPLE = str(Path(__file__).parents[1] / "examples" / "dpo_whisper.py")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Runs the example on a tiny checkpoint and four rows with these flags; the folder it writes to."""
    monkeypatch.chdir(tmp_path)
    saved(tiny_whisper(), "base")
    lines = []
    for i, clip in enumerate(tiny_clips(4)):
        soundfile.write(f"{i}.wav", clip, 16_000)
        lines.append({"audio": f"{i}.wav", "chosen": "the lazy dog", "rejected": f"dog {i}"})
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    verbosity = transformers.utils.logging.get_verbosity()

    def run(*flags: str) -> Path:
        arguments = [
            *("--model_name_or_path", "base", "--dataset_name", "pairs.jsonl", "--output_dir", "out"),
            *("--num_train_epochs", "2", "--per_device_train_batch_size", "1", "--report_to", "none"),
            *("--use_cpu", "true", "--save_strategy", "no", "--disable_tqdm", "true", "--learning_rate", "1e-2"),
        ]
        monkeypatch.setattr(sys, "argv", [EXAMPLE, *arguments, *flags])
        runpy.run_path(EXAMPLE, run_name="__main__")
        return tmp_path / "out"

    yield run
    transformers.utils.logging.set_verbosity(verbosity)


def test_an_adapter_on_an_eight_bit_base_is_written_alone_and_merged_beside_it(example, capsys):
    out = example("--use_peft", "--lora_r", "4", "--lora_decoder_only", "--load_in_8bit", "--merge_adapter")
    said = capsys.readouterr().out
    assert "linear layers in 8 bit" in said and "out-merged" in said
    assert (out / "adapter_model.safetensors").exists() and not (out / "model.safetensors").exists()
    written = json.loads((out / "adapter_config.json").read_text())
    assert "decoder" in written["target_modules"] and "encoder_attn" not in written["target_modules"]
    merged = WhisperForConditionalGeneration.from_pretrained(out.parent / "out-merged")
    base = WhisperForConditionalGeneration.from_pretrained(out.parent / "base")
    changed = {name for name, p in merged.named_parameters() if (p - base.get_parameter(name)).abs().max() > 1e-6}
    assert changed and all(name.startswith("model.decoder.layers.") for name in changed)
    assert (out.parent / "out-merged" / "tokenizer.json").exists()


# PEFT takes AdaLoRA's rank_pattern for LoRA's when it loads one
@pytest.mark.filterwarnings("ignore:(?s).*rank_pattern keys did not match:RuntimeWarning")
def test_adalora_by_flags_reaches_its_target(example):
    flags = ("--use_peft", "--peft_type", "adalora", "--lora_r", "2", "--adalora_delta_t", "1")
    out = example(*flags, "--lora_target_modules", "q_proj", "fc1")
    loaded = PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(out.parent / "base"), out)
    ranks = adapter_ranks(loaded)
    assert len(ranks) == 10 and sum(ranks.values()) == 20
    assert loaded.peft_config["default"].init_r == 3


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--use_peft", "--peft_type", "adalor"), 2, "Did you mean adalora"),
        (("--use_peft", "--lora_target_modules", "q_prj", "fc1"), 1, "Did you mean q_proj"),
        (("--load_in_8bit",), 1, "cannot be trained"),
        (("--optim", "paged_adamw_8bit"), 2, "no GPU here"),
        (("--fp16", "true"), 2, "fp16 (--fp16) needs a GPU"),
        (("--dtype", "bfloat16", "--model_init_kwargs", '{"dtype": "float16"}'), 1, "flags of their own"),
    ],
)
def test_what_cannot_work_is_said_before_rows_are_read(example, capsys, flags, code, words):
    Path("pairs.jsonl").write_text("no JSON")
    with pytest.raises(SystemExit) as stopped:
        example(*flags)
    assert stopped.value.code == code
    assert words in capsys.readouterr().err
    assert not Path("out").exists()
