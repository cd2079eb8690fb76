"""What tests of scripts and commands share: a saved tiny model, a file of rows, the flags of a short run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from tests.tiny_models import saved, tiny_clips, tiny_whisper


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return Path(saved(tiny_whisper(), tmp_path_factory.mktemp("base")))


@pytest.fixture
def data(tmp_path) -> Path:
    """Four good rows."""
    lines = []
    for i, clip in enumerate(tiny_clips(4)):
        soundfile.write(tmp_path / f"{i}.wav", clip, 16_000)
        lines.append({"audio": f"{i}.wav", "text": "the lazy dog", "chosen": "the lazy dog", "rejected": f"dog {i}"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def arguments(base: Path, data: Path, out: Path) -> list[str]:
    return [
        *("--model_name_or_path", str(base), "--dataset_name", str(data), "--output_dir", str(out)),
        *("--max_steps", "2", "--per_device_train_batch_size", "2", "--report_to", "none", "--use_cpu", "true"),
        *("--save_strategy", "no"),
    ]
