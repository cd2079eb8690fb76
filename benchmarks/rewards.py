"""How long do rewards take? 512 hypotheses of 64 clips, each shipped reward and the composite, on one core.

    python benchmarks/rewards.py --out rewards.json

Asked: the composite `funasr` scores 512 hypotheses in under 50 ms. Transcripts are sentences of made-up words from a
seed, in Latin letters and in Chinese characters; of eight hypotheses for each one is right, most have errors, one
stuffs keywords in and one loops. The median of the repetitions counts; the first call in a process, which fills caches,
stands beside it. Process time is shown too, because other users of the machine do not lengthen it. The slow side is the
same accuracy by jiwer's own call.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import environment, hardware_line, report, table

from audiorl.evaluation import count_errors
from audiorl.rewards import REWARDS, RewardSet

TARGET_MS = 50.0
CLIPS, HYPOTHESES = 64, 8
LATIN = "abcdefghijklmnopqrstuvwxyz"
HAN = [chr(0x4E00 + code) for code in range(2000)]


class Batch(NamedTuple):
    """Columns and completions of one batch, 512 of each."""

    completions: list[str]
    columns: dict[str, list[Any]]


class Timed(NamedTuple):
    """One way of scoring one batch."""

    script: str
    reward: str
    first_ms: float
    median_ms: float
    median_cpu_ms: float  # process time
    all_ms: list[float]


def make_batch(script: str, seed: int) -> Batch:
    """64 transcripts of 20 words or 40 characters, with 8 hypotheses, three keywords and a language each."""
    rng = random.Random(seed)
    han = script == "chinese"
    words = HAN if han else ["".join(rng.choices(LATIN, k=rng.randint(2, 9))) for _ in range(1000)]
    length, joint = (40, "") if han else (20, " ")
    completions: list[str] = []
    columns: dict[str, list[Any]] = {"text": [], "keywords": [], "language": []}
    for _ in range(CLIPS):
        true = rng.choices(words, k=length)
        keywords = ["".join(true[place : place + 2]) if han else true[place] for place in (0, length // 2, length - 2)]
        for k in range(HYPOTHESES):
            said = [word if rng.random() > 0.05 * k else rng.choice(words) for word in true]
            extra = {6: keywords * 2, 7: true[:4] * 5}.get(k, [])
            completions.append(joint.join([*said, *extra]))
            columns["text"].append(joint.join(true) + ("。" if han else "."))
            columns["keywords"].append(keywords)
            columns["language"].append("zh" if han else "en")
    return Batch(completions, columns)


def time_calls(script: str, name: str, call: Callable[[], object], repeats: int) -> Timed:
    wall, cpu = [], []
    for _ in range(repeats + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        call()
        wall.append(1000 * (time.perf_counter() - start))
        cpu.append(1000 * (time.process_time() - cpu_start))
    return Timed(script, name, wall[0], statistics.median(wall[1:]), statistics.median(cpu[1:]), wall[1:])


def ways(batch: Batch) -> dict[str, Callable[[], object]]:
    """name -> what is timed: the composite first, by itself and in a set, then all others."""
    ids, where = [[0]] * len(batch.completions), ["row"] * len(batch.completions)
    texts = batch.columns["text"]
    columns = {
        **batch.columns,
        **{"label": texts, "all_labels": [[text] for text in texts], "answers": texts, "other_transcripts": texts},
        "group": [divmod(place, HYPOTHESES) for place in range(len(ids))],
        "completion_logps": [-1.0] * len(ids),
    }

    def call(name: str) -> Callable[[], object]:
        return lambda: REWARDS[name](
            prompts=[""] * len(ids), completions=batch.completions, completion_ids=ids, **columns
        )

    composite = RewardSet("funasr")
    names = ["funasr", *(name for name in REWARDS if name != "funasr")]
    return {
        **{name: call(name) for name in names},
        "funasr in a RewardSet": lambda: composite(batch.completions, ids, batch.columns, where),
        "accuracy alone by jiwer": lambda: count_errors(
            batch.columns["text"], batch.completions, unit="auto", normalise="basic"
        ),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=21, help="timed calls of each reward after the first (21)")
    parser.add_argument("--seed", type=int, default=0, help="of texts (0)")
    parser.add_argument("--out", type=Path, help="file for the JSON record")
    options = parser.parse_args(argv)
    if options.repeats < 1:
        parser.error(f"--repeats is at least 1; got {options.repeats}")
    torch.set_num_threads(1)
    timed = [
        time_calls(script, name, call, options.repeats)
        for script in ("latin", "chinese")
        for name, call in ways(make_batch(script, options.seed)).items()
    ]
    where = environment("cpu", 1)
    rows = [
        (way.script, way.reward, f"{way.first_ms:.1f}", f"{way.median_ms:.1f}", f"{way.median_cpu_ms:.1f}")
        for way in timed
    ]
    print(table(["script", "reward", "first call, ms", f"median of {options.repeats}, ms", "CPU, ms"], rows))
    print(hardware_line(where))
    slowest = max(way.median_ms for way in timed if way.reward.startswith("funasr"))
    scored = CLIPS * HYPOTHESES
    target = {"asked_ms": TARGET_MS, "reached_ms": slowest, "met": slowest < TARGET_MS}
    outcome = "met" if target["met"] else "missed"
    print(f"funasr: {slowest:.1f} ms for {scored} hypotheses, asked < {TARGET_MS:g}: {outcome}")
    report({**where, "hypotheses": scored, "target": target, "rows": [way._asdict() for way in timed]}, options.out)


if __name__ == "__main__":
    main()
