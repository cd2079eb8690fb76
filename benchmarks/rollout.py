"""How many hypotheses does a rollout sample in a second: B clips, K hypotheses of each, T tokens of each hypothesis?

Three ways draw from the same distribution, temperature 1 and nothing else, the same number of tokens:

    groups     `sample_groups`: the encoder once, cross-attention keys and values once for each clip; log-probabilities
               of the tokens come with it
    generate   `GenerationMixin.generate(num_return_sequences=K)`: the encoder once, its states repeated K times, keys
               and values projected K times; tokens only
    whisper    `WhisperForConditionalGeneration.generate(num_return_sequences=K)`: the audio encoded K times; tokens
               only

All have the same weights, clips, prefix and threads. The weights are turned so that the end token is never drawn, and a
run that draws it all the same stops. On a CUDA device the other engines are measured too: "groups, static", a cache of
full length, and "groups, captured", the same step as a CUDA graph.

    python benchmarks/rollout.py [--shape tiny|small|large-v3] [--device cpu|cuda] [--threads 2] [--repeats 5]

Each way lives in its own process, and one process works at a time, way after way, round after round: a warm-up, then
`--repeats` timed runs. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from counting import SHAPES
from measuring import environment, hardware_line, report
from rollout_ways import PREFIX_TOKENS, RolloutTask, Setting, predicted_flops
from speed_tables import (
    Target,
    checked_options,
    clips_for,
    describe,
    in_turns,
    judge,
    options_parser,
    results_table,
    targets_table,
)
from tqdm import tqdm

NAMES = {
    "groups": "groups",
    "groups, static": "groups, static cache",
    "groups, captured": "groups, CUDA graph",
    "generate": "generate, states repeated",
    "whisper": "Whisper's generate, audio repeated",
}
# shape, device and precision that the targets speak of
PROMISED = ("tiny", "cpu", "float32")
TARGETS = (Target(8, "groups", "generate", 1.5), Target(8, "groups", "whisper", 4.0))
# engines that are there for a GPU's sake
ON_CUDA = ("groups, static", "groups, captured")


def measured(options: argparse.Namespace, rows: list[str]) -> list[dict[str, Any]]:
    records = []
    total = len(rows) * (options.repeats + 2) * len(options.hypotheses)
    with tqdm(total=total, file=sys.stderr, disable=not sys.stderr.isatty()) as progress:
        for hypotheses in options.hypotheses:
            clips, shape = clips_for(options, hypotheses), SHAPES[options.shape]
            setting = Setting(shape, clips, hypotheses, options.tokens, options.device, options.precision)
            steps = in_turns(rows, RolloutTask, lambda row, setting=setting: (row, setting), options, progress)
            for row in rows:
                flops = predicted_flops(row, setting)
                tokens = steps[row][-1].value
                records.append(describe(row, clips, hypotheses, steps[row], flops, tokens=tokens))
    return records


def main(argv: list[str] | None = None) -> None:
    parser = options_parser(__doc__ or "", [4, 8, 16], 16, "T, tokens drawn for each hypothesis")
    options = checked_options(parser, argv, PREFIX_TOKENS)
    where = environment(options.device, options.threads)
    rows = [row for row in NAMES if options.device == "cuda" or row not in ON_CUDA]
    records = measured(options, rows)
    promised = (options.shape, options.device, options.precision) == PROMISED
    judged = judge(records, TARGETS) if promised else []
    print(hardware_line(where))
    print(
        f"shape of whisper-{options.shape}, {options.tokens} tokens, {options.precision}; median of {options.repeats}; "
        "memory above the idle process\n"
    )
    print(results_table(records, NAMES, "groups") + "\n")
    if judged:
        print(targets_table(judged) + "\n")
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "halved_from")}
    report({"benchmark": "rollout", **where, **settings, "rows": records, "targets": judged}, options.out)


if __name__ == "__main__":
    main()
