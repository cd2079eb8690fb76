"""Voxtral: a Whisper tower over chunks of 30 s, a Llama behind it, and requests that mistral-common writes as tokens.

    to transcribe  <s> [INST] [BEGIN_AUDIO] [AUDIO] ... [/INST] lang:en [TRANSCRIBE] transcript </s>
    a question     <s> [INST] [BEGIN_AUDIO] [AUDIO] ... question [/INST] answer </s>

A clip is padded with silence to whole chunks. The tower encodes every chunk separately, padding included, and the
language model reads the embeddings of all chunks, so clips may be longer than one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.tokenization_mistral_common import MistralCommonBackend
from transformers.utils import is_mistral_common_available

from audiorl.batch import GroupBatch
from audiorl.models.audio_llm import AudioLLMFamily
from audiorl.models.forward import base_model
from audiorl.text.languages import language_code

# Mel frames for each position of the tower: its second convolution takes every other one.
FRAMES_PER_POSITION = 2


class TokenizerWithItsFile(MistralCommonBackend):
    """mistral-common's tokenizer; it is saved from the bytes of its file that `keep_file` read.

    transformers copies the file that the tokenizer was loaded from whenever a checkpoint is saved. By then the file may
    be gone, for instance with the checkpoint that tuning continued from.
    """

    _tokenizer_path: Path
    file_bytes: bytes

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> tuple[str, ...]:
        """As transformers' own: `save_format`, `push_to_hub` and so on."""
        loaded_from = self._tokenizer_path
        with tempfile.TemporaryDirectory() as folder:
            self._tokenizer_path = Path(folder) / loaded_from.name
            self._tokenizer_path.write_bytes(self.file_bytes)
            try:
                return super().save_pretrained(save_directory, *args, **options)
            finally:
                self._tokenizer_path = loaded_from


def keep_file(tokenizer: MistralCommonBackend) -> None:
    """Make `tokenizer` savable without its file, in place: users and trainers save it with its processor.

    Raises:
        ValueError: the file is already gone.
    """
    if isinstance(tokenizer, TokenizerWithItsFile):
        return
    path = tokenizer._tokenizer_path
    try:
        file_bytes = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(
            f"the file of Voxtral's tokenizer, {path}, is gone, and no checkpoint can be saved without it. Load the "
            f"processor with AutoProcessor.from_pretrained from a checkpoint that holds {path.name}."
        ) from error
    tokenizer.__class__ = TokenizerWithItsFile
    tokenizer.file_bytes = file_bytes


class VoxtralFamily(AudioLLMFamily):
    """Voxtral. The row's `prompt` is the user's question or instruction; it replaces the request to transcribe.

    Only the request to transcribe names a language; without one the model finds it by itself. mistral-common reads no
    marks in texts and prompts: "</s>" is four characters there.
    """

    def __init__(self, model: nn.Module, processor: Any):
        self.require_packages()
        if not isinstance(processor.tokenizer, MistralCommonBackend):
            raise ValueError(
                f"{type(processor.tokenizer).__name__} cannot write Voxtral's requests: they are mistral-common's. "
                "Load the processor with AutoProcessor.from_pretrained from a checkpoint that holds tekken.json."
            )
        keep_file(processor.tokenizer)
        super().__init__(model, processor)
        tower = base_model(model).config.audio_config
        self.chunk_frames = FRAMES_PER_POSITION * tower.max_source_positions
        # neighbouring states that fill the projector's input become one embedding
        self.chunk_tokens = tower.max_source_positions * tower.hidden_size // tower.intermediate_size

    @classmethod
    def require_packages(cls) -> None:
        if not is_mistral_common_available():
            raise ImportError(
                "Voxtral's tokenizer is mistral-common's, which is not installed here, or in a version too old for "
                'transformers. Run: pip install "audiorl[voxtral]"'
            )

    @classmethod
    def load_processor(cls, name: str) -> Any:
        cls.require_packages()
        return super().load_processor(name)

    # ---- data ----

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`input_features` (B, M, L), whole chunks of frames, and `audio_tokens` (B,), the embeddings of each clip."""
        heard = [self._spectrogram(clip) for clip in clips]
        chunks = [spectrogram.shape[-1] // self.chunk_frames for spectrogram in heard]
        return {
            "input_features": pad_sequence([spectrogram.mT for spectrogram in heard], batch_first=True).mT,
            "audio_tokens": torch.tensor(chunks) * self.chunk_tokens,
        }

    def _spectrogram(self, clip: np.ndarray) -> Tensor:
        """(M, chunks * frames). One clip at a time: the loudest place of all chunks of a clip sets its floor."""
        extractor = self.processor.feature_extractor
        made = extractor(
            clip,
            sampling_rate=self.sampling_rate,
            padding=True,
            truncation=False,
            pad_to_multiple_of=self.chunk_frames * extractor.hop_length,
            return_tensors="pt",
        )
        return made["input_features"][0]

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        """`prefix_ids` as text, for reading only: no text can be tokenized into its marks again."""
        return self.tokenizer.decode(self.prefix_ids(language, prompt))

    def prefix_ids(self, language: str | None, prompt: str | None) -> list[int]:
        ids = self._question(prompt) if prompt else self._transcription(language)
        # the request holds silence, with a placeholder for each of its embeddings; one is left
        return [ids[0], *(i for before, i in pairwise(ids) if (before, i) != (self.audio_token_id,) * 2)]

    def _question(self, prompt: str) -> list[int]:
        content = [{"type": "audio", "base64": self._silence()}, {"type": "text", "text": prompt}]
        return self.tokenizer.apply_chat_template([{"role": "user", "content": content}], return_dict=False)

    def _transcription(self, language: str | None) -> list[int]:
        from mistral_common.protocol.transcription.request import TranscriptionRequest

        code = language_code(language) if language else None
        try:
            request = TranscriptionRequest(audio=self._silence(), language=code)
        except ValueError as error:  # nothing but the language is the row's
            raise ValueError(
                f"unknown language {language!r}: Voxtral is told the language by a code of two letters (ISO 639-1). "
                "Use one, or its name in English, or leave the language out"
            ) from error
        return self.tokenizer.tokenizer.encode_transcription(request).tokens

    def _silence(self) -> str:
        """The shortest WAV file there is, in base64."""
        from mistral_common.tokens.tokenizers.audio import Audio

        return Audio(np.zeros(1, dtype=np.float32), self.sampling_rate, "wav").to_base64("wav")

    # ---- weights ----

    def _audio_embeddings(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        chunks = batch.audio.unflatten(-1, (-1, self.chunk_frames)).transpose(1, 2)  # (B, chunks, M, frames)
        counts = batch.tensors["audio_tokens"] // self.chunk_tokens
        own = torch.arange(chunks.shape[1], device=counts.device) < counts[:, None]
        return base.get_audio_features(chunks[own], return_dict=True).pooler_output
