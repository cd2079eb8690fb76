"""The folder in which the code of a page runs: clips, rows, and tiny models under the names of large ones.

Models lie under their Hub names, `openai/whisper-small` beneath the working folder, so the code stands as a reader
would run it: transformers takes a folder of that name before it asks the Hub.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from audiorl.datasets import speech_rows
from tests.datasets.corpus_copies import write_copy
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper
from tests.tiny_seq2seq import tiny_seq2seq
from tests.tiny_transducers import tiny_transducer
from tests.trainers.pair_rows import CHOSEN, REJECTED

CLIPS = 4
CALL_SAMPLES = 9600
SPEAKERS = ("ana", "ana", "ben", "ben")
LABELS = ("one", "two", "one", "two")
# how a Hub name begins -> what stands there; the first that fits
MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    r"openai/whisper-[\w-]+\.en": functools.partial(tiny_whisper, "english"),
    r"openai/whisper-": functools.partial(tiny_whisper, "multilingual"),
    r"distil-whisper/": functools.partial(tiny_whisper, "multilingual"),
    r"UsefulSensors/moonshine-": functools.partial(tiny_seq2seq, "moonshine"),
    r"facebook/s2t-": functools.partial(tiny_seq2seq, "speech2text"),
    r"facebook/wav2vec2-": functools.partial(tiny_ctc, "wav2vec2"),
    r"facebook/hubert-": functools.partial(tiny_ctc, "hubert"),
    r"microsoft/wavlm-": functools.partial(tiny_ctc, "wavlm"),
    r"nvidia/parakeet-ctc-": functools.partial(tiny_ctc, "parakeet"),
    r"nvidia/parakeet-tdt-": functools.partial(tiny_transducer, "parakeet_tdt"),
    r"Qwen/Qwen3-ASR-": functools.partial(tiny_audio_llm, "qwen3_asr"),
    r"Qwen/Qwen2-Audio-": functools.partial(tiny_audio_llm, "qwen2_audio"),
    r"Qwen/Qwen2\.5-Omni-": functools.partial(tiny_audio_llm, "qwen2_5_omni"),
    r"zai-org/GLM-ASR-": functools.partial(tiny_audio_llm, "glm_asr"),
    r"superb/wav2vec2-": functools.partial(tiny_classifier, "wav2vec2-group"),
    r"superb/hubert-": functools.partial(tiny_classifier, "hubert-layer"),
    r"MIT/ast-": functools.partial(tiny_classifier, "ast"),
}
# Hub name of a data set -> its rows
DATA_SETS = {"my-org/pairs": "pairs.jsonl", "my-org/speech": "train.jsonl"}
# corpus -> column of its transcripts or labels, places of its splits in a copy, their values
COPIES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "librispeech": (
        "text",
        tuple(f"all/{split}/0" for split in ("train.clean.100", "train.clean.360", "train.other.500", "test.clean")),
        ("THE LAZY DOG", "ALL YEAR"),
    ),
    "fleurs": ("raw_transcription", ("de_de/train/0", "de_de/test/0"), ("der braune Fuchs", "der Hund")),
    "speech_commands": ("label", ("train-0", "validation-0", "test-0"), ("one", "two")),
}


def write_rows(folder: Path) -> None:
    """`clips/`, `train.jsonl`, `pairs.jsonl`, `held_out.jsonl` and `labels.jsonl`, four short clips each; a call."""
    (folder / "clips").mkdir()
    (folder / "calls").mkdir()
    agent, customer = (clip[:CALL_SAMPLES] for clip in tiny_clips(2))
    soundfile.write(folder / "calls/0001.wav", np.stack([agent, customer], axis=1), SAMPLING_RATE, subtype="ULAW")
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "pairs": [], "held_out": [], "labels": []}
    for i, clip in enumerate(tiny_clips(CLIPS)):
        audio = {"audio": f"clips/{i + 1:04}.wav"}
        soundfile.write(folder / audio["audio"], clip, SAMPLING_RATE)
        spoken = {"text": CHOSEN[i], "speaker": SPEAKERS[i], "language": "english"}
        rows["train"].append({**audio, **spoken, "keywords": CHOSEN[i].split()[-1:]})
        rows["held_out"].append({**audio, **spoken})
        rows["pairs"].append({**audio, "chosen": CHOSEN[i], "rejected": REJECTED[i], "language": "english"})
        rows["labels"].append({**audio, "label": LABELS[i], "text": LABELS[i]})
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def save_data_sets(folder: Path, code: str) -> None:
    """Those of `DATA_SETS` that the code names."""
    for name, rows in DATA_SETS.items():
        if name in code:
            speech_rows(str(folder / rows)).save_to_disk(folder / name)


def link_models(folder: Path, code: str, saved: Path) -> None:
    """Put a tiny model where the code names one of `MODELS`.

    Args:
        saved: a folder that keeps them for the next page.
    """
    for name in set(re.findall(r"[\w-]+/[\w.-]*\w", code)):
        if (kind := next((kind for kind in MODELS if re.match(kind, name)), None)) is not None:
            place = saved / re.sub(r"\W", "_", kind)
            if not place.exists():
                for part in MODELS[kind]():
                    part.save_pretrained(place)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(place)


def write_copies(folder: Path, code: str) -> None:
    """Copies of the corpora that the code names, for $AUDIORL_CORPORA."""
    for name, (column, places, values) in COPIES.items():
        if re.search(rf"\b{name}\b", code):
            for place in places:
                write_copy(folder / name, name, place, [{column: value} for value in values])
