"""Parts worked by hand with models of one line; then espeak with a real ASR model, ordered as a person would."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from audiorl.demo import CHECKPOINT, Synthesiser, Voice, add_noise
from audiorl.rewards import RewardError, RewardSet, SpeechQuality
from audiorl.rewards.speech_quality import signal_quality

RATE = 16_000
SENTENCE = "send thirteen red boats to dan"
OWN, OTHER = Voice("en-us+m3"), Voice("en-us+f2", pitch=65)


@pytest.fixture(scope="module")
def speak():
    synthesiser = Synthesiser()
    return lambda text, voice=OWN: synthesiser.say(text, voice)


def says(*texts: str):
    """An ASR model that understands these texts, whatever it hears."""
    return lambda clips: list(texts)[: len(clips)]


def spectrum(clips) -> list[np.ndarray]:
    """A model of voices for want of a trained one: the mean log-mel spectrum, its own mean removed."""
    import librosa

    means = [librosa.power_to_db(librosa.feature.melspectrogram(y=clip, sr=RATE, n_mels=40)).mean(1) for clip in clips]
    return [mean - mean.mean() for mean in means]


def test_the_total_is_worked_by_hand(speak):
    clip = speak(SENTENCE)
    quality = signal_quality(clip, RATE).score
    # 1 of 6 words is wrong; the angle between (3, 4) and (1, 0) has the cosine 3 / 5
    embeddings = iter([[[3.0, 4.0]], [[2.0, 0.0]]])
    judge = SpeechQuality(asr=says("send thirteen red goats to dan"), speaker_model=lambda clips: next(embeddings))
    (found,) = judge.score([clip], [SENTENCE], [clip])
    assert found.intelligibility == pytest.approx(5 / 6) and found.said == "send thirteen red goats to dan"
    assert found.quality == quality and found.signal == signal_quality(clip, RATE)
    assert found.speaker == pytest.approx(0.6)
    assert found.total == pytest.approx(0.4 * 5 / 6 + 0.4 * quality + 0.2 * 0.6)


def test_the_weight_of_an_absent_speaker_goes_to_the_others(speak):
    clip = speak(SENTENCE)
    quality = signal_quality(clip, RATE).score
    expected = (0.4 * 5 / 6 + 0.4 * quality) / 0.8
    heard = says("send thirteen red goats to dan")
    for judge in (SpeechQuality(asr=heard), SpeechQuality(asr=heard, speaker_model=spectrum)):
        (found,) = judge.score([clip], [SENTENCE], [None])
        assert found.speaker is None and found.total == pytest.approx(expected)
    (voiced,) = SpeechQuality(asr=heard, speaker_model=spectrum, weights=(1, 0, 3)).score([clip], [SENTENCE], [clip])
    assert voiced.total == pytest.approx((5 / 6 + 3 * 1) / 4)


def test_opposite_voices_count_nothing_rather_than_below(speak):
    embeddings = iter([[[1.0, 0.0]], [[-1.0, 0.1]]])
    judge = SpeechQuality(asr=says(SENTENCE), speaker_model=lambda clips: next(embeddings))
    assert judge.score([speak(SENTENCE)], [SENTENCE], [speak(SENTENCE)])[0].speaker == 0


def test_silence_is_understood_as_nothing_and_asked_of_no_model(speak):
    asked = []

    def asr(clips):
        asked.append(len(clips))
        return ["thanks for watching"] * len(clips)

    judge = SpeechQuality(asr=asr, speaker_model=spectrum)
    clips = [np.zeros(RATE, np.float32), {"array": [], "sampling_rate": 8000}, speak(SENTENCE)]
    first, second, third = judge.score(clips, [SENTENCE] * 3, [clips[2]] * 3)
    assert first.total == second.total == 0 and first.said == "" and asked == [1]
    assert third.intelligibility == 0 and third.speaker == pytest.approx(1)


def test_it_is_a_reward_of_audio_with_one_value_for_each_row(speak):
    own, other = speak(SENTENCE), speak(SENTENCE, OTHER)
    judge = SpeechQuality(asr=says(SENTENCE, SENTENCE), speaker_model=spectrum)
    rewards = RewardSet([judge])
    completions = [{"array": own, "sampling_rate": RATE}, other, own]
    columns = {"text": [SENTENCE, SENTENCE, None], "speaker_audio": [own, own, own]}
    table = rewards(completions, [[1]] * 3, columns, ["row 0", "row 0", "row 1"])
    first, second, third = table.parts["speech_quality"]
    assert first > second > 0 and third is None
    with pytest.raises(RewardError, match="reads the column 'speaker_audio', which is missing"):
        rewards.check_columns(["text"])
    RewardSet([SpeechQuality(asr=says(""))]).check_columns(["text"])


def test_files_are_read_at_any_rate(tmp_path, speak):
    clip = speak(SENTENCE)
    soundfile.write(tmp_path / "own.wav", clip, RATE)
    soundfile.write(tmp_path / "half.wav", clip[::2], RATE // 2)
    judge = SpeechQuality(asr=says(SENTENCE, SENTENCE), speaker_model=spectrum)
    first, second = judge.score_files(
        [tmp_path / "own.wav", str(tmp_path / "half.wav")], [SENTENCE] * 2, [None, tmp_path / "own.wav"]
    )
    assert first.intelligibility == second.intelligibility == 1
    assert first.speaker is None and 0 < second.speaker < 1
    with pytest.raises(RewardError, match=r"cannot judge clip 0: .*lost\.wav.* is missing\. Correct the path"):
        judge.score_files([tmp_path / "lost.wav"], [SENTENCE])


def test_models_that_answer_wrongly_and_settings_are_refused(speak):
    clip = speak(SENTENCE)
    for answer in ([], ["a", "b"], [None]):
        with pytest.raises(RewardError, match=r"asked its asr for 1 transcripts and got .*one string for each clip"):
            SpeechQuality(asr=lambda clips, answer=answer: answer).score([clip], [SENTENCE], [None])
    for answer in ([1.0, 2.0], [[1.0], [2.0]], [[0.0, 0.0]], [[np.nan, 1.0]]):
        judge = SpeechQuality(asr=says(SENTENCE), speaker_model=lambda clips, answer=answer: answer)
        with pytest.raises(RewardError, match=r"speaker_model about 1 clips and got shape .*one embedding for each"):
            judge.score([clip], [SENTENCE], [clip])
    for weights in ((0.4, 0.4), (0, 0, 1), (-1, 1, 1), (1, float("nan"), 1)):
        with pytest.raises(RewardError, match="one of the first two above 0"):
            SpeechQuality(asr=says(""), weights=weights)
    with pytest.raises(ValueError, match="2 clips, 1 texts and 1 voices"):
        SpeechQuality(asr=says("")).score([clip, clip], [""], [None])
    with pytest.raises(RewardError, match=r"cannot judge a speaker's recording: .* is silent"):
        SpeechQuality(asr=says(""), speaker_model=spectrum).score([clip], [""], [np.zeros(RATE)])
    broken = np.full(RATE, np.nan, np.float32)
    with pytest.raises(RewardError, match=r"cannot judge clip 0: .*NaN"):
        SpeechQuality(asr=says("")).score([broken], [""], [None])


@pytest.fixture(scope="module")
def real_asr():
    """The demo's checkpoint, which knows espeak's voices and the demo's words."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    from audiorl.models import speech_family

    model = WhisperForConditionalGeneration.from_pretrained(CHECKPOINT, dtype="float32").eval()
    family = speech_family(model, WhisperProcessor.from_pretrained(CHECKPOINT))
    return lambda clips: family.transcribe(model, family.features(list(clips)))


