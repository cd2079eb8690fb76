"""What does one whole GRPO step cost: rollout, rewards, policy pass with backward, AdamW update?

Two ways, with the same weights, clips, rewards, loss, log-probability head, optimizer and threads:

    groups   `sample_groups` and `score_groups`: the audio once for each clip, in the rollout and in the policy pass
    audio    Whisper's own generate and stock forward over B * K rows of audio

All hypotheses have T tokens (the end token is never drawn). There is one update for each rollout, so neither way scores
with an older policy, and no reference. The reward is minus the character error rate; advantages are z-scores of a
group.

    python benchmarks/grpo_step.py [--shape tiny|small|large-v3] [--device cpu|cuda] [--threads 2] [--frozen-encoder]

Before timing, log-probabilities and gradients of both ways are compared on hypotheses that both are given, and the run
stops where they differ. Each way lives in its own process, and one works at a time, way after way, round after round: a
warm-up, then `--repeats` timed steps. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from counting import SHAPES
from grpo_ways import GrpoTask, predicted_flops
from measuring import environment, hardware_line, report
from rollout_ways import PREFIX_TOKENS, Setting
from scoring_ways import agreement
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

NAMES = {"groups": "groups", "audio": "audio repeated"}
# shape, device, precision and what is trained, of which the target speaks
PROMISED = ("tiny", "cpu", "float32", False)
TARGETS = (Target(8, "groups", "audio", 4.0),)


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    records, frozen = [], options.frozen_encoder
    total = len(NAMES) * (options.repeats + 2) * len(options.hypotheses)
    with tqdm(total=total, file=sys.stderr, disable=not sys.stderr.isatty()) as progress:
        for hypotheses in options.hypotheses:
            clips, shape = clips_for(options, hypotheses), SHAPES[options.shape]
            setting = Setting(shape, clips, hypotheses, options.tokens, options.device, options.precision)
            with tempfile.TemporaryDirectory() as folder:
                files = {row: Path(folder) / f"{row}.safetensors" for row in NAMES}
                steps = in_turns(
                    list(NAMES),
                    GrpoTask,
                    lambda row, setting=setting, files=files: (row, setting, frozen, files[row]),
                    options,
                    progress,
                    ready=lambda files=files: check(files, options.precision),
                )
            for row in NAMES:
                flops = predicted_flops(row, setting, frozen)
                records.append(describe(row, clips, hypotheses, steps[row], flops, loss=steps[row][-1].value))
    return records


def check(files: dict[str, Path], precision: str) -> None:
    """Stops where the two ways do not compute the same; half precision is not compared."""
    if precision == "float32":
        agreement(files["groups"], files["audio"])


def main(argv: list[str] | None = None) -> None:
    parser = options_parser(__doc__ or "", [8], 8, "T, tokens of each hypothesis")
    parser.add_argument("--frozen-encoder", action="store_true", help="train the decoder alone, in both ways")
    options = checked_options(parser, argv, PREFIX_TOKENS)
    where = environment(options.device, options.threads)
    records = measured(options)
    promised = (options.shape, options.device, options.precision, options.frozen_encoder) == PROMISED
    judged = judge(records, TARGETS) if promised else []
    print(hardware_line(where))
    print(
        f"shape of whisper-{options.shape}, {options.tokens} tokens, {options.precision}, "
        f"{'decoder' if options.frozen_encoder else 'all weights'} trained; median of {options.repeats}; memory above "
        "the idle process\n"
    )
    print(results_table(records, NAMES, "groups") + "\n")
    if judged:
        print(targets_table(judged) + "\n")
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "halved_from")}
    report({"benchmark": "grpo_step", **where, **settings, "rows": records, "targets": judged}, options.out)


if __name__ == "__main__":
    main()
