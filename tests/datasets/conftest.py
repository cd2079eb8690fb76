"""Data sets of small clips on disk; what `datasets` caches stays in the test's folder."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

RATE = 16000


@pytest.fixture(autouse=True)
def cache_in_the_tests_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    """Four WAV files of 0.1, 0.2, 0.3 and 0.4 s in a folder `audio`."""
    folder = tmp_path / "audio"
    folder.mkdir()
    paths = [folder / f"{i}.wav" for i in range(4)]
    for i, path in enumerate(paths):
        time = np.arange((i + 1) * RATE // 10) / RATE
        soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * time), RATE)
    return paths
