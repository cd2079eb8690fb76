"""`audiorl history`: rows with what was said before their clips.

    audiorl history --dataset_name talks.jsonl --recording_column talk --output with_history.jsonl
    audiorl history --dataset_name talks.jsonl --model_name_or_path openai/whisper-small --output with_history.jsonl

With a model it also writes `history_hypothesis`: the model decodes each recording behind its own hypotheses.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass
class HistoryArguments:
    """Which rows, which model, and how much of what was said before."""

    dataset_name: str = field(metadata={"help": "File or folder of any form, Hub name or corpus with audio and text."})
    output: str = field(metadata={"help": "JSONL file to write, which must not be there yet."})
    split: str | None = field(default=None, metadata={"help": "Split of the rows, if there are several."})
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns with other names than ours, as ours=theirs: audio=audio_filepath text=sentence."},
    )
    limit: int | None = field(default=None, metadata={"help": "Take at most this many rows, the first ones."})
    recording_column: str = field(
        default="recording",
        metadata={"help": "Column that tells recordings apart. Their clips stand in the order they were spoken in."},
    )
    text_column: str = field(default="text", metadata={"help": "Column of the transcripts."})
    history_clips: int = field(
        default=2, metadata={"help": "How many clips before make a history, at least 1. (2 in arXiv:2603.24034)"}
    )
    history_characters: int | None = field(
        default=None,
        metadata={
            "help": "At most this many characters of a history: whole words, the latest; what is cut is counted and "
            "told. Whisper reads 223 tokens, about 800 letters of English. Unset: nothing is cut."
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint or adapter that writes history_hypothesis: usually the one that is to be tuned. Unset: "
            "history alone, from the transcripts."
        },
    )
    family: str | None = field(
        default=None, metadata={"help": "A family of your own for the model, by its dotted path: my_module.MyFamily."}
    )
    dtype: str = field(default="float32", metadata={"help": "Type of the weights: float32, bfloat16, float16, auto."})
    device: str | None = field(default=None, metadata={"help": "Where it decodes. Unset: a GPU if there is one."})
    batch_size: int = field(default=16, metadata={"help": "Clips decoded at once, of different recordings."})
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Most tokens of a hypothesis. Unset: the generation config's."}
    )
    language: str | None = field(
        default=None, metadata={"help": "Language of rows that name none. Unset: the processor's."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows and say how many; see the flags.

    Raises:
        ValueError, OSError: what the user can mend, in three parts.
    """
    from audiorl.flags import parse

    (flags,) = parse((HistoryArguments,), (), argv)
    if os.path.exists(flags.output):
        raise ValueError(f"{flags.output} exists already. Choose another --output, or remove it.")
    if flags.limit is not None and flags.limit < 1:
        raise ValueError(f"--limit is how many rows to take, 1 or more; got {flags.limit}. Leave it out to take all.")
    from audiorl.datasets import export_rows, register_corpus, speech_rows
    from audiorl.datasets.corpora import first_rows
    from audiorl.demo import DemoSpeech
    from audiorl.evaluation.history import add_history

    register_corpus(DemoSpeech(), replace=True)
    rows = first_rows(speech_rows(flags.dataset_name, split=flags.split, columns=flags.columns), flags.limit)
    model, processor, family = _model(flags)
    found = add_history(
        rows,
        model,
        processor,
        recording_column=flags.recording_column,
        text_column=flags.text_column,
        clips=flags.history_clips,
        characters=flags.history_characters,
        batch_size=flags.batch_size,
        max_new_tokens=flags.max_new_tokens,
        family=family,
    )
    export_rows(found.rows, flags.output)
    print(f"{found}\nThe rows lie in {flags.output}")


def _model(flags: HistoryArguments) -> tuple[nn.Module | None, Any, Any]:
    """Model, processor and family; three times None where only transcripts are asked for."""
    if flags.model_name_or_path is None:
        return None, None, None
    import torch

    from audiorl.models import speech_family, use_family
    from audiorl.trainers.loading import load_checkpoint, load_processor

    if flags.family is not None:
        use_family(flags.family)
    model = load_checkpoint(flags.model_name_or_path, {"dtype": flags.dtype})
    processor = load_processor(None, model)
    family = speech_family(model, processor)
    family.set_defaults(language=flags.language)
    return model.to(flags.device or ("cuda" if torch.cuda.is_available() else "cpu")), processor, family
