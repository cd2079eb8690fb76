"""What does it cost to score K hypotheses of each clip, forward and backward, for each family of models?

Two ways, with the same weights, clips, texts and threads:

    groups      `score_groups`: each clip is encoded once
    separate    K stock forwards, one for each hypothesis, as a user without this library calls the model

Both end in the same loss, a weighted sum of the hypotheses' log-probabilities, whose gradient goes to all weights. The
run stops where the two disagree in the loss by 1e-4 or in the norm of the gradient by 1e-3, relative.

    python benchmarks/families.py [--family ctc ...] [--device cpu|cuda] [--threads 2] [--repeats 5]

Each way lives in its own process, and one process works at a time, way after way, round after round: a warm-up, then
`--repeats` timed runs. Shapes are those of `family_cases.py` and `encoder_decoder_cases.py`, which also says what was
expected. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from family_cases import DEFAULT, FAMILY_SHAPES
from family_shape import SAMPLING_RATE
from measuring import GIB, Step, environment, hardware_line, report, table
from speed_tables import clips_for, in_turns
from tqdm import tqdm

from audiorl.batch import GroupBatch
from audiorl.models import SpeechFamily, speech_family
from audiorl.testing.case import group_batch

WAYS = ("groups", "separate")
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3


class Outcome(NamedTuple):
    """What both ways have to agree in."""

    loss: float
    gradient_norm: float


class FamilyTask:
    """One family, scored in one way."""

    def __init__(self, way: str, family: str, clips: int, hypotheses: int, device: str):
        self.shape, self.way = FAMILY_SHAPES[family], way
        model, processor = self.shape.build()
        self.model = model.to(device)
        self.family = speech_family(self.model, processor)
        self.batch = random_batch(family, self.family, clips, hypotheses, device)
        self.weights = torch.linspace(-1, 1, clips * hypotheses, device=device).view(clips, hypotheses)

    def run(self) -> None:
        if self.way == "groups":
            scores = self.family.score_groups(self.model, self.batch)
            logps = scores.logps.sum(-1)
        else:
            columns = range(self.batch.num_hypotheses)
            logps = torch.stack([self.shape.separate(self.model, self.family, self.batch, k) for k in columns], 1)
        self.loss = (logps * self.weights).sum()
        self.loss.backward()

    def finish(self) -> Outcome:
        norms = torch.stack([p.grad.norm() for p in self.model.parameters() if p.grad is not None])
        outcome = Outcome(self.loss.item(), norms.norm().item())
        self.model.zero_grad(set_to_none=True)
        del self.loss
        return outcome


def random_batch(name: str, family: SpeechFamily, clips: int, hypotheses: int, device: str) -> GroupBatch:
    """Noise for clips and the shape's texts, made from a seed."""
    generator, shape = np.random.default_rng(0), FAMILY_SHAPES[name]
    samples = round(shape.seconds * SAMPLING_RATE)
    waves = [0.1 * generator.standard_normal(samples).astype(np.float32) for _ in range(clips)]
    texts = [[shape.text(generator) for _ in range(hypotheses)] for _ in range(clips)]
    batch = group_batch(family, waves, texts, [shape.row] * clips)
    return GroupBatch({key: tensor.to(device) for key, tensor in batch.items()})


def check(name: str, steps: dict[str, list[Step]]) -> None:
    """Stop where the two ways do not compute the same.

    Raises:
        RuntimeError: with both outcomes.
    """
    ours, theirs = (steps[way][0].value for way in WAYS)
    agree = math.isclose(ours.loss, theirs.loss, rel_tol=LOSS_TOLERANCE) and math.isclose(
        ours.gradient_norm, theirs.gradient_norm, rel_tol=GRADIENT_TOLERANCE
    )
    if not agree:
        raise RuntimeError(f"{name}: the ways compute different things: {WAYS[0]} {ours}, {WAYS[1]} {theirs}.")


def record(family: str, way: str, clips: int, hypotheses: int, steps: list[Step]) -> dict[str, Any]:
    timed = steps[1:]
    return {
        "family": family,
        "way": way,
        "clips": clips,
        "hypotheses": hypotheses,
        "seconds": median([step.seconds for step in timed]),
        "cpu_seconds": median([step.cpu_seconds for step in timed]),
        "peak_bytes": max(step.peak_bytes for step in steps),
        "all_seconds": [step.seconds for step in steps],
        "all_peak_bytes": [step.peak_bytes for step in steps],
        "loss": steps[0].value.loss,
    }


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    records = []
    total = len(WAYS) * (options.repeats + 2) * len(options.hypotheses) * len(options.family)
    with tqdm(total=total, file=sys.stderr, disable=not sys.stderr.isatty()) as progress:
        for family in options.family:
            for hypotheses in options.hypotheses:
                clips = clips_for(options, hypotheses)
                setting = (family, clips, hypotheses, options.device)
                steps = in_turns(WAYS, FamilyTask, lambda way, setting=setting: (way, *setting), options, progress)
                check(family, steps)
                records += [record(family, way, clips, hypotheses, steps[way]) for way in WAYS]
    return records


def results_table(records: list[dict[str, Any]]) -> str:
    """A line for each family and K: both ways, and how much less groups take."""
    lines = []
    for ours, theirs in zip(records[::2], records[1::2], strict=True):
        lines.append(
            [
                FAMILY_SHAPES[ours["family"]].described,
                f"{ours['clips']} x {ours['hypotheses']}",
                *(f"{way['seconds']:.2f}" for way in (theirs, ours)),
                f"{theirs['seconds'] / ours['seconds']:.1f} times as fast",
                *(f"{way['peak_bytes'] / GIB:.2f}" for way in (theirs, ours)),
                f"{ours['peak_bytes'] / theirs['peak_bytes']:.2f} of it",
            ]
        )
    headings = ("family", "B x K", "s, K forwards", "s, groups", "", "GiB, K forwards", "GiB, groups", "")
    return table(headings, lines)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--family", nargs="+", choices=FAMILY_SHAPES, default=list(DEFAULT), help="which to measure")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both ways")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs after one warm-up; their median counts")
    parser.add_argument("--hypotheses", type=int, nargs="+", default=[2, 8], help="every K to measure")
    parser.add_argument("--clips", type=int, help="B; 4, or 2 from K = 8 on")
    parser.add_argument("--out", type=Path, help="file for the JSON of the last line")
    parser.set_defaults(halved_from=8)
    options = parser.parse_args(argv)
    if min(*options.hypotheses, options.threads, options.repeats, options.clips or 1) < 1:
        parser.error("--hypotheses, --threads, --repeats and --clips count things; use 1 or more")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; use --device cpu")
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    where = environment(options.device, options.threads)
    records = measured(options)
    print(hardware_line(where))
    print(f"float32, median of {options.repeats}; memory above the idle process\n")
    print(results_table(records) + "\n")
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "halved_from")}
    report({"benchmark": "families", **where, **settings, "rows": records}, options.out)


if __name__ == "__main__":
    main()
