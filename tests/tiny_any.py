"""A tiny model of any kind that writes transcripts, by name; one that says something of a clip."""

from __future__ import annotations

from typing import Any

import torch

from tests.tiny_audio_llms import KINDS as AUDIO_LLMS
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_ctc import KINDS as CTC
from tests.tiny_ctc import tiny_ctc
from tests.tiny_seq2seq import KINDS as SEQ2SEQ
from tests.tiny_seq2seq import tiny_seq2seq
from tests.tiny_transducers import KINDS as TRANSDUCERS
from tests.tiny_transducers import tiny_transducer

# Those whose processor is a whole one, which can be saved and loaded.
KINDS = (*(kind for kind in SEQ2SEQ if kind != "speech2text"), *CTC, *TRANSDUCERS, *AUDIO_LLMS)
# What the others need not be told.
LANGUAGES = {"canary": "de", "cohere_asr": "fr", "qwen3_asr": "english"}


def talkative(kind: str) -> tuple[Any, Any]:
    """A tiny model that says something of a clip, and its processor."""
    if kind in AUDIO_LLMS:
        model, processor = tiny_audio_llm(kind)
        model.generation_config.min_new_tokens = 4
        return model, processor
    build = tiny_ctc if kind in CTC else tiny_transducer if kind in TRANSDUCERS else tiny_seq2seq
    model, processor = build(kind)
    with torch.no_grad():
        if kind in TRANSDUCERS:
            model.joint.head.bias[model.config.blank_token_id] -= 20
            model.joint.head.bias[[processor.tokenizer.unk_token_id, processor.tokenizer.pad_token_id]] -= 20
        elif kind in CTC:
            head = model.lm_head if hasattr(model, "lm_head") else model.ctc_head
            blank = getattr(model.config, "blank_token_id", model.config.pad_token_id)
            marks = [*processor.tokenizer.all_special_ids, blank]  # no trained model writes them
            head.bias[marks] -= 20
        elif kind in ("canary", "cohere_asr"):
            model.proj_out.bias[model.config.eos_token_id] -= 4
    return model, processor
