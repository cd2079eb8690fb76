"""A stand-in for the video processor that Qwen-Omni's processors hold; transformers has one only with torchvision.

Why: torchvision belongs to one build of torch, and nothing here looks at videos. Where it is installed, transformers'
own is used; where it is missing, this one is saved and loaded in its place and sees nothing.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import processing_utils
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto import video_processing_auto
from transformers.utils import is_torchvision_available


class BlindVideoProcessor(BaseImageProcessor):
    """Holds its place in a processor."""

    model_input_names = ("pixel_values_videos",)
    merge_size, temporal_patch_size = 2, 2


class AutoBlindVideoProcessor:
    """`AutoVideoProcessor` without torchvision."""

    @staticmethod
    def from_pretrained(name: str, **options: Any) -> BlindVideoProcessor:
        return BlindVideoProcessor()


def video_processor() -> Any:
    """A processor of videos; from here on transformers takes the stand-in where torchvision is missing."""
    if is_torchvision_available():
        return transformers.Qwen2VLVideoProcessor()
    for name in ("BaseVideoProcessor", "VideoProcessorMixin"):  # what processors ask for, of either release
        setattr(processing_utils.transformers_module, name, BlindVideoProcessor)
    video_processing_auto.AutoVideoProcessor = AutoBlindVideoProcessor
    return BlindVideoProcessor()
