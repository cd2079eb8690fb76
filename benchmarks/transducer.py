"""What do K hypotheses of a clip cost under a transducer, against K calls of the stock model and its loss?

    python benchmarks/transducer.py --threads 1 --out transducer.json

Forward and backward of all weights of `ParakeetForTDT`, random ones in the shape of Parakeet-TDT-0.6B (24 layers of
1,024, 8,192 word pieces and the blank, durations 0 to 4), by three ways that compute the same gradients:

    ours             `score_groups`: one encoder pass; logits of some nodes at a time, made again in the backward pass
    stock, one loss  K calls of the model with `labels`, then one backward pass: what a loss over all K needs
    stock, in turn   K calls, each followed by its backward pass: possible where all weights are known beforehand

Predicted, in multiply-adds for a clip of S frames and hypotheses of U symbols: an encoder pass takes E, the joint
network J = S (U + 1) 640 V. A stock call takes 3 (E + J) with its backward pass. Ours takes 3 E once, and J (1 + 3 v)
for each hypothesis, v being the share of nodes that alignments visit (random weights spread them wide, about 0.6; a
trained model follows few). At 10 s (S = 125) and U = 24: E = 75 G and J = 16 G, so 8 hypotheses take 2,190 G against
590 G: 3.7 times as long. Memory of one loss: the gradients of the weights, 2.4 GB, and the graphs of 8 calls, 0.7 GB
each (about five copies of the logits, and the encoder's activations), together 8 GB. Ours: the gradients, one encoder
graph and two chunks, 2.7 GB, a third of it.

Each way has a process of its own, one after the other, since each holds weights and gradients. Time is the median of
the repetitions after a first step whose gradients are compared. CPU seconds: other users of a machine do not count.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Worker, environment, hardware_line, report, table
from torch import Tensor

OURS, ONE_LOSS, IN_TURN = "ours", "stock, one loss", "stock, in turn"
WAYS = (OURS, ONE_LOSS, IN_TURN)
DURATIONS = (0, 1, 2, 3, 4)
TOLERANCE = 1e-3  # of what is compared of gradients, relative to its largest number
COMPARED = (
    "joint.head.bias",
    "decoder.decoder_projector.bias",
    "encoder_projector.bias",
    "encoder.layers.0.norm_out.bias",
)


def build(layers: int, width: int, symbols: int) -> Any:
    from transformers import ParakeetEncoderConfig, ParakeetForTDT, ParakeetTDTConfig

    encoder = ParakeetEncoderConfig(
        num_hidden_layers=layers, hidden_size=width, intermediate_size=4 * width, num_mel_bins=128, scale_input=False
    )
    config = ParakeetTDTConfig(
        vocab_size=symbols,
        blank_token_id=symbols - 1,
        pad_token_id=2,
        durations=list(DURATIONS),
        encoder_config=encoder,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ParakeetForTDT(config).eval()


class ScoringStep:
    """Forward and backward of weighted log-probabilities; see measuring.Task. `finish` gives what is compared."""

    def __init__(self, way: str, options: dict[str, int]):
        self.way, self.model = way, build(options["layers"], options["width"], options["symbols"])
        generator = torch.Generator().manual_seed(1)
        frames, self.hypotheses = 100 * options["seconds"], options["hypotheses"]
        self.features = torch.randn(1, frames, 128, generator=generator)
        shape = (self.hypotheses, options["tokens"])
        self.labels = torch.randint(3, options["symbols"] - 1, shape, generator=generator)
        self.weights = torch.randn(self.hypotheses, generator=generator)
        self.blank = options["symbols"] - 1

    def run(self) -> None:
        if self.way == OURS:
            (self._scored() * self.weights).sum().backward()
            return
        losses = []
        for k in range(self.hypotheses):
            loss = -self._stock(self.labels[k : k + 1]) * self.weights[k]
            losses.append(loss.detach() if self.way == IN_TURN else loss)
            if self.way == IN_TURN:
                loss.backward()
        if self.way == ONE_LOSS:
            torch.stack(losses).sum().backward()

    def _stock(self, labels: Tensor) -> Tensor:
        mask = torch.ones(self.features.shape[:2], dtype=torch.bool)
        read = torch.nn.functional.pad(labels, (1, 0), value=self.blank)
        given = {"input_features": self.features, "attention_mask": mask, "decoder_input_ids": read, "labels": labels}
        return self.model(**given, reduction="sum").loss

    def _scored(self) -> Tensor:
        """What `TransducerFamily._score` does, without a processor."""
        from audiorl.losses import transducer_scores

        model = self.model
        mask = torch.ones(self.features.shape[:2], dtype=torch.bool)
        heard = model.encoder_projector(model.encoder(self.features, attention_mask=mask).last_hidden_state)
        texts = model.decoder(torch.nn.functional.pad(self.labels, (1, 0), value=self.blank))[None]
        lengths = torch.full((1, self.hypotheses), self.labels.shape[1])
        return transducer_scores(
            lambda audio, text: model.joint(decoder_hidden_states=text, encoder_hidden_states=audio),
            heard,
            texts,
            torch.tensor([heard.shape[1]]),
            self.labels[None],
            lengths,
            symbols=self.blank + 1,
            blank=self.blank,
            durations=DURATIONS,
            parameters=[*model.joint.parameters()],
        ).logps[0]

    def finish(self) -> dict[str, list[float]]:
        weights = dict(self.model.named_parameters())
        found = {name: weights[name].grad.flatten()[:64].tolist() for name in COMPARED}
        self.model.zero_grad(set_to_none=True)
        return found


def check(found: dict[str, list[float]], expected: dict[str, list[float]], way: str) -> None:
    """The gradients of a way are those of the first."""
    for name, values in expected.items():
        true, ours = torch.tensor(values), torch.tensor(found[name])
        if float((true - ours).abs().max()) > TOLERANCE * float(true.abs().max()):
            raise SystemExit(f"{way} and {WAYS[0]} have different gradients of {name}; nothing was measured")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    sizes = {name: getattr(options, name) for name in ("layers", "width", "symbols", "seconds", "hypotheses", "tokens")}
    records: list[dict[str, Any]] = []
    expected: dict[str, list[float]] = {}
    for way in WAYS:
        worker = Worker(way, ScoringStep, (way, sizes), device="cpu", threads=options.threads)
        steps = [worker.go() for _ in range(options.repeats + 1)]
        worker.close()
        expected = expected or steps[0].value
        check(steps[0].value, expected, way)
        timed = steps[1:]
        records.append(
            {
                "way": way,
                "seconds": statistics.median(step.seconds for step in timed),
                "cpu_seconds": statistics.median(step.cpu_seconds for step in timed),
                "peak_bytes": max(step.peak_bytes for step in steps),
                "all_cpu_s": [step.cpu_seconds for step in timed],
            }
        )
    return records


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    numbers = {
        "hypotheses": (8, "K"),
        "seconds": (10, "of the clip"),
        "tokens": (24, "U, symbols of a hypothesis"),
        "layers": (24, "of the encoder"),
        "width": (1024, "of the encoder"),
        "symbols": (8193, "V, the blank included"),
        "repeats": (2, "timed steps of each way"),
        "threads": (1, "of torch"),
    }
    for name, (default, meaning) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} ({default})")
    parser.add_argument("--out", type=Path, help="file for the JSON record")
    options = parser.parse_args(argv)
    for name in numbers:
        if getattr(options, name) < 1:
            parser.error(f"--{name} is at least 1; got {getattr(options, name)}")
    where = environment("cpu", options.threads)
    print(hardware_line(where))
    records = measure(options)
    first = records[0]
    ratios = {
        record["way"]: {name: record[name] / first[name] for name in ("seconds", "cpu_seconds", "peak_bytes")}
        for record in records[1:]
    }
    lines = [
        [r["way"], f"{r['seconds']:.1f}", f"{r['cpu_seconds']:.1f}", f"{r['peak_bytes'] / 2**30:.2f}"] for r in records
    ]
    print(table(["way", "s a step", "CPU s", "GiB"], lines))
    for way, ratio in ratios.items():
        print(f"{way} / ours: " + ", ".join(f"{name} {value:.2f}" for name, value in ratio.items()))
    arguments = {name: getattr(options, name) for name in numbers}
    report(
        {"benchmark": "transducer", "arguments": arguments, **where, "ratios": ratios, "results": records}, options.out
    )


if __name__ == "__main__":
    main()
