"""How much faster is an epoch whose encoder states are kept on disk?

    python benchmarks/encoder_cache.py --model /data/models/whisper-tiny-regrown \\
        --rows /data/librispeech-mini/train.jsonl --lower [--methods evaluate sft dpo grpo] [--clips 64] [--window 30]

Each method trains three epochs on the same clips with a frozen encoder, once as it is and once with `encoder_cache`;
`evaluate` decodes the clips three times. The first epoch with a cache includes the pass that fills it. Wall and CPU
seconds of each epoch, without checkpoints; the last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import environment, hardware_line, report, table
from torch import nn
from transformers import TrainerCallback
from transformers.models.whisper.modeling_whisper import sinusoids

from audiorl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from audiorl.datasets import speech_rows
from audiorl.evaluation.transcription import transcribe
from audiorl.models import EncoderCache, speech_family
from audiorl.trainers.loading import load_checkpoint, load_processor

EPOCHS = 3
METHODS = ("evaluate", "sft", "dpo", "grpo")
Seconds = tuple[float, float]  # wall, CPU of all threads


class Epochs(TrainerCallback):
    """Seconds of each epoch; the first one counts from `start`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.before, self.seconds = _now(), list[Seconds]()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = _now()
        self.seconds.append((now[0] - self.before[0], now[1] - self.before[1]))
        self.before = now


def _now() -> Seconds:
    return time.perf_counter(), time.process_time()


def whisper_of(name: str, window: int | None) -> tuple[Any, Any]:
    """A Whisper and its processor, with a window of this many seconds: its positions are sinusoids, of any number."""
    model = load_checkpoint(name, {"dtype": "float32"})
    processor = load_processor(None, model)
    extractor, encoder = processor.feature_extractor, model.get_encoder()
    if window is not None:
        positions = 50 * window
        encoder.embed_positions = nn.Embedding.from_pretrained(sinusoids(positions, model.config.d_model), freeze=True)
        encoder.max_source_positions = model.config.max_source_positions = positions
        extractor.chunk_length, extractor.nb_max_frames = window, 2 * positions
        extractor.n_samples = window * extractor.sampling_rate
    return model, processor


def trainer_of(method: str, given: tuple[Any, Any], rows: Any, settings: dict[str, Any]) -> Any:
    """A trainer of one method; a pair's rejected text lacks every third word."""
    model, processor = given
    data = {"train_dataset": rows, "processing_class": processor}
    if method == "sft":
        return SFTTrainer(model, SFTConfig(**settings), **data)
    if method == "dpo":
        pairs = [
            {"audio": row["audio"], "chosen": row["text"], "rejected": without_thirds(row["text"])} for row in rows
        ]
        return DPOTrainer(model, args=DPOConfig(**settings), **{**data, "train_dataset": pairs})
    config = GRPOConfig(**settings, num_generations=4, max_completion_length=256, beta=0.04)
    return GRPOTrainer(model, reward_funcs="negative_wer", args=config, **data)


def without_thirds(text: str) -> str:
    return " ".join(word for place, word in enumerate(text.split()) if place % 3)


def measured(method: str, options: argparse.Namespace, cache: dict[str, str]) -> list[Seconds]:
    """Seconds of each epoch."""
    rows = [row for row in speech_rows(options.rows) if row["duration"] <= options.max_seconds][: options.clips]
    if options.lower:
        rows = [{**row, "text": row["text"].lower()} for row in rows]
    if method == "evaluate":
        return transcribed(whisper_of(options.model, options.window), rows, cache)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(
            method,
            whisper_of(options.model, options.window),
            rows,
            {
                "output_dir": folder,
                "freeze_encoder": True,
                "language": "english",
                "num_train_epochs": EPOCHS,
                "per_device_train_batch_size": options.batch,
                "save_strategy": "no",
                "report_to": "none",
                "quiet": True,
                "use_cpu": True,
                **cache,
            },
        )
        watch = Epochs()
        trainer.add_callback(watch)
        watch.start()
        trainer.train()
        return watch.seconds


def transcribed(given: tuple[Any, Any], rows: Any, cache: dict[str, str]) -> list[Seconds]:
    """Seconds of each of several evaluations of the same clips, decoded greedily."""
    model, processor = given
    family = speech_family(model, processor)
    family.set_defaults(language="english")
    transcribe(model, processor, rows[:2], family=family, progress=False, max_new_tokens=8)  # warms up
    if cache:
        family.encoder_cache = EncoderCache(cache["encoder_cache"], family, model)
    watch = Epochs()
    for _ in range(EPOCHS):
        transcribe(model, processor, rows, family=family, progress=False)
        watch.on_epoch_end(None, None, None)
    return watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--methods", nargs="+", default=["evaluate", "sft"], choices=METHODS)
    parser.add_argument("--lower", action="store_true", help="the checkpoint writes lower case, the rows have capitals")
    parser.add_argument("--window", type=int, help="seconds that Whisper hears; default the checkpoint's own")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max_seconds", type=float, default=12.0, help="longest clip, seconds; the model's window")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, dict[str, list[Seconds]]] = {}
    for method in options.methods:
        with tempfile.TemporaryDirectory() as states:
            found[method] = {
                "encoded": measured(method, options, {}),
                "kept": measured(method, options, {"encoder_cache": states}),
            }
    lines = []
    for method, ways in found.items():
        for way, seconds in ways.items():
            shown = [f"{wall:.1f} ({cpu:.1f})" for wall, cpu in seconds]
            lines.append([method, way, *shown, f"{seconds[0][1] / seconds[1][1]:.2f}"])
    heads = [
        "method",
        "states",
        *(f"epoch {number + 1}, s (CPU s)" for number in range(EPOCHS)),
        "epoch 1 / 2 by CPU s",
    ]
    where = environment("cpu", options.threads)
    print(table(heads, lines))
    print(hardware_line(where))
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    report({"settings": settings, "epochs": found, **where}, options.out)


if __name__ == "__main__":
    main()
