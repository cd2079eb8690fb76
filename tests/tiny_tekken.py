"""A tekken tokenizer of bytes and a few pairs of bytes, and what Voxtral's own processor makes of a row with it."""

from __future__ import annotations

import atexit
import base64
import functools
import io
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from transformers.tokenization_mistral_common import MistralCommonBackend

from tests.tiny_models import SAMPLING_RATE, SENTENCES

# Seconds of a chunk; the released models' are 30.
CHUNK_SECONDS = 2
FRAMES = 100 * CHUNK_SECONDS
NUM_SPECIAL, NUM_PAIRS = 40, 24
# Marks at the ranks they have in the released tokenizers; transformers' processor knows the audio's by its number.
MARKS = dict(
    enumerate(
        "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] "
        "[TOOL_CALLS] [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] "
        "[TOOL_CONTENT]".split()
    )
) | {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 32: "[ARGS]", 33: "[CALL_ID]", 34: "[TRANSCRIBE]"}


@functools.cache
def tekken_file(chunk_seconds: float = CHUNK_SECONDS) -> Path:
    """The file of the tokenizer, which stays until the process ends: processors are saved by copying it."""
    said = Counter(pair for text in SENTENCES for word in text.split() for pair in pairwise(word.encode()))
    pieces = [bytes([i]) for i in range(256)] + [bytes(pair) for pair, _ in said.most_common(NUM_PAIRS)]
    written = {
        "config": {
            "pattern": r" ?\S+|\s+",
            "num_vocab_tokens": len(pieces),
            "default_vocab_size": len(pieces) + NUM_SPECIAL,
            "default_num_special_tokens": NUM_SPECIAL,
            "version": "v11",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for i, piece in enumerate(pieces)
        ],
        "special_tokens": [
            {"rank": i, "token_str": MARKS.get(i, f"<SPECIAL_{i}>"), "is_control": True} for i in range(NUM_SPECIAL)
        ],
        "audio": {
            "sampling_rate": SAMPLING_RATE,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": 16, "hop_length": 160, "window_size": 400},
            "chunk_length_s": chunk_seconds,
        },
    }
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "tekken.json"
    path.write_text(json.dumps(written))
    return path


def tekken_tokenizer(chunk_seconds: float = CHUNK_SECONDS) -> MistralCommonBackend:
    return MistralCommonBackend(tekken_file(chunk_seconds))


def voxtral_inputs(processor: Any, clip: np.ndarray, row: Mapping[str, Any], **chunks: Any) -> dict[str, Any]:
    """What the stock processor makes of a clip and its row.

    Args:
        clip: mono, at 16 kHz; of 16 bits, which is what a transcription request holds.
        chunks: `pad_to_multiple_of` and `max_source_positions` where they are not the tiny model's.
    """
    options = {"audio_kwargs": chunks or {"pad_to_multiple_of": FRAMES * 160, "max_source_positions": FRAMES}}
    if not row.get("prompt"):
        given = {"model_id": "tiny", "sampling_rate": SAMPLING_RATE, "format": "wav"}
        return processor.apply_transcription_request(audio=clip, language=row.get("language"), **given, **options)
    file = io.BytesIO()
    soundfile.write(file, clip, SAMPLING_RATE, format="wav", subtype="FLOAT")
    heard = {"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()}
    turn = {"role": "user", "content": [heard, {"type": "text", "text": row["prompt"]}]}
    return processor.apply_chat_template([turn], processor_kwargs=options)
