"""The code of the README and of the page of examples, run as it stands on a tiny model in place of the one named."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import transformers

from tests.tiny_models import tiny_clips, tiny_whisper
from tests.trainers.pair_rows import CHOSEN, config, pair_rows

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def block_with(words: str) -> str:
    (found,) = (block for block in BLOCKS if words in block)
    return found


@pytest.fixture
def folder_with_base_and_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in tiny_whisper("multilingual"):
        part.save_pretrained("base")
    for i, clip in enumerate(tiny_clips(4)):
        soundfile.write(f"{i}.wav", clip, 16_000)
    rows = [{"audio": f"{i}.wav", "text": CHOSEN[i]} for i in range(4)]
    Path("train.jsonl").write_text("\n".join(map(json.dumps, rows)))


def run(words: str) -> dict:
    names: dict = {}
    exec(block_with(words).replace("openai/whisper-small", "base"), names)
    return names


@pytest.mark.usefixtures("folder_with_base_and_rows")
def test_the_first_example_tunes_a_model():
    names = run("mine_pairs(")
    assert names["trainer"].state.global_step == 3  # epochs of one batch
    assert len(names["pairs"].rows) == 4


@pytest.mark.usefixtures("folder_with_base_and_rows")
def test_the_example_of_grpo_tunes_a_model():
    state = run("GRPOConfig(")["trainer"].state
    assert state.global_step == 3
    assert "rewards/hallucination/mean" in state.log_history[-1]


def test_the_subclass_trains(tmp_path):
    names = run("class LengthNormalisedMargin")
    model, processor = tiny_whisper()
    trainer = names["LengthNormalisedMargin"](
        model, args=config(tmp_path, max_steps=2), train_dataset=pair_rows(4), processing_class=processor
    )
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    result = trainer.train()
    assert 0.1 < result.training_loss < 10  # a ratio of probabilities per token
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in model.parameters()]))


# transformers 5.23 renamed the flag; the page uses the name that older ones know as well
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_the_command_line_that_writes_another_projects_defaults_out_runs(tmp_path, monkeypatch, capsys):
    """As it stands but for the names of model and files, a GPU's optimizer, and a run of four steps instead of 1000."""
    monkeypatch.chdir(tmp_path)
    for part in tiny_whisper("multilingual"):
        part.save_pretrained("base")
    for i, clip in enumerate(tiny_clips(4)):
        soundfile.write(f"{i}.wav", clip, 16_000)
    rows = [
        {
            "audio": {"path": f"{i}.wav"},
            "duration": 0.9,
            "chosen": "你好世界",
            "rejected": "你好",
            "language": "Chinese",
        }
        for i in range(4)
    ]
    rows[0] = {**rows[0], "chosen": "<|0.00|>你好<|0.84|>", "rejected": "<|0.00|>你<|0.84|>"}
    Path("train.json").write_text(json.dumps(rows))
    Path("test.json").write_text(json.dumps([{**row, "text": row["chosen"]} for row in rows]))
    (block,) = re.findall(r"```bash\n(torchrun .*?orpo_whisper.*?)```", (ROOT / "examples/README.md").read_text(), re.S)
    script, flags = block.replace("\\\n", " ").split(".py ", 1)
    short = "--model_name_or_path base --optim adamw_torch --use_cpu true --num_train_epochs 4 --report_to none "
    short += "--adalora_tinit 1 --adalora_tfinal 1 --per_device_train_batch_size 4 --disable_tqdm true"
    example = str(ROOT / f"{script.split()[-1]}.py")
    monkeypatch.setattr(sys, "argv", [example, *flags.split(), *short.split()])
    verbosity = transformers.utils.logging.get_verbosity()
    try:
        runpy.run_path(example, run_name="__main__")
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    assert "WER after" in capsys.readouterr().out
    assert json.loads(Path("output/whisper-tiny/adapter_config.json").read_text())["peft_type"] == "ADALORA"
