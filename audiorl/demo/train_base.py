"""The recipe of the shipped checkpoint: `python -m audiorl.demo.train_base --output_dir demo_checkpoint`.

1. synthesise clips of the `train` split and keep their log-mel features;
2. learn a byte-level tokenizer from their sentences;
3. train a stock Whisper from scratch: cross-entropy of the transcript, plus CTC over letters on the encoder's
   states, whose head is thrown away afterwards (it teaches the encoder to align, which cross-attention alone
   learns slowly from scratch);
4. save in half precision, and print the word error rates on all splits as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, ctc_loss
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from audiorl.demo.rows import WINDOW_SECONDS, demo_rows, iterate_demo_rows, split_sentence
from audiorl.demo.synthesiser import SAMPLING_RATE
from audiorl.terminal import progress_bar

END, START, NO_TIMESTAMPS = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
_MAX_TARGET_POSITIONS = 64
_MAX_LENGTH = 40


def build_processor(sentences: Iterable[str], merges: int = 240) -> WhisperProcessor:
    """Train a byte-level tokenizer and put it beside a feature extractor of the demo's window.

    Args:
        sentences: text to learn the merges from.
        merges: how many pieces to learn beyond the 256 bytes, 0 or more.

    Returns:
        A processor with an English-only prefix; pad and end share a token, as in Whisper.
    """
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    learner.train_from_iterator(
        sentences,
        trainers.BpeTrainer(
            vocab_size=256 + merges,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    learnt = json.loads(learner.to_str())["model"]
    tokenizer = WhisperTokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(merge) for merge in learnt["merges"]],
        pad_token=END,
        extra_special_tokens=[START, NO_TIMESTAMPS],
        model_max_length=_MAX_TARGET_POSITIONS,
    )
    feature_extractor = WhisperFeatureExtractor(
        feature_size=80, sampling_rate=SAMPLING_RATE, chunk_length=WINDOW_SECONDS
    )
    return WhisperProcessor(feature_extractor=feature_extractor, tokenizer=tokenizer)


def build_model(processor: WhisperProcessor) -> WhisperForConditionalGeneration:
    """A stock Whisper of about 2 M parameters with random weights, from torch's generator.

    Args:
        processor: decides vocabulary, window and mel bins.

    Returns:
        The model, with a generation config that decodes greedily.
    """
    tokenizer, features = processor.tokenizer, processor.feature_extractor
    end, start = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(START)
    width = 128
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=features.feature_size,
        d_model=width,
        encoder_layers=4,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=features.nb_max_frames // 2,
        max_target_positions=_MAX_TARGET_POSITIONS,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        # Twice Whisper's own: at this width 0.02 makes the convolutions' output 0.02 strong against position
        # embeddings of 0.62; with 0.04 it is 0.11.
        init_std=0.04,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        no_timestamps_token_id=tokenizer.convert_tokens_to_ids(NO_TIMESTAMPS),
        is_multilingual=False,
        return_timestamps=False,
        max_length=_MAX_LENGTH,
    )
    return model


def transcribe_rows(
    model: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    rows: list[dict[str, Any]],
    batch_size: int = 32,
) -> list[str]:
    """Transcribe rows greedily, as the generation config says.

    Args:
        model: the checkpoint.
        processor: its processor.
        rows: N rows, see `audiorl.demo.demo_rows`.
        batch_size: clips in one call of `generate`.

    Returns:
        N hypotheses.
    """
    hypotheses: list[str] = []
    for start in range(0, len(rows), batch_size):
        audio = [row["audio"] for row in rows[start : start + batch_size]]
        inputs = processor(
            audio=[clip["array"] for clip in audio],
            sampling_rate=audio[0]["sampling_rate"],
            return_attention_mask=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.no_grad():
            tokens = model.generate(inputs.input_features.to(model.dtype), attention_mask=inputs.attention_mask)
        hypotheses += processor.batch_decode(tokens, skip_special_tokens=True)
    return [hypothesis.strip() for hypothesis in hypotheses]


def word_error_rate(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, rows: list[dict[str, Any]]
) -> float:
    """Word errors of the greedy hypotheses over words of the transcripts.

    Args:
        model: the checkpoint.
        processor: its processor.
        rows: N >= 1 rows with a `text`.

    Returns:
        A fraction, 0 or more.
    """
    return float(jiwer.wer([row["text"] for row in rows], transcribe_rows(model, processor, rows)))


_LETTERS = " abcdefghijklmnopqrstuvwxyz"
_BLANK = len(_LETTERS)
_IGNORED = -100
_TOKENIZER_SENTENCES = 20_000


@dataclass(frozen=True)
class Recipe:
    """What the shipped checkpoint was trained with.

    Args:
        clips: synthetic clips, spoken once and reused in every epoch.
        steps: optimizer steps.
        batch_size: clips in a step.
        learning_rate: peak of the cosine schedule.
        warmup: steps of linear warm-up.
        ctc_weight: share of the CTC loss over letters, 0 to 1.
        seed: of clips, weights, order and masks.
    """

    clips: int = 8_000
    steps: int = 3_000
    batch_size: int = 16
    learning_rate: float = 2e-3
    warmup: int = 150
    ctc_weight: float = 0.5
    seed: int = 0


@dataclass
class Corpus:
    """Features and texts of the training clips.

    Args:
        features: (clips, M, L) float16 log-mel.
        texts: one transcript a clip.
    """

    features: Tensor
    texts: list[str]


def synthesise_corpus(processor: WhisperProcessor, recipe: Recipe, show_progress: bool = True) -> Corpus:
    """Speak the training clips and keep their features.

    Args:
        processor: whose feature extractor is used.
        recipe: number of clips and seed.
        show_progress: draw a bar.

    Returns:
        The corpus.
    """
    extractor = processor.feature_extractor
    shape = (recipe.clips, extractor.feature_size, extractor.nb_max_frames)
    features, texts = torch.empty(shape, dtype=torch.float16), []
    rows = iterate_demo_rows("train", recipe.clips, recipe.seed)
    for index, row in enumerate(
        progress_bar(rows, total=recipe.clips, desc="speaking", progress=show_progress, mininterval=1.0)
    ):
        audio = row["audio"]
        mel = extractor(audio["array"], sampling_rate=audio["sampling_rate"], return_tensors="pt")
        features[index] = mel.input_features[0].half()
        texts.append(row["text"])
    return Corpus(features, texts)


def mask_spectrogram(features: Tensor, rng: np.random.Generator) -> Tensor:
    """SpecAugment, light: one band of up to 10 mel bins and two spans of up to 0.15 s take the clip's mean.

    Args:
        features: (B, M, L), changed in place.
        rng: the only source of randomness.

    Returns:
        (B, M, L), the same tensor.

    Source: Park et al. 2019, arXiv:1904.08779.
    """
    _, bins, frames = features.shape
    for clip in features:
        mean = clip.mean()
        low, width = int(rng.integers(bins - 10)), int(rng.integers(11))
        clip[low : low + width] = mean
        for _ in range(2):
            start, span = int(rng.integers(frames - 15)), int(rng.integers(16))
            clip[:, start : start + span] = mean
    return features


def learning_rate_share(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then a half cosine down to zero."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def token_targets(processor: WhisperProcessor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Decoder inputs and what they have to predict.

    Args:
        processor: whose tokenizer is used; it adds prefix and end.
        texts: B transcripts.

    Returns:
        inputs: (B, T) ids, padded with the end token.
        targets: (B, T) ids, -100 in padding and where the prefix itself would be predicted.
    """
    ids = [processor.tokenizer(text).input_ids for text in texts]
    longest = max(len(row) for row in ids) - 1
    inputs = torch.full((len(ids), longest), processor.tokenizer.eos_token_id)
    targets = torch.full((len(ids), longest), _IGNORED)
    for row, sequence in enumerate(ids):
        inputs[row, : len(sequence) - 1] = torch.tensor(sequence[:-1])
        targets[row, 1 : len(sequence) - 1] = torch.tensor(sequence[2:])
    return inputs, targets


