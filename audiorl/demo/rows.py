"""The demo's data: rows of synthetic speech, made when asked for.

Sentences of three to eight lower-case words from a small grammar full of words that sound alike.

The vocabulary is chosen for near neighbours (thirteen/thirty, pan/pen/pin, ann/dan/jan), so that a recogniser
that hears badly makes real, varied mistakes. Every possible sentence belongs to exactly one split, by a
checksum of its text: splits share no sentence, whatever the seeds and counts.

Who speaks in which split, and under which conditions.

The speakers (espeak-ng variants) of the three splits are disjoint, and none of them babbles in the background; the
three accents are shared. `base` is what the shipped checkpoint was trained on: many speakers, hardly any noise.
`tune` and `held_out` share the kinds of difficulty (noise it never heard, room, faster speech), and no speaker.

Every random number of noise and rooms comes from the caller's generator.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar

import numpy as np
from tqdm.auto import tqdm

from audiorl.augment.transforms import pink_noise, white_noise
from audiorl.demo.synthesiser import SAMPLING_RATE, Synthesiser, Voice

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
        raise ValueError(f"The demo has no split {split!r} (audiorl.demo.rows). Choose one of {list(SPLIT_SHARES)}.")
    while True:
        sentence = random_sentence(rng)
        if split_of(sentence) == split:
            return sentence


def _cross(accents: tuple[str, ...], variants: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{accent}+{variant}" for accent, variant in product(accents, variants))


@dataclass(frozen=True)
class Split:
    """The speakers of a split and the conditions they speak under.

    Args:
        voices: espeak-ng voice names.
        rate: lowest and highest speaking rate, words per minute.
        pitch: lowest and highest pitch, 0 to 99.
        noisy: share of clips with noise added, 0 to 1.
        snr_db: lowest and highest signal-to-noise ratio of those, decibels.
        reverberant: share of clips in a room, 0 to 1.
    """

    voices: tuple[str, ...]
    rate: tuple[int, int]
    pitch: tuple[int, int]
    noisy: float
    snr_db: tuple[float, float]
    reverberant: float


BABBLE_VOICES = _cross(("en-us", "en-gb-scotland"), ("Alex", "steph2", "max"))

_ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland")
# Speakers of one gender and age lie close together, so each split gets its share of every sort.
_BASE = ("m1", "m3", "m7", "f1", "f2", "f4", "Andy", "Mike", "linda", "rob", "Lee", "ed", "belinda", "norbert")
_TUNE = ("m2", "m4", "m6", "f3", "travis", "shelby")
_HELD_OUT = ("m5", "m8", "f5", "ian", "aunty", "sandro")

SPLITS: dict[str, Split] = {
    "base": Split(
        voices=_cross(_ACCENTS, _BASE),
        rate=(160, 195),
        pitch=(35, 65),
        noisy=0.2,
        snr_db=(20.0, 35.0),
        reverberant=0.0,
    ),
    "tune": Split(
        voices=_cross(_ACCENTS, _TUNE),
        rate=(160, 205),
        pitch=(35, 65),
        noisy=1.0,
        snr_db=(5.0, 15.0),
        reverberant=0.1,
    ),
    "held_out": Split(
        voices=_cross(_ACCENTS, _HELD_OUT),
        rate=(160, 205),
        pitch=(35, 65),
        noisy=1.0,
        snr_db=(5.0, 15.0),
        reverberant=0.1,
    ),
}


_BABBLE_TALKERS = 5
_BABBLE_UTTERANCES = 24


def babble_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Several synthetic talkers at once, of voices that no split uses: (samples,)."""
    talk = np.zeros(samples)
    for index in rng.integers(_BABBLE_UTTERANCES, size=_BABBLE_TALKERS):
        utterance = _babble_utterances()[index]
        start = int(rng.integers(len(utterance)))
        # Cyclic, so that a talker fills clips longer than the utterance.
        talk += np.resize(np.roll(utterance, -start), samples)
    return talk


