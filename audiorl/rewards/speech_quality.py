"""How good generated speech is: whether it can be understood, whether it is clean, whether it is the right voice.

No model lives here. The one that transcribes and the one that knows voices are functions of the caller's:

    def asr(clips):                      # mono float32 clips at 16 kHz -> one transcript each
        return family.transcribe(model, family.features(clips))

    judge = SpeechQuality(asr=asr, speaker_model=lambda clips: encoder.encode_batch(...))
    judge.score_files(["a.wav", "b.wav"], ["what a should say", "what b should say"])
    GRPOTrainer(model, judge, ...)       # a reward as any other, of completions that are audio

How clean a clip of speech is, from its samples alone: noise, clipping, dynamics, silence.

Frames are 25 ms long and begin every 10 ms; p[t] is the mean square of frame t, and levels are relative to the loudest
frame. A clip of zeros has the worst of everything.

These are estimates from one signal, without the clean one beside it. They notice steady noise, hum, clipping, flat and
empty clips. They do not notice babble in the background, reverberation or a robotic timbre.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from audiorl.rewards.base import RewardError, ShippedReward
from audiorl.rewards.error_rate import OneMinusWER
from audiorl.text.normalizers import normalizer

WINDOW_SECONDS = 0.025
HOP_SECONDS = 0.010
# A frame counts as silence where it is this far below the loudest one.
SILENT_DB = 40.0
# Frames further below say nothing of the noise beside the speech: a cut or a fade made them, no room is as quiet.
EMPTY_DB = 60.0
# So large a share of the frames leaves a band to the noise, even where a voice never pauses.
NOISE_QUANTILE = 0.05
SNR_RANGE = (-10.0, 60.0)
# Samples within this share of the peak are clipped if at least this many of them follow one another.
PEAK_TOLERANCE = 1e-4
SHORTEST_CLIPPED_RUN = 3

# measure -> (worst, best): a score of 0 at and beyond the one, of 1 at and beyond the other, a straight line between
RAMPS: dict[str, tuple[float, float]] = {
    "snr_db": (0.0, 20.0),
    "clipped_share": (0.02, 0.0),
    "dynamic_range_db": (3.0, 15.0),
    "silent_share": (0.9, 0.4),
}


class SignalQuality(NamedTuple):
    """What the samples of a clip say."""

    snr_db: float  # -10 to 60
    clipped_share: float  # of the samples, 0 to 1
    dynamic_range_db: float  # 0 to 40
    silent_share: float  # of the frames, 0 to 1

    @property
    def scores(self) -> dict[str, float]:
        """Each measure on its ramp (`RAMPS`), 0 to 1."""
        return {name: ramp(getattr(self, name), *RAMPS[name]) for name in self._fields}

    @property
    def score(self) -> float:
        """Mean of the four scores, 0 to 1; 0 for a clip that is silent from end to end."""
        return 0.0 if self.silent_share == 1 else math.fsum(self.scores.values()) / len(self)


def signal_quality(clip: np.ndarray, sampling_rate: int) -> SignalQuality:
    """All four measures of a clip.

    Args:
        clip: (samples,) float, mono; samples, at least one window of them, may be all zero or none at all.
        sampling_rate: Hz.
    """
    return SignalQuality(
        snr_db(clip, sampling_rate),
        clipped_share(clip),
        dynamic_range_db(clip, sampling_rate),
        silent_share(clip, sampling_rate),
    )


def snr_db(clip: np.ndarray, sampling_rate: int) -> float:
    """Ratio of speech to steady noise.

        P[t, f] = |windowed spectrum of frame t|^2, frames within 60 dB of the loudest
        noise = sum over f of quantile_0.05(P[:, f]) / -ln(1 - 0.05)
        snr = 10 log10((sum over f of mean(P[:, f]) - noise) / noise)

    Speech leaves every band now and then, so that a low quantile of the band's power is the noise's; noise has
    exponentially distributed power in a band, whose quantile q lies at -ln(1 - q) times its mean.

    Range: [-10, 60] dB; 60 without noise, -10 for noise alone and for silence. Of synthetic speech with white or pink
    noise at 0 to 20 dB the estimate is within 4 dB. Clean speech reaches 20 to 40, according to its pauses; of less
    than a second without one, 15.

    Source: Stahl, Fischer and Bippus 2000, quantile based noise estimation; the correction is the exponential
    distribution's.
    """
    frames = _frames(clip, sampling_rate)
    power = np.square(frames).mean(-1)
    lowest, highest = SNR_RANGE
    if not power.any():
        return lowest
    heard = frames[power >= power.max() * 10 ** (-EMPTY_DB / 10)] * np.hanning(frames.shape[-1])
    spectra = np.square(np.abs(np.fft.rfft(heard)))
    noise = float(np.quantile(spectra, NOISE_QUANTILE, axis=0).sum() / -math.log(1 - NOISE_QUANTILE))
    speech = float(spectra.mean(0).sum()) - noise
    if noise == 0:
        return highest
    return lowest if speech <= 0 else float(np.clip(10 * math.log10(speech / noise), lowest, highest))


def clipped_share(clip: np.ndarray) -> float:
    """Share of samples that stand at the clip's own peak, in runs of three and more of one sign.

    Range: [0, 1]; 1 for silence. A clip that was scaled after it was cut off is found as well; one that was filtered,
    compressed or made noisy afterwards has no flat tops left.
    """
    samples = np.asarray(clip, dtype=np.float64)
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0:
        return 1.0
    count = 0
    for side in (samples, -samples):
        flat = np.concatenate([[False], side >= peak * (1 - PEAK_TOLERANCE), [False]])
        starts, ends = np.flatnonzero(~flat[:-1] & flat[1:]), np.flatnonzero(flat[:-1] & ~flat[1:])
        runs = ends - starts
        count += int(runs[runs >= SHORTEST_CLIPPED_RUN].sum())
    return count / len(samples)


def dynamic_range_db(clip: np.ndarray, sampling_rate: int) -> float:
    """How far the loud frames are above the quiet ones, among those that are not silence.

        range = 95th - 10th percentile of 10 log10 p[t] over frames within 40 dB of the loudest

    Range: [0, 40] dB. Speech has 15 and more, noise and hum 1 to 3, speech in loud noise between; 0 for silence.
    """
    power = np.square(_frames(clip, sampling_rate)).mean(-1)
    if not power.any():
        return 0.0
    levels = 10 * np.log10(power[power >= power.max() * 10 ** (-SILENT_DB / 10)])
    quiet, loud = np.percentile(levels, [10, 95])
    return float(loud - quiet)


def silent_share(clip: np.ndarray, sampling_rate: int) -> float:
    """Share of frames more than 40 dB below the loudest.

    Range: [0, 1]; 1 for silence. Pauses make up 0.1 to 0.4 of read speech.
    """
    power = np.square(_frames(clip, sampling_rate)).mean(-1)
    if not power.any():
        return 1.0
    return float((power < power.max() * 10 ** (-SILENT_DB / 10)).mean())


def ramp(value: float, worst: float, best: float) -> float:
    """0 at and beyond `worst`, 1 at and beyond `best`, a straight line between them."""
    return min(1.0, max(0.0, (value - worst) / (best - worst)))


def _frames(clip: np.ndarray, sampling_rate: int) -> np.ndarray:
    """(frames, window) float64, one at least: a shorter clip is filled up with zeros."""
    window, hop = round(WINDOW_SECONDS * sampling_rate), round(HOP_SECONDS * sampling_rate)
    samples = np.asarray(clip, dtype=np.float64)
    if len(samples) < window:
        samples = np.pad(samples, (0, window - len(samples)))
    return np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]


Transcribe = Callable[[Sequence[np.ndarray]], Sequence[str]]
Embed = Callable[[Sequence[np.ndarray]], Any]  # (N, E), an array or what numpy makes one of


class SpeechScore(NamedTuple):
    """The parts of one clip's score, each in [0, 1]."""

    total: float
    intelligibility: float
    quality: float
    speaker: float | None  # None where no voice was there to compare with
    said: str  # what the ASR model understood
    signal: SignalQuality


