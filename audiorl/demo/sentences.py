"""Sentences of three to eight lower-case words from a small grammar full of words that sound alike.

The vocabulary is chosen for near neighbours (thirteen/thirty, pan/pen/pin, ann/dan/jan), so that a recogniser
that hears badly makes real, varied mistakes. Every possible sentence belongs to exactly one split, by a
checksum of its text: splits share no sentence, whatever the seeds and counts.
"""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["SPLIT_SHARES", "VOCABULARY", "random_sentence", "split_of", "split_sentence"]

_LEXICON: dict[str, str] = {
    "NAME": (
        "ann dan jan stan fran tim jim kim ben ken jen bill jill phil harry barry larry carrie "
        "molly polly holly joan john jane peter rita"
    ),
    "DIGIT": "one two three four five six seven eight nine",
    "TEEN": "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen",
    "TENS": "twenty thirty forty fifty sixty seventy eighty ninety",
    "COLOUR": "red green grey blue black white brown pink gold yellow",
    "ADJECTIVE": "old cold big thick thin tall small cheap deep clean clear light bright",
    "THING": (
        "box fox book hook bell ball bowl hat cat bat mat cap cup pen pan pin bin boat coat goat note "
        "pear chair ship chip shop key bee light kite plate crate cake rake"
    ),
    "THINGS": (
        "boxes foxes books hooks bells balls bowls hats cats bats mats caps cups pens pans pins bins boats "
        "coats goats notes pears chairs ships chips shops keys bees lights kites plates crates cakes rakes"
    ),
    "PLACE": "paris boston austin berlin dublin london rome spain norway madrid milan japan delhi lima",
    "DAY": "monday sunday tuesday thursday friday saturday wednesday",
    "ORDER": "bring send lend sell show take give",
    "FIND": "count find fetch hide paint pack",
    "MOVE": "drive fly walk sail ride",
    "WHERE": "under behind beside near over in on",
    "SWITCH": "on off",
    "PAST": "half quarter ten twenty",
}

# Weights give the plain number templates, where neighbours are hardest to tell apart, their share.
_TEMPLATES: tuple[tuple[float, str], ...] = (
    (2.0, "ORDER NUMBER COLOUR THINGS to NAME"),
    (2.0, "NAME sold|bought|lost|found NUMBER THINGS in PLACE"),
    (1.5, "put the COLOUR THING WHERE the THING"),
    (1.0, "call NAME at PAST past DIGIT"),
    (1.5, "the ADJECTIVE THING is WHERE the ADJECTIVE THING"),
    (1.0, "meet NAME in PLACE on DAY"),
    (1.0, "NAME and NAME MOVE to PLACE on DAY"),
    (0.5, "turn the COLOUR light SWITCH"),
    (1.0, "FIND NUMBER THINGS"),
    (1.0, "FIND the ADJECTIVE COLOUR THING"),
    (0.5, "where is NAME"),
    (1.0, "dial DIGIT DIGIT DIGIT DIGIT"),
    (1.0, "NAME paid NUMBER in PLACE"),
    (1.0, "tell NAME to FIND the THINGS"),
    (1.0, "NAME made NAME a COLOUR THING"),
)

_SLOTS = {slot: tuple(words.split()) for slot, words in _LEXICON.items()}
_NUMBERS = ("DIGIT", "TEEN", "TENS", "TENS DIGIT")
_CUMULATIVE = np.cumsum([weight for weight, _ in _TEMPLATES]) / sum(weight for weight, _ in _TEMPLATES)

VOCABULARY: tuple[str, ...] = tuple(
    sorted(
        {word for words in _SLOTS.values() for word in words}
        | {
            word
            for _, template in _TEMPLATES
            for part in template.split()
            for word in part.split("|")
            if part.lower() == part
        }
    )
)

# Shares of all sentences, in per cent, in this order: `train` and `base` are spoken by the same voices.
SPLIT_SHARES: dict[str, int] = {"train": 60, "base": 10, "tune": 15, "held_out": 15}


def random_sentence(rng: np.random.Generator) -> str:
    """Draw a sentence of three to eight lower-case words.

    Args:
        rng: the only source of randomness.

    Returns:
        The sentence, words separated by single spaces.
    """
    template = _TEMPLATES[int(np.searchsorted(_CUMULATIVE, rng.random(), side="right"))][1]
    return " ".join(_fill(part, rng) for part in template.split())


def _fill(part: str, rng: np.random.Generator) -> str:
    """One word, or one number of one or two words, for a part of a template."""
    if part == "NUMBER":
        kind = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
        return " ".join(_fill(slot, rng) for slot in kind.split())
    words = _SLOTS.get(part) or part.split("|")
    return words[int(rng.integers(len(words)))]


def split_of(sentence: str) -> str:
    """The one split a sentence belongs to.

    Args:
        sentence: any text.

    Returns:
        A key of `SPLIT_SHARES`.
    """
    percentile = zlib.crc32(sentence.encode()) % 100
    for split, share in SPLIT_SHARES.items():
        percentile -= share
        if percentile < 0:
            return split
    raise AssertionError("SPLIT_SHARES must sum to 100")


def split_sentence(split: str, rng: np.random.Generator) -> str:
    """Draw a sentence that belongs to `split`.

    Args:
        split: a key of `SPLIT_SHARES`.
        rng: the only source of randomness.

    Returns:
        The sentence.

    Raises:
        ValueError: there is no such split.
    """
    if split not in SPLIT_SHARES:
        raise ValueError(
            f"The demo has no split {split!r} (audiorl.demo.sentences). Choose one of {list(SPLIT_SHARES)}."
        )
    while True:
        sentence = random_sentence(rng)
        if split_of(sentence) == split:
            return sentence