def test_synthetic_speech_orders_as_a_person_would(speak, real_asr):
    rng = np.random.default_rng(0)
    clip = speak(SENTENCE)
    loud = clip / np.abs(clip).max()
    clips = {
        "clean": clip,
        "a little noise": add_noise(clip, 15, "white", rng),
        "much noise": add_noise(clip, 0, "white", rng),
        "noise alone": 0.1 * rng.standard_normal(len(clip)).astype(np.float32),
        "clipped": np.clip(2 * loud, -1, 1),
        "clipped hard": np.clip(12 * loud, -1, 1),
        "another voice": speak(SENTENCE, OTHER),
        "other words": speak("call jim about seven green cars"),
        "silence": np.zeros(RATE, np.float32),
    }
    judge = SpeechQuality(asr=real_asr, speaker_model=spectrum)
    own = speak("call jim about seven green cars")
    found = dict(
        zip(clips, judge.score(list(clips.values()), [SENTENCE] * len(clips), [own] * len(clips)), strict=True)
    )
    total = {name: score.total for name, score in found.items()}
    for better, worse in (
        ("clean", "a little noise"),
        ("a little noise", "much noise"),
        ("much noise", "noise alone"),
        ("noise alone", "silence"),
        ("clean", "clipped"),
        ("clipped", "clipped hard"),
        ("clipped hard", "noise alone"),
        ("clean", "another voice"),
        ("clean", "other words"),
        ("another voice", "other words"),
    ):
        assert total[better] > total[worse] + 0.01, (better, worse, total)
    assert found["clean"].intelligibility == 1 and found["other words"].intelligibility < 0.5
    assert found["clean"].speaker > found["another voice"].speaker