@lru_cache(maxsize=1)
def _babble_utterances() -> tuple[np.ndarray, ...]:
    """The talkers' material, spoken once per process; each of unit power."""
    rng = np.random.default_rng(20_240)
    speak = Synthesiser().say
    utterances = []
    for index in range(_BABBLE_UTTERANCES):
        voice = Voice(BABBLE_VOICES[index % len(BABBLE_VOICES)], rate=int(rng.integers(150, 200)))
        speech = speak(f"{random_sentence(rng)} {random_sentence(rng)}", voice)
        utterances.append(speech / np.sqrt(np.mean(np.square(speech))))
    return tuple(utterances)


NOISE_KINDS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "white": white_noise,
    "pink": pink_noise,
    "babble": babble_noise,
}


def add_noise(speech: np.ndarray, snr_db: float, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Add noise at a stated signal-to-noise ratio: `10 log10(mean(speech^2) / mean(noise^2)) = snr_db`.

    Args:
        speech: (samples,) float32 at 16 kHz, not silent.
        snr_db: ratio of mean powers over the whole clip, decibels; 0 means equally loud.
        kind: a key of `NOISE_KINDS`: "white", "pink" or "babble".
        rng: the only source of randomness.

    Returns:
        (samples,) float32; not clipped, so it may leave [-1, 1].

    Raises:
        ValueError: unknown `kind`, or silent `speech`.
    """
    if kind not in NOISE_KINDS:
        raise ValueError(
            f"There is no noise of kind {kind!r} in audiorl.demo.rows. Choose one of {sorted(NOISE_KINDS)}."
        )
    speech_power = float(np.mean(np.square(speech, dtype=np.float64))) if len(speech) else 0.0
    if speech_power == 0.0:
        raise ValueError(
            f"A silent clip of {len(speech)} samples has no signal-to-noise ratio (add_noise). "
            "Give add_noise speech, or generate the noise alone from NOISE_KINDS."
        )
    noise = NOISE_KINDS[kind](len(speech), rng)
    gain = np.sqrt(speech_power / (np.mean(np.square(noise)) * 10.0 ** (snr_db / 10.0)))
    return (speech + gain * noise).astype(np.float32)


def reverberate(speech: np.ndarray, decay_seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Put speech into a room: convolve with an exponentially decaying noise tail after the direct sound.

    Args:
        speech: (samples,) float32 at 16 kHz.
        decay_seconds: time in which the tail falls by 60 dB, > 0.
        rng: the only source of randomness.

    Returns:
        (samples,) float32: the tail past the end of the clip is cut, the power is that of the input.

    Raises:
        ValueError: `decay_seconds` is not positive.

    Source: Polack 1988, the exponentially decaying stochastic model of a room's late response.
    """
    if decay_seconds <= 0:
        raise ValueError(
            f"A room cannot decay in {decay_seconds} s (reverberate). Give decay_seconds > 0, "
            "for instance 0.3 for an office."
        )
    length = max(2, int(decay_seconds * SAMPLING_RATE))
    envelope = 10.0 ** (-3.0 * np.arange(length) / length)
    response = rng.standard_normal(length) * envelope
    response *= 0.7 / np.sqrt(np.sum(np.square(response)))  # direct sound 3 dB above the whole tail
    response[0] = 1.0
    size = len(speech) + length
    wet = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(response, size), size)[: len(speech)]
    wet *= np.sqrt(np.mean(np.square(speech)) / max(float(np.mean(np.square(wet))), 1e-20))
    return wet.astype(np.float32)


# The checkpoint's window; a sentence that a slow voice cannot say in it is drawn again.
WINDOW_SECONDS = 3
_SPEECH_RMS = 0.05


