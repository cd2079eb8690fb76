"""The README's Python, run as it stands on a tiny model in place of the one it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import soundfile
import torch

from tests.tiny_models import tiny_clips, tiny_whisper
from tests.trainers.pair_rows import CHOSEN, config, pair_rows

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


def block_with(words: str) -> str:
    (found,) = (block for block in BLOCKS if words in block)
    return found


def test_the_first_example_tunes_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in tiny_whisper("multilingual"):
        part.save_pretrained("base")
    for i, clip in enumerate(tiny_clips(4)):
        soundfile.write(f"{i}.wav", clip, 16_000)
    rows = [{"audio": f"{i}.wav", "text": CHOSEN[i]} for i in range(4)]
    Path("train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names: dict = {}
    exec(block_with("mine_pairs(").replace("openai/whisper-small", "base"), names)
    assert names["trainer"].state.global_step == 3  # epochs of one batch
    assert len(names["pairs"].rows) == 4


def test_the_subclass_trains(tmp_path):
    names: dict = {}
    exec(block_with("class LengthNormalisedMargin"), names)
    model, processor = tiny_whisper()
    trainer = names["LengthNormalisedMargin"](
        model, args=config(tmp_path, max_steps=2), train_dataset=pair_rows(4), processing_class=processor
    )
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    result = trainer.train()
    assert 0.1 < result.training_loss < 10  # a ratio of probabilities per token
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in model.parameters()]))
