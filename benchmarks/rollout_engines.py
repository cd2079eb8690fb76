"""How many tokens does a rollout sample in a second: the library's own sampler against vLLM?

    python benchmarks/rollout_engines.py [--whisper models/whisper-tiny-regrown --rows rows.jsonl]
        [--shapes qwen3-asr qwen2-audio] [--clips 32] [--hypotheses 8] [--tokens 64] [--repeats 3] [--threads 1]

It runs in an environment with vLLM and audiorl. Both engines get the same encoder states, weights, clips and prompts,
and give the policy's log-probabilities with their samples: the library's own on the way, vLLM's by scoring them
afterwards. Weights are handed over before each rollout, as a step has moved them, which counts; encoding does not. One
after the other in each repeat; medians by wall and CPU seconds. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family_cases import build_audio_llm, build_qwen3_asr
from measuring import environment, hardware_line, report, table

from audiorl.batch import GroupBatch
from audiorl.collator import SpeechCollator
from audiorl.datasets import speech_rows
from audiorl.models import SpeechFamily, disable_dropout, speech_family
from audiorl.models.engines import Draw, NativeEngine
from audiorl.models.engines.vllm import VLLMEngine
from audiorl.trainers.loading import load_checkpoint, load_processor

RATE = 16_000
Case = tuple[str, Any, SpeechFamily, GroupBatch]
SHAPES = {
    "qwen2-audio": ("Qwen2-Audio", partial(build_audio_llm, 512, 8, 8192, 30)),
    "qwen3-asr": ("Qwen3-ASR", partial(build_qwen3_asr, 512, 8, 8192)),
}


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """What is measured: name, model, family and batch of clips."""
    if options.whisper:
        model = load_checkpoint(options.whisper, {"dtype": "float32"})
        family = speech_family(model, load_processor(None, model))
        family.set_defaults(language="english")
        rows = [row for row in speech_rows(options.rows) if row["duration"] <= 12][: options.clips]
        yield f"Whisper, {Path(options.whisper).name}, real speech", model, family, batch_of(family, rows)
    for shape in options.shapes:
        name, build = SHAPES[shape]
        model, processor = build()
        family = speech_family(model, processor)
        family.set_defaults(language="english")
        noise = np.random.default_rng(0)
        clips = [noise.normal(0, 0.1, 5 * RATE).astype(np.float32) for _ in range(options.clips)]
        rows = speech_rows([{"audio": {"array": clip, "sampling_rate": RATE}, "text": ""} for clip in clips])
        yield f"{name}, 8 layers of width 512, noise of 5 s", model, family, batch_of(family, list(rows))


def batch_of(family: SpeechFamily, rows: Any) -> GroupBatch:
    return SpeechCollator(family, ("text",), silence=True)(list(rows))


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and tokens of both engines."""
    name, model, family, batch = case
    family.install(model)
    disable_dropout(model)
    model.eval()
    with torch.no_grad():
        states = family.encode(model, batch)
    engines = {"native": NativeEngine(family), "vllm": VLLMEngine(family, model, max_model_length=1024)}
    taken: dict[str, list[tuple[float, float, int]]] = {engine: [] for engine in engines}
    for step in range(options.repeats + 1):  # the first one warms up
        with torch.no_grad():
            next(iter(model.parameters())).mul_(1.0 + 1e-7)
        for engine, sampler in engines.items():
            draw = Draw(options.hypotheses, options.tokens, 1.0, None, 0, step)
            before = time.perf_counter(), time.process_time()
            sampler.sync(model)
            (samples,) = sampler.sample(model, [batch], [states], draw)
            after = time.perf_counter(), time.process_time()
            if step:
                taken[engine].append((after[0] - before[0], after[1] - before[1], int(samples.keep.sum())))
    rates = {
        engine: {
            "tokens_per_second": statistics.median(tokens / wall for wall, _, tokens in runs),
            "tokens_per_cpu_second": statistics.median(tokens / cpu for _, cpu, tokens in runs),
            "runs": runs,
        }
        for engine, runs in taken.items()
    }
    return {"case": name, **rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whisper", help="folder of a Whisper checkpoint")
    parser.add_argument("--rows", help="rows with real speech for it")
    parser.add_argument("--shapes", nargs="*", default=[], choices=list(SHAPES))
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--hypotheses", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = [measure(case, options) for case in cases(options)]
    lines = [
        [
            one["case"],
            engine,
            f"{one[engine]['tokens_per_second']:.0f}",
            f"{one[engine]['tokens_per_cpu_second']:.0f}",
            f"{one[engine]['tokens_per_cpu_second'] / one['native']['tokens_per_cpu_second']:.2f}",
        ]
        for one in found
        for engine in ("native", "vllm")
    ]
    where = environment("cpu", options.threads)
    print(table(["model", "engine", "tokens/s", "tokens/CPU s", "of native, by CPU s"], lines))
    print(hardware_line(where))
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    report({"settings": settings, "found": found, **where}, options.out)


if __name__ == "__main__":
    main()
