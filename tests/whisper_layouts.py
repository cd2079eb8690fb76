"""The released Whispers with random weights: tokenizers and configs as on the Hub, from AUDIORL_TEST_DATA."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoProcessor, WhisperConfig, WhisperForConditionalGeneration

LAYOUTS = ("tiny.en", "tiny", "large-v3")


def layout_folder(root: Path, name: str) -> Path:
    return root / "models" / "whisper-layouts" / name


def layout(root: Path, name: str) -> tuple[WhisperForConditionalGeneration, Any]:
    """A random model in evaluation mode with the released generation config, and the released processor."""
    folder = layout_folder(root, name)
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(folder)).eval()
    model.generation_config = type(model.generation_config).from_pretrained(folder)
    model.config._name_or_path = str(folder)
    return model, AutoProcessor.from_pretrained(folder)


def saved_layout(root: Path, name: str, folder: Path) -> str:
    """A checkpoint as it is on the Hub: the released files as they are, and random weights; the folder's name."""
    shutil.copytree(layout_folder(root, name), folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    model, _ = layout(root, name)
    weights = model.state_dict()
    weights.pop("proj_out.weight")  # which is the embedding's
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return str(folder)
