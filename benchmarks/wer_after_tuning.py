"""What does each method do to the WER of real, unseen speech, given equal time?

    AUDIORL_TEST_DATA=/path/to/shared python benchmarks/wer_after_tuning.py --seeds 0 1 2 --minutes 2 --processes 2

Data: librispeech-mini, training clips of 7 speakers, measured on `validation`, one speaker that neither the checkpoint
nor the tuning heard. Checkpoint: whisper-tiny-regrown, 12 s window, so clips up to 11.9 s. The encoder is frozen. For
each seed pairs are mined from the checkpoint itself (transcript against the worst of K samples); mining time counts for
nobody and is printed. Every method then trains for the same number of CPU minutes, rollouts included, so that other
users of the machine favour none: steps = minutes / its own CPU time for a step, measured first. A method of two phases
divides the minutes between them. Settings were fixed before the first run and not chosen by these figures.

The last line is JSON; with the rewards and errors of the samples that the online methods logged on their way.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import environment, report
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from audiorl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    ORPOConfig,
    ORPOTrainer,
    SFTConfig,
    SFTTrainer,
    SpeechConfig,
    mine_pairs,
)
from audiorl.evaluation import Comparison, compare
from audiorl.trainers.base import SpeechTrainer

BATCH = 8
STEPS_TO_TIME = 6
CURVE = ("step", "loss", "reward", "wer", "rewards/margins")


class Phase(NamedTuple):
    """One trainer, its settings and its share of the time."""

    trainer: Callable[..., SpeechTrainer]
    config: type[SpeechConfig]
    settings: dict[str, Any]
    share: float = 1.0


def sft(**settings: Any) -> Phase:
    return Phase(SFTTrainer, SFTConfig, {"learning_rate": 3e-5}, **settings)


def dpo(losses: list[str], weights: list[float]) -> Phase:
    settings = {"loss_type": losses, "loss_weights": weights, "beta": 0.1, "learning_rate": 3e-5}
    return Phase(DPOTrainer, DPOConfig, settings)


def grpo(share: float = 1.0, **settings: Any) -> Phase:
    sampling = {"num_generations": 8, "max_completion_length": 128, "learning_rate": 2e-5}
    return Phase(partial(GRPOTrainer, reward_funcs="one_minus_wer"), GRPOConfig, {**sampling, **settings}, share)


METHODS: dict[str, list[Phase]] = {
    "SFT": [sft()],
    "DPO": [dpo(["sigmoid"], [1.0])],
    "DPO + SFT": [dpo(["sigmoid", "sft"], [1.0, 1.0])],
    "MPO": [dpo(["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0])],
    "ORPO": [Phase(ORPOTrainer, ORPOConfig, {"beta": 0.1, "learning_rate": 3e-5})],
    # interpolated with the likelihood at 0.01, as Prabhavalkar et al. 2018 do, section 3.3
    "MWER": [grpo(loss_type="mwer", scale_rewards="none", sft_weight=0.01)],
    "GRPO": [grpo()],
    "SFT, then GRPO + SFT": [sft(share=0.5), grpo(share=0.5, sft_weight=0.3)],
}
DEFAULT_METHODS = [name for name in METHODS if name != "MPO"]


def speech(root: Path, name: str, limit: int | None) -> list[dict[str, Any]]:
    """Rows of librispeech-mini that fit the window, in the lower case the checkpoint writes."""
    folder = root / "data" / "librispeech-mini"
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    fitting = [row for row in rows if row["duration"] <= 11.9]
    return [{**row, "audio": str(folder / row["audio"]), "text": row["text"].lower()} for row in fitting[:limit]]


def checkpoint(root: Path) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    folder = root / "models" / "whisper-tiny-regrown"
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, WhisperProcessor.from_pretrained(folder)


def build(model: Any, processor: Any, phase: Phase, rows: list[dict], seed: int, max_steps: int) -> SpeechTrainer:
    args = phase.config(
        output_dir=tempfile.mkdtemp(),
        freeze_encoder=True,
        warmup_steps=5,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        max_steps=max_steps,
        save_strategy="no",
        logging_steps=5,
        seed=seed,
        disable_tqdm=True,
        report_to="none",
        **phase.settings,
    )
    return phase.trainer(model, args=args, train_dataset=rows, processing_class=processor)


def seconds_for_a_step(root: Path, phase: Phase, rows: list[dict], seed: int) -> float:
    """CPU seconds from one optimizer step to the next, rollouts included: the median of a few."""
    times = step_starts(build(*checkpoint(root), phase, rows, seed, STEPS_TO_TIME))
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(times))


def step_starts(trainer: SpeechTrainer) -> list[float]:
    """CPU seconds at which each step began to learn, of a whole training."""
    times, step = [], trainer.training_step

    def timed(*args: Any, **kwargs: Any) -> torch.Tensor:
        times.append(time.process_time())
        return step(*args, **kwargs)

    trainer.training_step = timed
    trainer.train()
    return times


def run_method(root: Path, method: str, rows: dict[str, list[dict]], seed: int, minutes: float) -> dict[str, Any]:
    """Train from the checkpoint; returns the last phase's trainer and what it took."""
    model, processor = checkpoint(root)
    steps, curve, spent = [], [], 0.0
    for phase in METHODS[method]:
        own = rows["text" if phase.trainer is SFTTrainer or phase.config is GRPOConfig else "pairs"]
        count = max(1, round(60 * minutes * phase.share / seconds_for_a_step(root, phase, own, seed)))
        trainer = build(model, processor, phase, own, seed, count)
        start = time.process_time()
        trainer.train()
        spent += time.process_time() - start
        steps.append(count)
        curve.append([{name: entry[name] for name in CURVE if name in entry} for entry in trainer.state.log_history])
    epochs = sum(steps) * BATCH / len(own)
    return {"trainer": trainer, "steps": steps, "epochs": round(epochs, 1), "seconds": round(spent), "curve": curve}


