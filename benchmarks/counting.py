"""What scoring should cost, counted from shapes before anything is measured.

Counts are of Whisper's architecture. They leave out what they cannot know: how fast each operation runs,
softmax and activation functions, memory that one operation needs for a moment.
"""

from __future__ import annotations

from typing import NamedTuple

FLOAT32_BYTES = 4


class Shape(NamedTuple):
    """A Whisper architecture."""

    width: int  # D
    encoder_layers: int
    decoder_layers: int
    heads: int
    feed_forward: int
    mel_bins: int  # M
    positions: int  # S; the mel frames are twice as many
    vocabulary: int  # V


SHAPES = {
    "toy": Shape(32, 2, 2, 2, 64, 20, 50, 211),  # for the tests: one second of audio
    "tiny": Shape(384, 4, 4, 6, 1536, 80, 1500, 51865),
    "small": Shape(768, 12, 12, 12, 3072, 80, 1500, 51865),
    "medium": Shape(1024, 24, 24, 16, 4096, 80, 1500, 51865),
    "large-v3": Shape(1280, 32, 32, 20, 5120, 128, 1500, 51866),
}


class Sharing(NamedTuple):
    """How often a way of scoring does the work that depends on the audio alone."""

    encoded: int  # rows through the encoder
    projected: int  # rows whose cross-attention keys and values are computed
    scored: int  # hypotheses, B * K
    tokens: int  # decoder tokens of each, T
    kept: int  # tokens that reach the vocabulary, all hypotheses together


def sharing(way: str, clips: int, hypotheses: int, tokens: int, kept: int) -> Sharing:
    """The counts of one of the four ways (see scoring.py)."""
    scored = clips * hypotheses
    encoded = clips if way in ("states", "groups") else scored
    projected = clips if way == "groups" else scored
    return Sharing(encoded, projected, scored, tokens, kept)


def forward_flops(shape: Shape, work: Sharing) -> dict[str, float]:
    """Floating-point operations of one forward, a multiplication and an addition counted as two."""
    width, frames = shape.width, shape.positions
    block = 8 * width**2 + 4 * width * shape.feed_forward  # self-attention's four projections and the feed-forward
    convolutions = 6 * width * (2 * frames * shape.mel_bins + frames * width)
    encoder = convolutions + shape.encoder_layers * (frames * block + 4 * frames**2 * width)
    cross = 4 * work.tokens * width**2 + 4 * work.tokens * frames * width
    decoder = shape.decoder_layers * (work.tokens * block + 4 * work.tokens**2 * width + cross)
    return {
        "encoder": work.encoded * encoder,
        "keys and values": work.projected * shape.decoder_layers * 4 * frames * width**2,
        "decoder": work.scored * decoder,
        "head": 2.0 * work.kept * width * shape.vocabulary,
    }


def step_flops(shape: Shape, work: Sharing, *, checkpointing: bool = False) -> float:
    """Forward and backward; a backward counts as two forwards, and checkpointing repeats all but the head."""
    forward = forward_flops(shape, work)
    repeated = sum(forward.values()) - forward["head"] if checkpointing else 0.0
    return 3 * sum(forward.values()) + repeated


def parameters(shape: Shape) -> int:
    """Weights of a model; norms and biases, under one in a hundred, are left out."""
    width, block = shape.width, 4 * shape.width**2 + 2 * shape.width * shape.feed_forward
    layers = shape.encoder_layers * block + shape.decoder_layers * (block + 4 * width**2)
    return layers + width * (shape.vocabulary + 3 * (shape.mel_bins + width))


def peak_bytes(shape: Shape, work: Sharing, *, checkpointing: bool = False, logit_copies: float = 2) -> float:
    """Activations that a backward needs, gradients of all weights included, in float32.

    Of each layer and position the inputs of its norms, projections and activation function are held, and the
    attention's operands; with checkpointing the input of each layer, and everything of the one layer at work.
    Of the head: logits and their log-softmax, or as many tensors of their size as `logit_copies` says.
    """
    width, frames = shape.width, shape.positions
    block = 8 * width + 2 * shape.feed_forward
    encoder_layer, convolutions = frames * block, frames * (4 * width + 2 * width + 2 * shape.mel_bins)
    decoder_layer = work.tokens * (block + 4 * width)
    cross = 2 * frames * width
    if checkpointing:
        encoder = work.encoded * (shape.encoder_layers * frames * width + encoder_layer + convolutions)
        decoder = work.scored * (shape.decoder_layers * work.tokens * width + decoder_layer) + work.projected * cross
    else:
        encoder = work.encoded * (shape.encoder_layers * encoder_layer + convolutions)
        decoder = shape.decoder_layers * (work.scored * decoder_layer + work.projected * cross)
    repeated_states = (work.projected - work.encoded) * frames * width
    head = logit_copies * work.kept * shape.vocabulary
    return FLOAT32_BYTES * (encoder + decoder + repeated_states + head + parameters(shape))


# ---- one ORPO step, and inference (memory.py) ----


def weight_bytes(shape: Shape, *, eight_bit: bool = False, element: int = FLOAT32_BYTES) -> float:
    """Memory of the weights; in 8 bits the layers' matrices, not the embeddings and convolutions."""
    width = shape.width
    kept = width * (shape.vocabulary + 3 * (shape.mel_bins + width))
    return element * kept + (1 if eight_bit else element) * (parameters(shape) - kept)


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Weights of a LoRA on all of the decoder's attention and feed-forward projections."""
    attention = 8 * 2 * shape.width
    return shape.decoder_layers * rank * (attention + 2 * (shape.width + shape.feed_forward))


def adapter_peak_bytes(shape: Shape, work: Sharing, rank: int) -> float:
    """Of a step that trains `adapter_parameters` with checkpointing, in float32: the encoder leaves its states only.

    It is the larger of two moments: the encoder in its widest layer, or the first decoder layer to be run backward,
    while the logits and the inputs of all others are held.
    """
    width, frames = shape.width, shape.positions
    encoder = work.encoded * frames * (3 * width + 2 * shape.feed_forward)
    adapted = 8 * width + 2 * shape.feed_forward + 4 * width + 10 * rank
    layer = work.scored * work.tokens * adapted + work.projected * 2 * frames * (width + rank)
    inputs = work.scored * shape.decoder_layers * work.tokens * width
    decoder = work.projected * frames * width + inputs + layer + work.kept * shape.vocabulary
    return FLOAT32_BYTES * (max(encoder, decoder) + adapter_parameters(shape, rank))


def inference_peak_bytes(shape: Shape, clips: int, tokens: int) -> float:
    """Of greedy decoding above the weights, in float32: the encoder's widest layer, or states and both caches."""
    width, frames = shape.width, shape.positions
    encoder = clips * frames * (3 * width + 2 * shape.feed_forward)
    caches = shape.decoder_layers * 2 * (frames + tokens) * width
    return FLOAT32_BYTES * max(encoder, clips * (caches + frames * width + shape.vocabulary))
