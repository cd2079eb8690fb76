"""The README's Python, run as it stands on a tiny model in place of the one it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import soundfile
import torch

from tests.tiny_models import tiny_clips, tiny_whisper
from tests.trainers.pair_rows import CHOSEN, config, pair_rows

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


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
