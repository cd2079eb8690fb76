"""Greedy word error rate of a checkpoint on demo rows."""

from __future__ import annotations

from typing import Any

import jiwer
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

__all__ = ["transcribe_rows", "word_error_rate"]


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
