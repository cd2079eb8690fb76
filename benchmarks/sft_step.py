"""Is a step of supervised tuning slower than that of `Seq2SeqTrainer`?

Two trainers, with the same weights, clips, transcripts, optimizer and threads:

    audiorl        `SFTTrainer`, which projects the tokens that count to the vocabulary
    transformers   `Seq2SeqTrainer`, whose model projects all positions, padding included

    python benchmarks/sft_step.py [--shape tiny|small] [--clips 8] [--threads 2]

A run is one `training_step` (forward and backward, as the trainer calls it) and one AdamW update. Before timing, loss
and gradients of both are compared, and the run stops where they differ. Each lives in its own process, and one works at
a time, round after round: a warm-up, then `--repeats` timed steps. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from counting import SHAPES, Sharing, step_flops
from measuring import environment, hardware_line, report, table
from safetensors.torch import save_file
from scoring_ways import PREFIX_TOKENS, Setting, agreement, build_batch, build_model, group_family
from speed_tables import checked_options, describe, in_turns, options_parser
from tqdm import tqdm
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer

from audiorl import SFTConfig, SFTTrainer
from audiorl.batch import GroupBatch
from audiorl.trainers import base

WAYS = ("audiorl", "transformers")
LEARNING_RATE = 1e-6


class StepTask:
    """A training step and its update by one way; see measuring.Task. `finish` gives the loss.

    Args:
        way: one of `WAYS`.
        gradients: a file for the gradients of the first step.
    """

    def __init__(self, way: str, setting: Setting, gradients: Path):
        model, batch = build_model(setting.shape).to(setting.device), transcripts(setting)
        self.trainer, self.inputs = (ours if way == "audiorl" else theirs)(model, batch, setting)
        self.trainer.current_gradient_accumulation_steps = 1
        self.model, self.loss = model, torch.zeros(())
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        self.loss = self.trainer.training_step(model, self.inputs)
        found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        save_file({**found, "loss": self.loss.clone()}, gradients)
        self.finish()

    def run(self) -> None:
        self.loss = self.trainer.training_step(self.model, self.inputs)
        self.optimizer.step()

    def finish(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        return self.loss.item()


def transcripts(setting: Setting) -> GroupBatch:
    """Random audio and transcripts of three quarters of the length to all of it, padded."""
    batch = build_batch(setting._replace(hypotheses=2))
    rows = torch.arange(setting.clips)
    return batch.replace(tokens=batch.tokens[:, 1:], keep=batch.keep[:, 1:], row_ids=rows)


def settings(setting: Setting) -> dict[str, Any]:
    """Of both configs."""
    precision = {"bf16": setting.precision == "bfloat16", "use_cpu": setting.device == "cpu"}
    return {"output_dir": tempfile.mkdtemp(), "report_to": "none", "disable_tqdm": True, **precision}


def ours(model: Any, batch: GroupBatch, setting: Setting) -> tuple[Trainer, Any]:
    # no text is read here, so the processor is the least that a family takes
    family = group_family(model, setting.shape)
    base.load_processor = lambda *_: family.processor
    base.configured_family = lambda *_: family
    return SFTTrainer(model, SFTConfig(**settings(setting)), data_collator=GroupBatch), batch


def theirs(model: Any, batch: GroupBatch, setting: Setting) -> tuple[Trainer, Any]:
    labels = batch.tokens[:, 0, 1:].masked_fill(~batch.keep[:, 0], -100)
    inputs = {"input_features": batch.audio, "decoder_input_ids": batch.tokens[:, 0, :-1], "labels": labels}
    arguments = Seq2SeqTrainingArguments(**settings(setting), remove_unused_columns=False)
    return Seq2SeqTrainer(model, arguments), inputs


def counted_flops(way: str, setting: Setting) -> float:
    clips, kept = setting.clips, int(transcripts(setting).keep.sum())
    projected = kept if way == "audiorl" else clips * setting.tokens
    work = Sharing(encoded=clips, projected=clips, scored=clips, tokens=setting.tokens, kept=projected)
    return step_flops(setting.shape, work)


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    clips = options.clips or 8
    setting = Setting(SHAPES[options.shape], clips, 1, options.tokens, options.device, options.precision)
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=len(WAYS) * (options.repeats + 2), file=sys.stderr, disable=not sys.stderr.isatty()) as progress,
    ):
        files = {way: Path(folder) / f"{way}.safetensors" for way in WAYS}

        def check() -> None:
            if options.precision == "float32":
                agreement(files["audiorl"], files["transformers"])

        steps = in_turns(list(WAYS), StepTask, lambda way: (way, setting, files[way]), options, progress, ready=check)
    return [describe(way, clips, 1, steps[way], counted_flops(way, setting), loss=steps[way][-1].value) for way in WAYS]


def main(argv: list[str] | None = None) -> None:
    options = checked_options(
        options_parser(__doc__ or "", [1], 8, "decoder tokens of the longest transcript"), argv, PREFIX_TOKENS
    )
    where = environment(options.device, options.threads)
    print(hardware_line(where))
    records = measured(options)
    lines = [
        [r["row"], f"{r['seconds']:.2f}", f"{r['cpu_seconds']:.2f}", f"{r['peak_bytes'] / 2**30:.2f}"] for r in records
    ]
    print(f"\n{options.shape}, {records[0]['clips']} clips x {options.tokens} tokens, {options.precision}")
    print(table(["trainer", "s a step", "CPU s", "GiB"], lines))
    first, second = records
    ratios = {name: first[name] / second[name] for name in ("seconds", "cpu_seconds", "peak_bytes", "predicted_flops")}
    print("audiorl / transformers: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    arguments = {name: value for name, value in vars(options).items() if name != "out"}
    report(
        {"benchmark": "sft_step", "arguments": arguments, **where, "ratios": ratios, "results": records}, options.out
    )


if __name__ == "__main__":
    main()
