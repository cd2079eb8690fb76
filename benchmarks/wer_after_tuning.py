"""What does each method do to the WER of real, unseen speech, given equal time?

    AUDIORL_TEST_DATA=/path/to/shared python benchmarks/wer_after_tuning.py --seeds 0 1 2 --minutes 1.5

Data: librispeech-mini, training clips of 7 speakers, measured on `validation`, one speaker that neither the checkpoint
nor the tuning heard. Checkpoint: whisper-tiny-regrown, 12 s window, so clips up to 11.9 s. The encoder is frozen. For
each seed pairs are mined from the checkpoint itself (transcript against the worst of K samples); mining time counts for
nobody and is printed. Every method then trains for the same number of CPU minutes, so that other users of the
machine favour none: steps = minutes / its own CPU time for a step, measured first. Settings were fixed before the
first run and not chosen by these figures.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import environment
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from audiorl import DPOConfig, DPOTrainer, mine_pairs
from audiorl.batch import GroupBatch
from audiorl.evaluation import Comparison, compare
from audiorl.losses import sequence_sum, token_mean
from audiorl.trainers.base import SpeechTrainer

# name -> (losses, weights); SFT is a trainer of its own that never looks at the rejected text
METHODS: dict[str, tuple[list[str], list[float]]] = {
    "SFT": ([], []),
    "DPO": (["sigmoid"], [1.0]),
    "DPO + SFT": (["sigmoid", "sft"], [1.0, 1.0]),
    "MPO": (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]),
}
STEPS_TO_TIME = 6


class SFTTrainer(SpeechTrainer):
    """Supervised fine-tuning on the transcript alone: K = 1."""

    text_columns = ("text",)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        batch = GroupBatch(inputs)
        scores = self.family.score_groups(model, batch)
        nll = -sequence_sum(scores.logps, scores.keep)[:, 0]
        loss = token_mean(nll, self.counts_of(batch, model.training).tokens)
        return self.scale_for_step(loss, model.training)


def speech(root: Path, name: str, limit: int | None) -> list[dict[str, Any]]:
    """Rows of librispeech-mini that fit the window, in the lower case the checkpoint writes."""
    folder = root / "data" / "librispeech-mini"
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    fitting = [row for row in rows if row["duration"] <= 11.9]
    return [{**row, "audio": str(folder / row["audio"]), "text": row["text"].lower()} for row in fitting[:limit]]


def build(root: Path, method: str, rows: list[dict], seed: int, max_steps: int, output_dir: str) -> SpeechTrainer:
    losses, weights = METHODS[method]
    checkpoint = root / "models" / "whisper-tiny-regrown"
    args = DPOConfig(
        output_dir=output_dir,
        loss_type=losses or ["sft"],
        loss_weights=weights or None,
        beta=0.1,
        freeze_encoder=True,
        learning_rate=3e-5,
        warmup_steps=5,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        max_steps=max_steps,
        save_strategy="no",
        logging_steps=5,
        seed=seed,
        disable_tqdm=True,
        report_to="none",
    )
    model = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    trainer_class = SFTTrainer if method == "SFT" else DPOTrainer
    processor = WhisperProcessor.from_pretrained(checkpoint)
    return trainer_class(model, args=args, train_dataset=rows, processing_class=processor)


def steps_for(minutes: float, **settings: Any) -> int:
    """Optimizer steps of a method that fill the given minutes, by the median of a few of them."""
    trainer = build(**settings, max_steps=STEPS_TO_TIME)
    times, step = [], trainer.training_step

    def timed(*args: Any, **kwargs: Any) -> torch.Tensor:
        times.append(time.process_time())
        return step(*args, **kwargs)

    trainer.training_step = timed
    trainer.train()
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return max(1, round(60 * minutes / statistics.median(gaps)))


def run_seed(root: Path, seed: int, minutes: float, methods: list[str], limit: int | None, k: int) -> dict[str, Any]:
    """All methods from one seed: mined pairs, then equal time for each."""
    train, validation = speech(root, "train", limit), speech(root, "validation", limit)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        first = build(root, "DPO", [{**train[0], "chosen": "a", "rejected": "b"}], seed, 1, folder)
        before = first.decode(validation)
        start = time.perf_counter()
        mined = mine_pairs(first.model, first.processing_class, train, num_generations=k, seed=seed, progress=False)
        print(f"seed {seed}: {mined}, mined in {time.perf_counter() - start:.0f} s", flush=True)
        for method in methods:
            rows = train if method == "SFT" else mined.rows
            settings = {"root": root, "method": method, "rows": rows, "seed": seed, "output_dir": folder}
            steps = steps_for(minutes, **settings)
            trainer = build(**settings, max_steps=steps)
            start = time.process_time()
            trainer.train()
            seconds = time.process_time() - start
            result = compare(before, trainer.decode(validation), normalise="lower")
            epochs = steps * 8 / len(rows)
            found[method] = {
                "steps": steps,
                "epochs": round(epochs, 1),
                "seconds": round(seconds),
                "result": result,
            }
            print(
                f"seed {seed}, {method}: {steps} steps, {epochs:.1f} epochs, {seconds:.0f} s\n{result}",
                flush=True,
            )
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
    return {**{name: run[name] for name in ("steps", "epochs", "seconds")}, **numbers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=1.5, help="CPU minutes of training for each method")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--num_generations", type=int, default=4, help="K of mining")
    parser.add_argument("--limit", type=int, default=None, help="clips of each set, for a quick look")
    args = parser.parse_args()
    if "AUDIORL_TEST_DATA" not in os.environ:
        parser.error("AUDIORL_TEST_DATA is not set. Point it at the folder with data/ and models/.")
    root = Path(os.environ["AUDIORL_TEST_DATA"])
    runs = {s: run_seed(root, s, args.minutes, args.methods, args.limit, args.num_generations) for s in args.seeds}
    print(table(runs))
    results = {str(seed): {method: plain(run) for method, run in found.items()} for seed, found in runs.items()}
    print(
        json.dumps(
            {
                "arguments": vars(args),
                "environment": environment("cpu", torch.get_num_threads()),
                "runs": results,
            }
        )
    )


if __name__ == "__main__":
    main()