@dataclass(frozen=True, kw_only=True)
class SpeechQuality(ShippedReward):
    """Intelligibility, quality and speaker of generated speech in one number.

        intelligibility = max(0, 1 - WER of what `asr` understands)              `OneMinusWER`
        quality         = mean of the scores of SNR, clipping, dynamics, silence   `signal_quality`
        speaker         = max(0, cosine of the embeddings of the clip and of the speaker's recording)
        total           = sum of weight times part / sum of the weights of the parts there are

    Where there is no speaker model, or a row names no recording of its speaker, the speaker's weight goes to the other
    parts, in proportion to theirs. Silence, or no samples at all, is understood as "" and is nobody's voice.

    Args:
        asr: clips at `sampling_rate` -> one transcript for each.
        speaker_model: clips -> (N, E) embeddings, for example those of a speaker verification model.
        weights: of intelligibility, quality and speaker, >= 0, one of the first two above 0.
        sampling_rate: Hz, at which clips are judged and handed to both models.
        column: of the rows, with a recording of the speaker whose voice it should be.
        normalise: of the texts before words are compared, see `audiorl.text.normalizers.normalizer`.
        name: see `ShippedReward`.

    Range: [0, 1]. A row whose `text` is None gives None.

    Raises:
        RewardError: when built, weights that make no sense; when called, audio that cannot be read, or a model that
            returns not one finite answer for each clip.
    """

    asr: Transcribe
    speaker_model: Embed | None = None
    weights: tuple[float, float, float] = (0.4, 0.4, 0.2)
    sampling_rate: int = 16_000
    column: str = "speaker_audio"
    normalise: str | Callable[[str], str] = "basic"

    default_name: ClassVar[str] = "speech_quality"

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalise", normalizer(self.normalise))
        sound = len(self.weights) == 3 and all(0 <= weight < math.inf for weight in self.weights)
        if not sound or not sum(self.weights[:2]):
            raise RewardError(
                f"{self.__name__} weighs intelligibility, quality and speaker, each 0 or more and one of the first two "
                f"above 0; got {self.weights}. The default is (0.4, 0.4, 0.2)."
            )

    @property
    def needed_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The speaker's recordings are asked for where there is a model that can compare them."""
        return ("text",) if self.speaker_model is None else ("text", self.column)

    def __call__(self, completions: Sequence[Any], text: Sequence[str | None], **columns: Any) -> list[float | None]:
        """One value for each completion.

        Args:
            completions: clips, each a (samples,) array at `sampling_rate` or what `audiorl.audio.load_audio` takes.
            text: what each of them should say.
        """
        judged = [place for place, transcript in enumerate(text) if transcript is not None]
        voices = columns.get(self.column) or [None] * len(completions)
        scores = self.score(
            [completions[place] for place in judged],
            [str(text[place]) for place in judged],
            [voices[place] for place in judged],
        )
        rewards: list[float | None] = [None] * len(completions)
        for place, found in zip(judged, scores, strict=True):
            rewards[place] = found.total
        return rewards

    def score_files(
        self,
        paths: Sequence[str | os.PathLike[str]],
        texts: Sequence[str],
        speakers: Sequence[str | os.PathLike[str] | None] | None = None,
    ) -> list[SpeechScore]:
        """Judge audio files, with all that the total is made of.

        Args:
            paths: N files.
            texts: N, what each of them should say.
            speakers: N recordings of the voices it should be, or None where any will do.
        """
        voices = [None] * len(paths) if speakers is None else list(speakers)
        return self.score([os.fspath(path) for path in paths], texts, [voice and os.fspath(voice) for voice in voices])

    def score(self, clips: Sequence[Any], texts: Sequence[str], voices: Sequence[Any]) -> list[SpeechScore]:
        """Judge N clips; `clips` and `voices` are audio as of `__call__`, a voice may be None."""
        if not len(clips) == len(texts) == len(voices):
            raise ValueError(
                f"Each clip has one text and one voice, or None; got {len(clips)} clips, {len(texts)} texts and "
                f"{len(voices)} voices. Give lists of one length."
            )
        heard = [self._load(clip, f"clip {place}") for place, clip in enumerate(clips)]
        said = self._understood(heard)
        right = OneMinusWER(normalise=self.normalise)(said, list(texts))
        alike = self._alike(heard, voices)
        found = []
        for clip, words, intelligible, speaker in zip(heard, said, right, alike, strict=True):
            signal = signal_quality(clip, self.sampling_rate)
            parts = (float(intelligible or 0.0), signal.score, speaker)
            found.append(SpeechScore(self._total(parts), *parts, words, signal))
        return found

    def _total(self, parts: Sequence[float | None]) -> float:
        weighed = [(weight, part) for weight, part in zip(self.weights, parts, strict=True) if part is not None]
        return math.fsum(weight * part for weight, part in weighed) / math.fsum(weight for weight, _ in weighed)

    def _load(self, source: Any, what: str, *, allow_silence: bool = True) -> np.ndarray:
        from audiorl.audio import AudioFault, load_audio

        entry = {"array": source, "sampling_rate": self.sampling_rate} if isinstance(source, np.ndarray) else source
        samples: Any = entry.get("array") if isinstance(entry, Mapping) else None
        if allow_silence and samples is not None and not np.size(samples):
            return np.zeros(0, dtype=np.float32)  # a model that stopped at once made no sound, which is no broken file
        try:
            return load_audio(entry, self.sampling_rate, allow_silence=allow_silence)
        except AudioFault as fault:
            raise RewardError(f"{self.__name__} cannot judge {what}: {fault.problem}. {fault.remedy}") from fault

    def _understood(self, clips: Sequence[np.ndarray]) -> list[str]:
        """The ASR model's transcripts; silence is not asked about, because such models invent words for it."""
        audible = [place for place, clip in enumerate(clips) if clip.any()]
        answers = list(self.asr([clips[place] for place in audible])) if audible else []
        if len(answers) != len(audible) or not all(isinstance(answer, str) for answer in answers):
            raise RewardError(
                f"{self.__name__} asked its asr for {len(audible)} transcripts and got {answers!r:.80}. Return a list "
                "with one string for each clip."
            )
        said = [""] * len(clips)
        for place, answer in zip(audible, answers, strict=True):
            said[place] = answer
        return said

    def _alike(self, clips: Sequence[np.ndarray], voices: Sequence[Any]) -> list[float | None]:
        """max(0, cosine) of each clip and its speaker's recording; None where there is none."""
        alike: list[float | None] = [None] * len(clips)
        if self.speaker_model is None:
            return alike
        compared = [place for place, voice in enumerate(voices) if voice is not None]
        for place in compared:
            alike[place] = 0.0
        audible = [place for place in compared if clips[place].any()]
        if not audible:
            return alike
        # K hypotheses of a row share its recording: each is read and embedded once
        known = {id(voices[place]): voices[place] for place in audible}
        recordings = [self._load(voice, "a speaker's recording", allow_silence=False) for voice in known.values()]
        own = self._embedded([clips[place] for place in audible])
        theirs = dict(zip(known, self._embedded(recordings), strict=True))
        for place, embedding in zip(audible, own, strict=True):
            alike[place] = max(0.0, float(embedding @ theirs[id(voices[place])]))
        return alike

    def _embedded(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """(N, E) float64 of length 1."""
        assert self.speaker_model is not None
        vectors = np.asarray(self.speaker_model(clips), dtype=np.float64)
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True) if vectors.ndim == 2 else np.zeros(1)
        if vectors.ndim != 2 or len(vectors) != len(clips) or not np.isfinite(lengths).all() or not lengths.all():
            raise RewardError(
                f"{self.__name__} asked its speaker_model about {len(clips)} clips and got shape {vectors.shape}, or "
                "vectors that are zero or not finite. Return (N, E), one embedding for each clip."
            )
        return vectors / lengths