def demo_rows(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Synthesise the first `count` rows of a split.

    Args:
        split: "train" or "base" (the checkpoint's own voices: the sentences it was trained on, and new ones),
            "tune" or "held_out" (unknown voices, accents, rates, noise and rooms; disjoint from each other).
        count: how many, 0 or more.
        seed: 0 or more; a row depends on (split, seed, its index) alone, so more rows begin with the fewer.

    Returns:
        Rows `{"audio": {"array": (samples,) float32, "sampling_rate": 16000}, "text", "speaker", "id"}`.

    Raises:
        ValueError: there is no such split.
        SynthesiserMissing: `espeakng-loader` is not installed.
    """
    return list(iterate_demo_rows(split, count, seed))


def iterate_demo_rows(split: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what `demo_rows` returns, one row at a time: same arguments, same rows, same errors."""
    synthesiser = Synthesiser()
    for index in range(count):
        yield demo_row(split, index, seed, synthesiser)


def demo_row(split: str, index: int, seed: int, synthesiser: Synthesiser) -> dict[str, Any]:
    """Synthesise one row of a split.

    Args:
        split: see `demo_rows`.
        index: place of the row in its split, 0 or more.
        seed: see `demo_rows`.
        synthesiser: who speaks.

    Returns:
        One row, see `demo_rows`.

    Raises:
        ValueError: there is no such split.
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    while True:
        text = split_sentence(split, rng)
        conditions = SPLITS["base" if split == "train" else split]
        voice = Voice(
            name=str(rng.choice(conditions.voices)),
            rate=int(rng.integers(*conditions.rate, endpoint=True)),
            pitch=int(rng.integers(*conditions.pitch, endpoint=True)),
        )
        speech = _place(synthesiser.say(text, voice), rng)
        if len(speech) <= WINDOW_SECONDS * SAMPLING_RATE:
            break
    return {
        "audio": {"array": _disturb(speech, conditions, rng), "sampling_rate": SAMPLING_RATE},
        "text": text,
        "speaker": voice.name,
        "id": f"{split}-{seed}-{index:05d}",
    }


def _place(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech of one loudness after up to 0.15 s of silence."""
    lead = np.zeros(int(rng.integers(int(0.15 * SAMPLING_RATE))), dtype=np.float32)
    gain = _SPEECH_RMS / np.sqrt(np.mean(np.square(speech)))
    return np.concatenate([lead, gain * speech])


def _disturb(speech: np.ndarray, conditions: Split, rng: np.random.Generator) -> np.ndarray:
    """The split's room and noise."""
    if rng.random() < conditions.reverberant:
        speech = reverberate(speech, decay_seconds=float(rng.uniform(0.1, 0.3)), rng=rng)
    if rng.random() < conditions.noisy:
        kind = str(rng.choice(sorted(NOISE_KINDS)))
        speech = add_noise(speech, snr_db=float(rng.uniform(*conditions.snr_db)), kind=kind, rng=rng)
    return speech


class DemoSpeech:
    """The demo's rows as a corpus that `register_corpus` takes, so that `--dataset_name demo` finds them.

    Split "train" has the 480 clips to tune on, "test" 240 of other speakers; `README.md` beside says how they were
    chosen.
    """

    name = "demo"
    # split -> the demo's own, clips, seed of the clips
    splits: ClassVar = {"train": ("tune", 480, 0), "test": ("held_out", 240, 1)}

    def rows(self, split: str, language: str | None = None) -> Iterator[dict[str, Any]]:
        """Synthesise one row at a time, with a bar on a terminal.

        Raises:
            ValueError: there is no such split.
        """
        if split not in self.splits:
            raise ValueError(f"The demo has the splits {', '.join(self.splits)}; got {split!r}. Name one of them.")
        own, count, seed = self.splits[split]
        quiet = int(os.environ.get("RANK", "0")) != 0  # None: also where there is no terminal
        bar = {"desc": f"Synthesising {own} speech", "total": count, "unit": "clip", "disable": quiet or None}
        return _with_bar(iterate_demo_rows(own, count, seed), bar)


def _with_bar(rows: Iterator[dict[str, Any]], settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows, counted; whoever wants no more of them (`--limit`) has all."""
    with tqdm(**settings) as bar:
        try:
            for row in rows:
                bar.update()
                yield row
        except GeneratorExit:
            bar.total = bar.n
            raise
