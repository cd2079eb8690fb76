"""What families.py has to know of a family: a random model of a fixed small shape, its clips and texts, and how a user
without this library scores one hypothesis of each clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from audiorl.batch import GroupBatch
from audiorl.models import SpeechFamily

SAMPLING_RATE = 16_000
SPOKEN = tuple(f"word{i}" for i in range(256))


class FamilyShape(NamedTuple):
    """One line of the table for each K and way."""

    described: str  # what is measured, for the reader
    build: Callable[[], tuple[PreTrainedModel, Any]]  # model without dropout, and processor; the same weights each time
    seconds: float  # of each clip
    text: Callable[[np.random.Generator], str]  # a hypothesis
    separate: Callable[[PreTrainedModel, SpeechFamily, GroupBatch, int], Tensor]  # (B,) log-probabilities of the k-th
    # hypothesis of each clip by a stock forward
    row: Mapping[str, str] = MappingProxyType({})  # what each row says of language and task


def word_tokenizer(*marks: str, **named: Any) -> PreTrainedTokenizerFast:
    """A token for each mark and each word of `SPOKEN`; `marks` have the first ids, "<unk>" and "<pad>" among them."""
    words = {word: i for i, word in enumerate([*marks, *SPOKEN])}
    learner = Tokenizer(WordLevel(words, unk_token="<unk>"))
    learner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=learner, pad_token="<pad>", unk_token="<unk>", **named)


def random_words(count: int) -> Callable[[np.random.Generator], str]:
    return lambda generator: " ".join(generator.choice(list(SPOKEN), count))
