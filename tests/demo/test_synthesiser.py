"""The synthesiser: determinism, voices, errors, and processes."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from audiorl.demo import Synthesiser, SynthesiserError, SynthesiserMissing, UnknownVoice, Voice
from audiorl.demo.rows import VOCABULARY

SENTENCE = "send thirteen red boats to dan"

FORKED = """
import os, sys
from audiorl.demo import Synthesiser, Voice
synthesiser, voice = Synthesiser(), Voice("en-us+m3")
here = synthesiser.say("call jim", voice).tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if synthesiser.say("call jim", voice).tobytes() == here else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

FRESH = """
import sys
from audiorl.demo import Synthesiser, Voice
sys.stdout.buffer.write(Synthesiser().say(sys.argv[1], Voice("en+f2")).tobytes())
"""


@pytest.fixture(scope="module")
def synthesiser() -> Synthesiser:
    return Synthesiser()


def test_same_text_and_voice_give_the_same_samples_whatever_was_said_between(
    synthesiser: Synthesiser,
) -> None:
    voice = Voice("en-us+m3")
    first = synthesiser.say(SENTENCE, voice)
    synthesiser.say("something else at another length", Voice("en+whisper", rate=120))
    np.testing.assert_array_equal(first, synthesiser.say(SENTENCE, voice))


def test_speech_is_mono_float32_at_a_plausible_length_and_loudness(synthesiser: Synthesiser) -> None:
    speech = synthesiser.say(SENTENCE, Voice("en-us+m3"))
    assert speech.ndim == 1 and speech.dtype == np.float32
    assert 1.0 < len(speech) / 16_000 < 3.0  # six words at 175 words a minute
    assert np.sqrt(np.mean(np.square(speech))) > 0.01
    assert np.abs(speech).max() <= 1.0


def test_accents_variants_pitches_and_rates_all_change_the_sound(synthesiser: Synthesiser) -> None:
    voices = [
        Voice("en-us+m3"),
        Voice("en-us+f2"),
        Voice("en-gb-scotland+m3"),
        Voice("en-us+m3", pitch=70),
        Voice("en-us+m3", rate=220),
        Voice("en-us+m3", pitch_range=90),
        Voice("en-us+m3", word_gap=10),
    ]
    assert len({synthesiser.say(SENTENCE, voice).tobytes() for voice in voices}) == len(voices)


def test_twice_the_rate_takes_about_half_the_time(synthesiser: Synthesiser) -> None:
    slow, fast = (len(synthesiser.say(SENTENCE, Voice("en-us+m3", rate=rate))) for rate in (120, 240))
    assert 1.5 < slow / fast < 2.5


def test_no_two_words_of_the_vocabulary_are_homophones(synthesiser: Synthesiser) -> None:
    spoken = {synthesiser.say(word, Voice("en-us")).tobytes() for word in VOCABULARY}
    assert len(spoken) == len(VOCABULARY)


def test_unknown_voice_is_named_in_the_error(synthesiser: Synthesiser) -> None:
    with pytest.raises(UnknownVoice, match=r"xx-nowhere.*Use a language"):
        synthesiser.say("hello", Voice("xx-nowhere"))


def test_text_without_a_word_is_refused(synthesiser: Synthesiser) -> None:
    with pytest.raises(SynthesiserError, match="no sound"):
        synthesiser.say(" ", Voice("en-us"))


@pytest.mark.parametrize("setting", [{"rate": 20}, {"pitch": 100}, {"pitch_range": -1}, {"word_gap": -1}])
def test_settings_outside_their_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        Voice("en-us", **setting)


def test_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SynthesiserMissing, match=r'pip install "audiorl\[demo\]"'):
        Synthesiser()


@pytest.mark.slow
def test_a_fresh_process_says_the_same(synthesiser: Synthesiser) -> None:
    answer = subprocess.run([sys.executable, "-c", FRESH, SENTENCE], check=True, capture_output=True)
    assert answer.stdout == synthesiser.say(SENTENCE, Voice("en+f2")).tobytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_child_says_the_same() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)


def test_a_synthesiser_can_be_pickled_for_a_spawned_worker(synthesiser: Synthesiser) -> None:
    copy = pickle.loads(pickle.dumps(synthesiser))
    np.testing.assert_array_equal(copy.say("call jim", Voice("en")), synthesiser.say("call jim", Voice("en")))
