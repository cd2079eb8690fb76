"""From tuned to served: a checkpoint's model, copied out of a run, answers over HTTP what it answers here.

vLLM wants an environment of its own; AUDIORL_VLLM names its program, /path/to/bin/vllm.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor

from audiorl.commands.checkpoints import main as checkpoints
from audiorl.commands.evaluate import main as evaluate
from tests.tiny_models import SAMPLING_RATE, saved, tiny_clips
from tests.trainers.pair_rows import trainer

SERVER_PACKAGES = ("fastapi", "uvicorn", "openai", "multipart")
TEXTS = ("the quick brown fox", "all year", "water")


@contextmanager
def served(*command: str, **environment: str) -> Iterator[str]:
    """A server that a command starts; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would hold the server up
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,  # vLLM's engine is a process of its own
    )
    try:
        for _ in range(480):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.seek(0) or log.read()[-3000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(name) is None for name in SERVER_PACKAGES),
    reason="transformers serve needs `pip install 'transformers[serving]' python-multipart`",
)
def test_a_model_picked_from_a_run_says_over_http_what_it_says_here(tmp_path):
    run = tmp_path / "run"
    trainer(run, max_steps=2, save_strategy="steps", save_steps=1, learning_rate=1e-2).train()
    checkpoints([str(run), "--pick", "last", "--copy_to", str(tmp_path / "served")])
    write_rows(tmp_path)
    program = str(Path(sys.executable).with_name("transformers"))
    with served(program, "serve", str(tmp_path / "served"), "--device", "cpu") as address:
        here, there = said_here_and_there(tmp_path, address)
    assert here == there and all(here)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("AUDIORL_VLLM") or not os.environ.get("AUDIORL_TEST_DATA"),
    reason="AUDIORL_VLLM names no vLLM, or AUDIORL_TEST_DATA no released layout of Whisper, which vLLM asks for",
)
def test_vllm_writes_the_tokens_that_we_write(tmp_path):
    layout = Path(os.environ["AUDIORL_TEST_DATA"]) / "models" / "whisper-layouts" / "tiny"
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(layout))
    for weight in model.parameters():
        weight.data.add_(0.3 * weight.std() * torch.randn_like(weight) if weight.dim() > 1 else 0.0)
    model.generation_config = GenerationConfig.from_pretrained(layout)
    # vLLM reads neither list
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    model.generation_config.max_length = 40
    saved((model, WhisperProcessor.from_pretrained(layout)), tmp_path / "served")
    write_rows(tmp_path, language="en")
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    program = os.environ["AUDIORL_VLLM"]
    with served(program, "serve", str(tmp_path / "served"), "--dtype", "float32", "--enforce-eager", **settings) as url:
        here, there = said_here_and_there(tmp_path, url, "--max_new_tokens", "30")
    # random weights never end, and the server has a limit of its own
    assert all(ours and theirs.strip().startswith(ours.strip()) for ours, theirs in zip(here, there, strict=True))


def write_rows(folder: Path, **columns: str) -> None:
    rows = []
    for i, (clip, text) in enumerate(zip(tiny_clips(3), TEXTS, strict=True)):
        soundfile.write(folder / f"{i}.wav", clip, SAMPLING_RATE)
        rows.append(json.dumps({"audio": f"{i}.wav", "text": text, **columns}))
    (folder / "rows.jsonl").write_text("\n".join(rows))


def said_here_and_there(folder: Path, address: str, *flags: str) -> list[list[str]]:
    """Hypotheses of the folder's model `served`, decoded here and by the server."""
    model = str(folder / "served")
    both = ["--model_name_or_path", model, "--endpoint", address, "--endpoint_model", model]
    evaluate([*both, "--dataset_name", str(folder / "rows.jsonl"), "--output", str(folder / "result.json"), *flags])
    result = json.loads((folder / "result.json").read_text())
    return [[clip["hypothesis"] for clip in one["clips"]] for one in result["measurements"]]
