"""Shared by all tests: one thread, no network, tiny models, and real speech where a machine has it."""

from __future__ import annotations

import gc
import os
import sys
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import hypothesis
import pytest
import torch

from tests.versions import differing

pytest.register_assert_rewrite(
    "audiorl.testing.case",
    "audiorl.testing.scoring_checks",
    "audiorl.testing.sampling_checks",
    "audiorl.testing.sampling_checks",
    "audiorl.testing.wrapping_checks",
    "audiorl.testing.wrapping_checks",
)
# sums over several threads add up in another order each time
torch.set_num_threads(1)
# a slow machine is no fault of the code: hypothesis times no example
hypothesis.settings.register_profile("audiorl", deadline=None)
hypothesis.settings.load_profile("audiorl")


# Files that take longest. Several processes of pytest take file by file: begun last, one of these would keep a process
# busy while the others have nothing left.
LONG_FILES = (
    *("test_grpo.py", "test_conformance.py", "test_families.py", "test_docs.py", "test_enlarged_vocabulary.py"),
    *("test_labels.py", "test_logs.py", "test_ctc_training.py", "test_raft.py", "test_dpo.py", "test_quantised.py"),
    *("test_grpo_processes.py", "test_script.py", "test_benchmarks.py", "test_parallel.py", "test_processes.py"),
)


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors under the versions of constraints.txt alone: see `tests/versions.py`."""
    if differing():
        config.addinivalue_line("filterwarnings", "default")


def pytest_report_header() -> str:
    found = differing()
    if not found:
        return "versions: those of constraints.txt; warnings are errors"
    return f"versions: not those of constraints.txt, so warnings are no errors: {', '.join(found)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG_FILES.index(item.path.name) if item.path.name in LONG_FILES else len(LONG_FILES))


@pytest.fixture
def tiny_english():
    """(model, processor): English-only, 80 mel bins, a window of one second."""
    from tests.tiny_models import tiny_whisper

    return tiny_whisper("english")


@pytest.fixture
def tiny_multilingual():
    """(model, processor): en, de, hi, zh, prompts, translation and timestamps, a window of two seconds."""
    from tests.tiny_models import tiny_whisper

    return tiny_whisper("multilingual")


@pytest.fixture
def tiny_large_v3():
    """(model, processor): multilingual, 128 mel bins, encoder and decoder of unequal depth and heads."""
    from tests.tiny_models import tiny_whisper

    return tiny_whisper("large_v3")


@pytest.fixture
def test_data() -> Path:
    """The folder of real speech and a real model; a test that wants it is marked `real_speech`."""
    if "AUDIORL_TEST_DATA" not in os.environ:
        pytest.skip("AUDIORL_TEST_DATA is not set")
    return Path(os.environ["AUDIORL_TEST_DATA"])


@pytest.fixture(scope="module", autouse=True)
def what_is_loaded_is_no_garbage():
    """`accelerate` asks for a collection at each `train`; it passes over the objects of the libraries then.

    Hypothesis looks for generators of random numbers when it is imported, and finds none that is frozen.
    """
    with warnings.catch_warnings():  # a file that an earlier test left open is no fault of the next one
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def corpora_as_they_were():
    """Commands register the demo's speech; what a test registers is its own."""
    corpus = sys.modules.get("audiorl.datasets.corpus")
    before = None if corpus is None else dict(corpus._KNOWN)
    yield
    corpus = sys.modules.get("audiorl.datasets.corpus")
    if corpus is not None:
        corpus._KNOWN.pop("demo", None)
    if before is not None:
        corpus._KNOWN.clear()
        corpus._KNOWN.update(before)


@pytest.fixture(autouse=True)
def same_random_numbers_each_time():
    torch.manual_seed(0)