def run_seed(
    root: Path, seed: int, minutes: float, methods: list[str], limit: int | None, num_generations: int
) -> dict[str, Any]:
    """All methods from one seed: mined pairs, then equal time for each."""
    torch.set_num_threads(1)
    train, validation = speech(root, "train", limit), speech(root, "validation", limit)
    model, processor = checkpoint(root)
    before = build(model, processor, sft(), train, seed, 1).decode(validation)
    start = time.process_time()
    mined = mine_pairs(model, processor, train, num_generations=num_generations, seed=seed, progress=False)
    print(f"seed {seed}: {mined}, mined in {time.process_time() - start:.0f} CPU s", flush=True)
    found: dict[str, Any] = {}
    for method in methods:
        run = run_method(root, method, {"text": train, "pairs": mined.rows}, seed, minutes)
        run["result"] = compare(before, run.pop("trainer").decode(validation), normalise="lower")
        found[method] = run
        took = f"steps {run['steps']}, {run['epochs']} epochs, {run['seconds']} CPU s"
        print(f"seed {seed}, {method}: {took}\n{run['result']}", flush=True)
    return found


def table(runs: dict[int, dict[str, Any]]) -> str:
    """One line for each method: mean and spread over seeds, and the paired test of each seed."""
    methods = next(iter(runs.values())).keys()
    base = next(iter(next(iter(runs.values())).values()))["result"].before.wer
    lines = [f"| method | WER | seeds | p | epochs |\n|---|---|---|---|---|\n| checkpoint | {100 * base:.1f} % | | | |"]
    for method in methods:
        results: list[Comparison] = [run[method]["result"] for run in runs.values()]
        wers = [100 * result.after.wer for result in results]
        each = ", ".join(f"{wer:.1f}" for wer in wers)
        p_values = ", ".join(f"{result.paired.p_value:.2g}" for result in results)
        epochs = statistics.mean(run[method]["epochs"] for run in runs.values())
        lines.append(f"| {method} | {statistics.mean(wers):.1f} % | {each} | {p_values} | {epochs:.1f} |")
    return "\n".join(lines)


def plain(run: dict[str, Any]) -> dict[str, Any]:
    result: Comparison = run["result"]
    numbers = {"wer_before": result.before.wer, "wer_after": result.after.wer, "p": result.paired.p_value}
    return {**{name: run[name] for name in ("steps", "epochs", "seconds", "curve")}, **numbers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=2.0, help="CPU minutes of training for each method")
    parser.add_argument("--methods", nargs="+", default=DEFAULT_METHODS, choices=list(METHODS))
    parser.add_argument("--num_generations", type=int, default=4, help="K of mining")
    parser.add_argument("--limit", type=int, default=None, help="clips of each set, for a quick look")
    parser.add_argument("--processes", type=int, default=1, help="seeds run at the same time, one thread each")
    parser.add_argument("--out", type=Path, help="file for the JSON of the last line")
    args = parser.parse_args()
    if "AUDIORL_TEST_DATA" not in os.environ:
        parser.error("AUDIORL_TEST_DATA is not set. Point it at the folder with data/ and models/.")
    root = Path(os.environ["AUDIORL_TEST_DATA"])
    one = partial(
        run_seed,
        root,
        minutes=args.minutes,
        methods=args.methods,
        limit=args.limit,
        num_generations=args.num_generations,
    )
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        runs = dict(zip(args.seeds, pool.map(one, args.seeds), strict=True))
    print(table(runs))
    results = {str(seed): {method: plain(run) for method, run in found.items()} for seed, found in runs.items()}
    arguments = {name: value for name, value in vars(args).items() if name != "out"}
    report(
        {"benchmark": "wer_after_tuning", "arguments": arguments, **environment("cpu", 1), "runs": results}, args.out
    )


if __name__ == "__main__":
    main()
