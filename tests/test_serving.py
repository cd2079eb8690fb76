"""From tuned to served: a checkpoint's model, copied out of a run, answers over HTTP what it answers here."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile

from audiorl.commands.checkpoints import main as checkpoints
from audiorl.commands.evaluate import main as evaluate
from tests.tiny_models import SAMPLING_RATE, tiny_clips
from tests.trainers.pair_rows import trainer

SERVER_PACKAGES = ("fastapi", "uvicorn", "openai", "multipart")
TEXTS = ("the quick brown fox", "all year", "water")


@contextmanager
def served(model: Path) -> Iterator[str]:
    """`transformers serve MODEL`; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [str(program), "serve", str(model), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(name) is None for name in SERVER_PACKAGES) or shutil.which(sys.executable) is None,
    reason="transformers serve needs `pip install 'transformers[serving]' python-multipart`",
)
def test_a_model_picked_from_a_run_says_over_http_what_it_says_here(tmp_path):
    run = tmp_path / "run"
    trainer(run, max_steps=2, save_strategy="steps", save_steps=1, learning_rate=1e-2).train()
    checkpoints([str(run), "--pick", "last", "--copy_to", str(tmp_path / "served")])
    rows = []
    for i, (clip, text) in enumerate(zip(tiny_clips(3), TEXTS, strict=True)):
        soundfile.write(tmp_path / f"{i}.wav", clip, SAMPLING_RATE)
        rows.append(json.dumps({"audio": f"{i}.wav", "text": text}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    with served(tmp_path / "served") as address:
        endpoint = ["--endpoint", address, "--endpoint_model", str(tmp_path / "served")]
        both = ["--model_name_or_path", str(tmp_path / "served"), *endpoint]
        evaluate([*both, "--dataset_name", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    here, there = ([clip["hypothesis"] for clip in one["clips"]] for one in result["measurements"])
    assert here == there and all(here)
