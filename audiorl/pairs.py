"""Preference pairs from plain transcribed audio: the transcript against the model's own worst hypothesis.

1. Sample K hypotheses for each clip, the clip encoded once.
2. Count each one's word errors against the transcript.
3. The transcript is chosen, the hypothesis with the highest error rate is rejected. Empty hypotheses and those too long
   for the decoder cannot be; a clip that has no other wrong ones gives no pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm

from audiorl.batch import GroupBatch
from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, SkippedRows, check_rows, drop_bad_rows, iterate_batches, speech_rows
from audiorl.evaluation import count_errors
from audiorl.evaluation.transcription import evaluation_mode
from audiorl.models import SpeechFamily, speech_family
from audiorl.rollout import rollout_noise

# A hypothesis this many times as long as its transcript is a loop: it is as wrong as it needs to be and is cut there.
LOOP_LENGTH = 2
LOOP_SLACK = 16


@dataclass
class MinedPairs:
    """What `mine_pairs` found.

    Attributes:
        rows: rows with `chosen`, `rejected` and `rejected_wer` beside the columns they came with.
        clips: how many clips were listened to.
        mean_wer: mean error rate of all sampled hypotheses, a fraction.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    clips: int = 0
    mean_wer: float = 0.0

    def __str__(self) -> str:
        share = len(self.rows) / max(self.clips, 1)
        return (
            f"{len(self.rows)} pairs from {self.clips} clips ({share:.0%}); the sampled hypotheses have "
            f"{self.mean_wer:.1%} WER"
        )


def mine_pairs(
    model: nn.Module,
    processor: Any,
    rows: Any,
    *,
    num_generations: int = 8,
    temperature: float = 1.0,
    batch_size: int = 8,
    normalise: str = "basic",
    unit: str = "auto",
    seed: int = 0,
    progress: bool = True,
    family: SpeechFamily | None = None,
    skipped: SkippedRows | None = None,
) -> MinedPairs:
    """Pair every clip's transcript with the worst of K hypotheses sampled from the model.

    Args:
        model: the model that is going to be tuned, so that the errors are its own.
        processor: its processor.
        rows: whatever `speech_rows` takes, with `audio` and `text`.
        num_generations: K >= 1 hypotheses for each clip.
        temperature: > 0; higher gives worse hypotheses.
        batch_size: clips sampled at once.
        normalise, unit: how hypotheses are compared with transcripts, see `audiorl.evaluation.count_errors`.
        family: the model's family; None asks `speech_family`.
        seed: >= 0; the same seed gives the same pairs, whatever the batch size, up to rounding.
        skipped: where rows that cannot be used are written and left out; None refuses them. What shows only when a
            clip is decoded, and every row of a stream, is refused when it comes.

    Raises:
        BadRowsError: rows without usable audio or text, all of them, before anything is sampled.
        ValueError: num_generations or temperature out of range.
    """
    if num_generations < 1 or not temperature > 0:
        raise ValueError(
            f"mine_pairs samples num_generations >= 1 hypotheses at a temperature > 0; got {num_generations} and "
            f"{temperature}. Use 8 and 1.0 to begin with."
        )
    family = family or speech_family(model, processor)
    collate = SpeechCollator(family, text_columns=("text",))
    mined = MinedPairs()
    total_wer = 0.0
    known = _usable_rows(speech_rows(rows), family, skipped)
    bar = tqdm(
        desc="Mining pairs",
        unit="clip",
        total=len(known) if hasattr(known, "__len__") else None,
        disable=not progress,
    )
    with bar, evaluation_mode(model):
        for some in iterate_batches(known, batch_size):
            batch = collate(some)
            hypotheses = _sample_texts(family, model, batch, num_generations, temperature, seed)
            for row, texts in zip(some, hypotheses, strict=True):
                rates = [count_errors([row["text"]], [text], unit=unit, normalise=normalise).wer for text in texts]
                total_wer += sum(rates)
                mined.clips += 1
                pair = _pair(family, row, texts, rates)
                if pair is not None:
                    mined.rows.append(pair)
            bar.update(len(some))
    mined.mean_wer = total_wer / max(mined.clips * num_generations, 1)
    return mined


def _usable_rows(rows: Any, family: SpeechFamily, skipped: SkippedRows | None) -> Any:
    if not isinstance(rows, Dataset):
        return rows
    faults = check_rows(
        rows, text_columns=("text",), tokenize=family.tokenize_row, max_seconds=family.max_seconds, distinct=False
    )
    if faults and skipped is None:
        raise BadRowsError(faults)
    return drop_bad_rows(rows, faults, skipped)


def _sample_texts(
    family: SpeechFamily,
    model: nn.Module,
    batch: GroupBatch,
    num_generations: int,
    temperature: float,
    seed: int,
) -> list[list[str]]:
    limits = LOOP_LENGTH * batch.keep.sum(-1) + LOOP_SLACK  # (B, 1), each clip's own, whatever lies beside it
    length = family.noise_length(batch, int(limits.max()))
    noise = rollout_noise(
        batch.row_ids.tolist(),
        seed=seed,
        step=0,
        num_generations=num_generations,
        max_tokens=length,
    )
    device = next(model.parameters()).device
    on_device = GroupBatch({name: tensor.to(device) for name, tensor in batch.items()})
    with torch.no_grad():
        samples = family.sample_groups(model, on_device, noise.to(device), temperature=temperature)
    within = samples.keep.cumsum(-1) <= limits[..., None].to(device)
    return family.text(samples.tokens, samples.keep & within)


def _pair(family: SpeechFamily, row: dict[str, Any], texts: list[str], rates: list[float]) -> dict[str, Any] | None:
    """The row with its worst hypothesis that says anything; None where every one of them is right or unusable."""
    wrong = [(rate, text) for rate, text in zip(rates, texts, strict=True) if rate > 0 and text.strip()]
    usable = [found for found in wrong if _can_be_scored(family, found[1], row)]
    if not usable:
        return None
    rate, worst = max(usable, key=lambda found: found[0])
    columns = {name: value for name, value in row.items() if name not in ("where", "row_id")}
    return {**columns, "chosen": row["text"], "rejected": worst, "rejected_wer": rate}


def _can_be_scored(family: SpeechFamily, text: str, row: dict[str, Any]) -> bool:
    """A loop may need more tokens as text than it was sampled with, and then more than the decoder has."""
    try:
        family.tokenize_row(text, row)
    except ValueError:
        return False
    return True