def letter_loss(logits: Tensor, texts: list[str]) -> Tensor:
    """CTC over letters, mean over the batch of nats per letter.

    Args:
        logits: (B, S, letters + blank).
        texts: B transcripts of lower-case letters and spaces.

    Returns:
        A scalar.

    Source: Graves et al. 2006, Connectionist Temporal Classification.
    """
    targets = torch.tensor([_LETTERS.index(letter) for text in texts for letter in text])
    frames = torch.full((len(texts),), logits.shape[1])
    lengths = torch.tensor([len(text) for text in texts])
    return ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, frames, lengths, blank=_BLANK)


def training_batches(corpus: Corpus, recipe: Recipe, rng: np.random.Generator) -> Iterator[tuple[Tensor, list[str]]]:
    """Yield `recipe.steps` batches of masked features (B, M, L) and their texts, every clip once an epoch."""
    order = np.empty(0, dtype=np.int64)
    for _ in range(recipe.steps):
        if len(order) < recipe.batch_size:
            order = np.concatenate([order, rng.permutation(len(corpus.texts))])
        chosen, order = order[: recipe.batch_size], order[recipe.batch_size :]
        features = mask_spectrogram(corpus.features[torch.from_numpy(chosen)].float(), rng)
        yield features, [corpus.texts[index] for index in chosen]


