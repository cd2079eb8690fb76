"""A card that a trainer wrote: read, judged as the Hub judges it, its snippet run."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import soundfile
from huggingface_hub import ModelCard

from tests.hub_server import card_faults, metadata
from tests.tiny_models import tiny_clips

# librosa looks through audioread's readers, one of which imports modules that Python 3.13 no longer has
WITHOUT_AUDIOREAD = pytest.mark.filterwarnings("ignore:'(aifc|audioop|sunau)' is deprecated:DeprecationWarning")


def card_of(folder: Path) -> tuple[dict, str]:
    """Metadata and text."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert card_faults(text) == []
    ModelCard.load(folder / "README.md")  # raises where huggingface_hub cannot read it
    return metadata(text), text.partition("\n---\n")[2]


def run_snippet(text: str, folder: Path, capsys: Any) -> str:
    """What the card's snippet prints of a clip beside it."""
    soundfile.write(folder / "clip.wav", tiny_clips(1)[0], 16_000, subtype="FLOAT")
    capsys.readouterr()
    with contextlib.chdir(folder):
        exec(code_of(text), {})
    return capsys.readouterr().out.strip()


def code_of(text: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return block
