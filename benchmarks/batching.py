"""What does a budget of seconds save, against batches of a fixed number of clips?

    AUDIORL_TEST_DATA=data python benchmarks/batching.py --max_batch_seconds 80 --threads 1 --out batching.json

One epoch of `SFTTrainer` on a random FastConformer with a CTC head, over the real clips of librispeech-mini:

    fixed    shuffled batches of as many clips as the batches of the budget hold on average
    budget   `max_batch_seconds`

Loading a batch and its step (forward, backward, SGD) are timed apart. The two ways take turns in one process, and CPU
time counts, because other users of the machine do not lengthen it. Predicted: a step costs its padded seconds, so that
clips per second grow by (1 - padded share of budget) / (1 - padded share of fixed); loading costs the same. The last
line of the output is JSON.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import environment, hardware_line, report, table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetProcessor,
    ParakeetTokenizer,
)

from audiorl import SFTConfig, SFTTrainer

RATE = 16_000
SPACE = "\u2581"


def build(width: int, layers: int) -> tuple[ParakeetForCTC, ParakeetProcessor]:
    """A random CTC model that writes capitals, 40 ms a frame, and its processor."""
    symbols = ["<pad>", "<unk>", SPACE, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    learner = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=[], unk_token="<unk>"))
    learner.pre_tokenizer, learner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = ParakeetTokenizer(tokenizer_object=learner, unk_token="<unk>", pad_token="<pad>")
    encoder = ParakeetEncoderConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        subsampling_factor=4,  # with 8, letters are more than frames
        subsampling_conv_channels=width,
        num_mel_bins=80,
    )
    torch.manual_seed(0)
    model = ParakeetForCTC(ParakeetCTCConfig(vocab_size=len(symbols), encoder_config=encoder, pad_token_id=0))
    return model, ParakeetProcessor(ParakeetFeatureExtractor(feature_size=80, sampling_rate=RATE), tokenizer)


class Way:
    """An epoch of one way, a batch at a time.

    Args:
        rows: a file of rows.
        batching: the fields of the config that say how clips are batched.
        shape: width and layers.
        folder: for the trainer's output.
    """

    def __init__(self, rows: Path, batching: dict[str, Any], shape: tuple[int, int], folder: str):
        model, processor = build(*shape)
        plain = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": 0}
        config = SFTConfig(output_dir=folder, **plain, **batching)
        self.trainer = SFTTrainer(model, args=config, train_dataset=str(rows), processing_class=processor)
        self.seconds = dict(
            zip(self.trainer.train_dataset["row_id"], self.trainer.train_dataset["duration"], strict=True)
        )
        self.model = self.trainer.model.train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6)
        self.trainer.current_gradient_accumulation_steps = 1
        self.batches: Iterator[Any] = iter(self.trainer.get_train_dataloader())
        self.loading = self.stepping = 0.0
        self.padded: list[float] = []  # seconds of each batch
        self.clips = 0

    @property
    def left(self) -> int:
        return len(self.seconds) - self.clips

    def go(self) -> None:
        """Load a batch and take its step."""
        start = time.process_time()
        (batch,), _ = self.trainer.get_batch_samples(self.batches, 1, torch.device("cpu"))
        loaded = time.process_time()
        self.trainer.training_step(self.model, batch)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loading, self.stepping = self.loading + loaded - start, self.stepping + time.process_time() - loaded
        known = [self.seconds[row] for row in batch.row_ids.tolist()]
        self.clips += len(known)
        self.padded.append(len(known) * max(known))

    def result(self) -> dict[str, float]:
        return {
            "batches": len(self.padded),
            "padded_share": 1 - sum(self.seconds.values()) / sum(self.padded),
            "largest_padded_seconds": max(self.padded),
            "clips_per_second": self.clips / self.stepping,
            "clips_per_second_with_loading": self.clips / (self.stepping + self.loading),
        }


def measure(options: argparse.Namespace, folder: str) -> dict[str, dict[str, float]]:
    """An epoch of both ways; at each turn the one that has heard less goes."""
    shape = options.width, options.layers
    budget = {"max_batch_seconds": options.max_batch_seconds, "per_device_train_batch_size": 1000}
    ways = {"budget": Way(options.rows, budget, shape, f"{folder}/budget")}
    clips = round(ways["budget"].trainer.clips_per_step)
    ways["fixed"] = Way(options.rows, {"per_device_train_batch_size": clips}, shape, f"{folder}/fixed")
    for way in ways.values():  # warm up, uncounted
        way.trainer.training_step(way.model, way.trainer.get_batch_samples(way.batches, 1, torch.device("cpu"))[0][0])
        way.optimizer.zero_grad()
        way.batches = iter(way.trainer.get_train_dataloader())
    while any(way.left for way in ways.values()):
        max(ways.values(), key=lambda way: way.left).go()
    return {name: way.result() for name, way in ways.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A budget of seconds against fixed batches.")
    data = Path(os.environ.get("AUDIORL_TEST_DATA", "."), "data/librispeech-mini/train.jsonl")
    parser.add_argument("--rows", type=Path, default=data, help="rows with audio, text and duration")
    parser.add_argument("--max_batch_seconds", type=float, default=80.0)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, folder)
    fixed, budget = found["fixed"], found["budget"]
    predicted = (1 - budget["padded_share"]) / (1 - fixed["padded_share"])
    faster = {name: budget[name] / fixed[name] for name in budget if name.startswith("clips_per_second")}
    where = environment("cpu", options.threads)
    print(hardware_line(where))
    rows = [
        [
            name,
            f"{way['batches']:.0f}",
            f"{way['padded_share']:.1%}",
            f"{way['largest_padded_seconds']:.0f}",
            f"{way['clips_per_second']:.2f}",
            f"{way['clips_per_second_with_loading']:.2f}",
        ]
        for name, way in found.items()
    ]
    headings = ["way", "batches", "padding", "largest batch, padded s", "clips/s, steps", "clips/s with loading"]
    print(table(headings, rows))
    print(f"predicted {predicted:.2f} times, measured {faster['clips_per_second']:.2f}")
    report({"environment": where, "ways": found, "predicted": predicted, "faster": faster}, options.out)


if __name__ == "__main__":
    main()