def train(
    recipe: Recipe, processor: WhisperProcessor, corpus: Corpus, show_progress: bool = True
) -> WhisperForConditionalGeneration:
    """Train the checkpoint from random weights.

    Args:
        recipe: steps, batch size, learning rate, seed.
        processor: tokenizer and feature shape.
        corpus: what to train on, at least `batch_size` clips.
        show_progress: draw a bar with both losses, nats per token and per letter.

    Returns:
        The trained model in float32, in evaluation mode.
    """
    torch.manual_seed(recipe.seed)
    model = build_model(processor)
    letters = nn.Linear(model.config.d_model, _BLANK + 1)
    trainable = [weight for weight in (*model.parameters(), *letters.parameters()) if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, recipe))
    batches = training_batches(corpus, recipe, np.random.default_rng(recipe.seed))
    bar = progress_bar(batches, total=recipe.steps, desc="training", progress=show_progress, mininterval=1.0)
    for step, (features, texts) in enumerate(bar):
        inputs, targets = token_targets(processor, texts)
        out = model(input_features=features, decoder_input_ids=inputs, use_cache=False)
        transcript_loss = cross_entropy(out.logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED)
        alignment_loss = letter_loss(letters(out.encoder_last_hidden_state), texts)
        loss = (1 - recipe.ctc_weight) * transcript_loss + recipe.ctc_weight * alignment_loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(token=f"{transcript_loss:.3f}", letter=f"{alignment_loss:.3f}", refresh=False)
    return model.eval()


def measure_splits(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, clips: int, seed: int
) -> dict[str, Any]:
    """Word error rates on fresh sentences of the checkpoint's own voices, and on both hard splits.

    Args:
        model: the checkpoint.
        processor: its processor.
        clips: clips of each split.
        seed: of the rows.

    Returns:
        `{split: {"clips", "words", "wer"}}`.
    """
    figures = {}
    for split in ("base", "tune", "held_out"):
        rows = demo_rows(split, clips, seed)
        words = sum(len(row["text"].split()) for row in rows)
        wer = round(word_error_rate(model, processor, rows), 4)
        figures[split] = {"clips": clips, "words": words, "wer": wer}
    return figures


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line: one option for each field of `Recipe`, where to save, and how to run."""
    parser = argparse.ArgumentParser(prog="python -m audiorl.demo.train_base", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, default=Path("demo_checkpoint"), help="folder to save in")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch, 1 or more")
    parser.add_argument("--measure_clips", type=int, default=200, help="clips of each split to measure, 1 or more")
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the recipe from the command line, and print its figures as one line of JSON.

    Args:
        arguments: the command line; None takes the process's own.
    """
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    recipe = Recipe(**{name: getattr(options, name) for name in asdict(Recipe())})
    rng = np.random.default_rng(recipe.seed)
    processor = build_processor(split_sentence("train", rng) for _ in range(_TOKENIZER_SENTENCES))
    wall, cpu = time.monotonic(), time.process_time()
    model = train(recipe, processor, synthesise_corpus(processor, recipe))
    minutes = {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
    model.half().save_pretrained(options.output_dir)
    processor.save_pretrained(options.output_dir)
    # The figures are those of the saved, rounded weights.
    saved = WhisperForConditionalGeneration.from_pretrained(options.output_dir, dtype=torch.float32).eval()
    figures = {
        "recipe": asdict(recipe),
        "threads": options.threads,
        "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in saved.parameters()),
        "minutes": {clock: round(seconds / 60, 1) for clock, seconds in minutes.items()},
        "wer": measure_splits(saved, processor, options.measure_clips, seed=1),
        "saved": str(options.output_dir),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
