"""Where a clip's hypotheses come from: sampled, searched by beams, or made of the transcript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from audiorl.batch import AUDIO_COMPANIONS, AUDIO_KEYS, GroupBatch
from audiorl.evaluation.transcription import row_settings
from audiorl.models import SpeechFamily
from audiorl.pairs.corruptions import synthetic_negatives
from audiorl.pairs.settings import MiningConfig
from audiorl.rollout import rollout_noise

# A hypothesis this many times as long as its transcript is a loop: it is as wrong as it needs to be and is cut there.
LOOP_LENGTH = 2
LOOP_SLACK = 16

Row = Mapping[str, Any]


class Hypothesis(NamedTuple):
    """One text that somebody might take for the transcript."""

    text: str
    ids: list[int]  # its tokens; none where no model is asked
    score: float  # sum of log-probabilities in nats, or a beam's score; NaN where no model is asked
    origin: str


def model_hypotheses(
    family: SpeechFamily, model: nn.Module, batch: GroupBatch, states: Tensor, config: MiningConfig
) -> list[list[Hypothesis]]:
    """The model's own hypotheses of B clips, each clip encoded once: one list for each clip.

    Args:
        batch: on the model's device, with the transcripts as the only hypothesis.
        states: what the encoder says of the clips.
    """
    limits = LOOP_LENGTH * batch.keep.sum(-1) + LOOP_SLACK  # (B, 1), each clip's own, whatever lies beside it
    found: list[list[Hypothesis]] = [[] for _ in range(len(batch.row_ids))]
    for draw, temperature in enumerate(config.temperature):
        if config.source == "beams":
            beams = family.beam_groups(
                model,
                batch,
                config.num_generations,
                states,
                max_tokens=int(limits.max()),
                temperature=temperature,
            )
            tokens, keep, scores = beams.tokens, beams.keep, beams.scores
        else:
            noise = _noise(family, batch, int(limits.max()), draw, config)
            samples = family.sample_groups(model, batch, noise, states, temperature=temperature)
            tokens, keep, scores = samples.tokens, samples.keep, samples.logps.double().sum(-1)
        within = keep & (keep.cumsum(-1) <= limits[..., None])
        origin = f"{config.source.removesuffix('s')}@{temperature:g}"
        for clip, texts in enumerate(family.text(tokens, within)):
            ids = [row[kept].tolist() for row, kept in zip(tokens[clip, :, 1:], within[clip], strict=True)]
            made = zip(texts, ids, scores[clip].tolist(), strict=True)
            found[clip] += [Hypothesis(text, own, score, origin) for text, own, score in made]
    return found


def _noise(family: SpeechFamily, batch: GroupBatch, max_tokens: int, draw: int, config: MiningConfig) -> Tensor:
    noise = rollout_noise(
        batch.row_ids.tolist(),
        seed=config.seed,
        step=draw,
        num_generations=config.num_generations,
        max_tokens=family.noise_length(batch, max_tokens),
    )
    return noise.to(batch.tokens.device)


def corrupted_hypotheses(row: Row, config: MiningConfig) -> list[Hypothesis]:
    """Synthetic negatives of one row, their randomness drawn from the seed and the row's number."""
    made = synthetic_negatives(
        row["text"],
        count=config.num_generations,
        seed=f"{config.seed} {row['row_id']}",
        language=row.get("language") or config.language,
        keywords=row.get("keywords"),
        kinds=config.corruptions,
        normalise=config.normalise,
    )
    return [Hypothesis(text, [], float("nan"), kind) for text, kind in made]


@torch.no_grad()
def decoded_texts(family: SpeechFamily, model: nn.Module, batch: GroupBatch, rows: Sequence[Row]) -> list[str]:
    """What the model says of B clips as its generation config tells it to."""
    audio = {name: batch.tensors[name] for name in (*AUDIO_KEYS, *AUDIO_COMPANIONS) if name in batch}
    return family.transcribe(model, audio, **row_settings(rows, family))
