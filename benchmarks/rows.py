"""How long does a start take, and how much memory, with a million rows?

    python benchmarks/rows.py --rows 1000 10000 100000 1000000 --out rows.json

Rows are links to 200 clips of FLAC, with a text of twelve words. The judge is that of a family of Whisper's kind with a
random byte-level tokenizer. Each size has three processes of its own, one after the other:

    first     rows are read from their JSON lines and judged; nothing is known of them
    second    the same again: verdicts are read
    stream    the same file as a stream; how long until its first row is there

CPU seconds are those of all processes; other users of the machine do not lengthen them, so that rows per second of a
quiet machine are its cores times rows per CPU second. Memory is the peak of the main process above what it held before
the rows were read. Predicted: time grows with the rows, memory with the verdicts alone, nine bytes for a row; the
second start opens no file and needs a stat for each row. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from measuring import PeakMemory, environment, hardware_line, held_bytes, report, settle, table

CLIPS, RATE = 200, 16_000
WORDS = "the of and to in that it was he for on are as with his they at be this from have or by one had not but".split()
MIB = 2**20


class Limits:
    """What a family asks of a row: tokens of its text, at most 448, and 30 seconds."""

    def __init__(self) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
        learner = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        self.tokenizer.train_from_iterator(WORDS, learner)

    def tokenize(self, text: str, row: Mapping[str, Any]) -> Any:
        found = self.tokenizer.encode(text)
        if len(found.ids) > 448:
            raise ValueError(f"{len(found.ids)} tokens are more than the decoder's 448. Shorten it")
        return found

    def last_time(self, text: str) -> None:
        return None

    def least_seconds(self, text: str) -> float:
        return 0.0


def make_rows(folder: Path, count: int) -> Path:
    """A file of rows; all its clips are links to the same 200."""
    draw = random.Random(0)
    links = folder / "links"
    links.mkdir(exist_ok=True)
    path = folder / f"{count}.jsonl"
    with path.open("w") as file:
        for number in range(count):
            link = links / f"{number:07d}.flac"
            if not link.is_symlink():
                link.symlink_to(folder / f"{number % CLIPS}.flac")
            text = " ".join(draw.choices(WORDS, k=12))
            file.write(json.dumps({"audio": f"links/{link.name}", "text": text, "speaker": f"s{number % 97}"}) + "\n")
    return path


def start(path: str, way: str) -> dict[str, float]:
    """One start, in this process."""
    from datasets import load_dataset

    from audiorl.datasets import RowJudge, speech_rows
    from audiorl.datasets.verdicts import judge_rows

    limits = Limits()
    functions = {name: getattr(limits, name) for name in ("tokenize", "last_time", "least_seconds")}
    judge = RowJudge(text_columns=("text",), max_seconds=30.0, distinct=False, **functions)
    settle()
    before = held_bytes("cpu")
    with PeakMemory("cpu") as peak:
        begun = time.perf_counter()
        spent = cpu_seconds()
        if way == "stream":
            rows = speech_rows(load_dataset("json", data_files=path, split="train", streaming=True))
            next(iter(rows))
            return {"first_row_s": time.perf_counter() - begun}
        rows = speech_rows(path)
        read, cpu_read = time.perf_counter(), cpu_seconds()
        judged = judge_rows(rows, judge)
        done, cpu_done = time.perf_counter(), cpu_seconds()
    assert not judged.faults and len(judged.seconds) == len(rows)
    return {
        "read_s": read - begun,
        "read_cpu_s": cpu_read - spent,
        "judge_s": done - read,
        "judge_cpu_s": cpu_done - cpu_read,
        "peak_mib": (peak.bytes - before) / MIB,
    }


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def measure(counts: Sequence[int], folder: Path) -> list[dict[str, float]]:
    noise = np.random.default_rng(0)
    for number in range(CLIPS):
        soundfile.write(folder / f"{number}.flac", noise.normal(0, 0.1, round(RATE * noise.uniform(1, 3))), RATE)
    found = []
    for count in counts:
        path = make_rows(folder, count)
        time.sleep(2.5)  # verdicts of files that are newer than that are not kept
        one: dict[str, float] = {"rows": count}
        for way in ("first", "second", "stream"):
            variables = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "TQDM_DISABLE": "1"}
            variables.pop("AUDIORL_VERDICTS", None)
            line = [sys.executable, __file__, "--start", str(path), "--way", way]
            done = subprocess.run(line, env=variables, stdout=subprocess.PIPE, text=True, check=True)
            one |= {f"{way}_{name}": value for name, value in json.loads(done.stdout.splitlines()[-1]).items()}
        found.append(one)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Starts with a million rows.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, help="file for the JSON")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.start:
        print(json.dumps(start(options.start, options.way)))
        return
    folder = Path(tempfile.mkdtemp())
    try:
        found = measure(options.rows, folder)
    finally:
        shutil.rmtree(folder)
    where = environment("cpu", 1)
    print(hardware_line(where))
    lines = []
    for one in found:
        rows = one["rows"]
        for way in ("first", "second"):
            judge, cpu = one[f"{way}_judge_s"], one[f"{way}_judge_cpu_s"]
            times = [f"{one[f'{way}_read_cpu_s']:.2f}", f"{judge:.2f}", f"{rows / judge:,.0f}", f"{rows / cpu:,.0f}"]
            stream = f"{one['stream_first_row_s']:.2f}" if way == "first" else ""
            lines.append([f"{rows:,}", way, *times, f"{one[f'{way}_peak_mib']:,.0f}", stream])
    headings = [
        "rows",
        "start",
        "read, CPU s",
        "check, s",
        "rows/s",
        "rows/CPU s",
        "peak, MiB",
        "first row of a stream, s",
    ]
    print(table(headings, lines))
    report({"environment": where, "starts": found}, options.out)


if __name__ == "__main__":
    main()
