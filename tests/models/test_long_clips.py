"""Clips beyond the window: how they are cut, and how the answers of their parts become one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiorl.audio import AudioFault
from audiorl.evaluation import transcribe
from audiorl.evaluation.systems import LocalModel
from audiorl.models import LongForm, speech_family
from audiorl.models.long_clips import chunk_starts, merge_texts, transcript_of_chunks
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_ctc import tiny_ctc
from tests.tiny_seq2seq import tiny_seq2seq
from tests.tiny_transducers import tiny_transducer

RATE = 16_000


@pytest.mark.parametrize("step", [1, 3, 16])
def test_chunks_cover_the_clip_and_overlap(step):
    for samples in range(1, 400, 7):
        for chunk, overlap in ((100, 20), (64, 32), (50, 16)):
            starts = chunk_starts(samples, chunk, overlap, step)
            assert starts[0] == 0
            assert all(start % step == 0 for start in starts)
            if samples <= chunk:
                assert starts == [0]
                continue
            assert samples - step < starts[-1] + chunk - 1 + step
            assert samples <= starts[-1] + chunk, "the end is heard, and the last chunk is no longer than the others"
            gaps = np.diff(starts)
            assert all(0 < gap <= chunk - overlap for gap in gaps), "neighbors share at least the overlap"


MERGED = {
    "both edges are equal": ("we saw the old house", "the old house by a sea", "we saw the old house by a sea"),
    "words cut in two": ("we saw the old hou", "aw the old house by a sea", "we saw the old house by a sea"),
    "one word is misheard": ("one two three four five six", "three for five six 7", "one two three four five six 7"),
    "case and punctuation differ": ("so it was. Then he", "Was then he left", "so it was. then he left"),
    "nothing is equal": ("alpha beta", "gamma delta", "alpha beta gamma delta"),
    "the first is empty": ("", "gamma delta", "gamma delta"),
    "the second is empty": ("alpha beta", "", "alpha beta"),
    "without spaces": ("我们今天去看电影", "去看电影然后吃饭", "我们今天去看电影然后吃饭"),
    "without spaces, nothing equal": ("我们今天", "然后吃饭", "我们今天然后吃饭"),
    "the same twice": ("no no no", "no no no yes", "no no no yes"),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGED)
def test_texts_that_overlap_become_one(case):
    first, second, expected = MERGED[case]
    assert merge_texts(first, second, 4.0) == expected


def test_only_as_much_is_compared_as_can_be_said_in_the_overlap():
    first, second = "a b c " + "x " * 30, "a b c d"
    assert merge_texts(first, second, 0.5).endswith("x a b c d")


def test_a_text_of_chunks_is_the_text_of_the_whole():
    """Samples are the numbers of words, ten to a word; a chunk writes those that it hears whole, and one cut word."""
    words = [f"w{n}" for n in range(100)]
    clip = np.repeat(np.arange(100), 10)

    def write(part: np.ndarray) -> str:
        whole = [int(n) for n in dict.fromkeys(part.tolist()) if (part == n).sum() == 10]
        return (
            " ".join(["cut", *(words[n] for n in whole)])
            if (part == part[0]).sum() < 10
            else " ".join(words[n] for n in whole)
        )

    assert transcript_of_chunks(write, clip, 10, chunk_seconds=13.3, overlap_seconds=4.0) == " ".join(words)


@pytest.mark.parametrize(
    ("make", "kind"), [(tiny_audio_llm, "qwen3_asr"), (tiny_transducer, "parakeet_tdt"), (tiny_seq2seq, "moonshine")]
)
def test_families_without_a_way_of_their_own_hear_chunks(make, kind):
    model, processor = make(kind)
    family = speech_family(model.eval(), processor)
    asked = {"max_new_tokens": 6, **({"languages": ["English"]} if kind == "qwen3_asr" else {})}
    clip = noise(2.0)
    heard = [clip[start : start + RATE] for start in (0, RATE * 3 // 4, RATE)]
    parts = [family.transcribe(model, family.features([part]), **asked)[0] for part in heard]
    expected = merge_texts(merge_texts(parts[0], parts[1], 0.25), parts[2], 0.75)
    how = LongForm(chunk_seconds=1.0, overlap_seconds=0.25)
    with torch.no_grad():
        assert how.transcribe(family, model, clip, **asked) == expected
        assert how.transcribe(family, model, heard[0], **asked) == parts[0]


# ---- CTC ----


@pytest.fixture(scope="module")
def ctc():
    model, processor = tiny_ctc("wav2vec2")
    return model.eval(), processor, speech_family(model, processor)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(RATE * seconds)).astype(np.float32)


def test_frames_of_chunks_stand_where_those_of_the_whole_clip_would(ctc, monkeypatch):
    model, _, family = ctc
    clip = np.arange(RATE * 7 + 123, dtype=np.float32)

    def places(model, part):
        count = family.frames_in(len(part))
        return torch.tensor([part[i * family.frame_samples] for i in range(count)])[:, None]

    monkeypatch.setattr(family, "_frame_logps_of", places)
    assert family.frame_samples == 320
    found = family.frame_logps(model, clip, chunk_seconds=1.0, overlap_seconds=0.3)
    assert torch.equal(found[:, 0], 320.0 * torch.arange(family.frames_in(len(clip))))


@pytest.mark.parametrize("kind", ["wav2vec2", "parakeet"])
def test_one_chunk_is_what_the_model_writes(kind):
    model, processor = tiny_ctc(kind)
    family = speech_family(model.eval(), processor)
    clip = noise(1.5)
    plain = family.transcribe(model, family.features([clip]))[0]
    assert family.transcribe_chunks(model, clip, chunk_seconds=2.0, overlap_seconds=0.5) == plain
    frames = family.frame_logps(model, clip)
    assert len(frames) == family.frames_in(len(clip))
    torch.testing.assert_close(frames.exp().sum(-1), torch.ones(len(frames)))


def test_a_beam_over_all_chunks(ctc):
    model, _, family = ctc
    clip = noise(1.2)
    plain = family.transcribe(model, family.features([clip]), num_beams=3)[0]
    assert family.transcribe_chunks(model, clip, chunk_seconds=2.0, overlap_seconds=0.5, num_beams=3) == plain
    with pytest.raises(ValueError, match="has no length_penalty"):
        family.transcribe_chunks(model, clip, chunk_seconds=2.0, overlap_seconds=0.5, length_penalty=1.0)


# ---- Whisper ----


def test_whisper_goes_from_timestamp_to_timestamp_as_its_own_generate(tiny_multilingual):
    model, processor = tiny_multilingual
    family = speech_family(model.eval(), processor)
    family.set_defaults(language="en")
    clip = noise(5.0)  # the window has two seconds
    features = processor.feature_extractor(
        clip, sampling_rate=RATE, return_tensors="pt", truncation=False, padding="longest"
    ).input_features
    written = model.generate(
        features,
        attention_mask=torch.ones(1, features.shape[-1], dtype=torch.long),
        return_timestamps=True,
        language="en",
        task="transcribe",
        max_new_tokens=12,
    )
    expected = family.whisper_text.decode(written[0].tolist())
    found = family.transcribe_long(model, clip, chunk_seconds=2.0, overlap_seconds=0.5, max_new_tokens=12)
    assert found == expected
    first = family.transcribe(model, family.features([clip[: 2 * RATE]]), return_timestamps=True, max_new_tokens=12)[0]
    assert found.startswith(first[:3])
    assert len(found) > len(first), "more than one window was heard"


# ---- in an evaluation ----


def rows_of(seconds: list[float]) -> list[dict]:
    return [{"audio": {"array": noise(s), "sampling_rate": RATE}, "text": "a b"} for s in seconds]


def test_long_clips_are_refused_unless_they_are_asked_for(tiny_multilingual):
    model, processor = tiny_multilingual
    family = speech_family(model, processor)
    family.set_defaults(language="en")
    rows = rows_of([1.0, 3.0, 0.5, 4.5])
    with pytest.raises(AudioFault, match="--long_form auto"):
        transcribe(model, processor, rows, family=family, progress=False)
    short = transcribe(model, processor, [rows[0], rows[2]], family=family, max_new_tokens=8, progress=False)
    for way in ("auto", "chunks"):
        how = LongForm(way, overlap_seconds=0.5)
        found = transcribe(
            model, processor, rows, family=family, max_new_tokens=8, progress=False, batch_size=2, long_form=how
        )
        assert [found[0], found[2]] == short, "clips inside the window are decoded as ever"
        clip = np.asarray(rows[3]["audio"]["array"])
        with torch.no_grad():
            alone = how.transcribe(family, model.eval(), clip, max_new_tokens=8)
        assert found[3] == alone


def test_a_system_says_how_it_heard_long_clips(ctc):
    model, processor, _ = ctc
    system = LocalModel("ctc", model, processor, long_form=LongForm(chunk_seconds=1.0, overlap_seconds=0.25))
    assert system.max_seconds is None
    found = [row.hypothesis for row in system.transcribe(rows_of([0.6, 3.0]), "text", progress=False)]
    assert len(found) == 2
    said = system.decoding()
    assert (said["long_form"], said["chunk_seconds"], said["overlap_seconds"]) == ("auto", 1.0, 0.25)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"way": "timestamps"}, "Change --long_form"),
        ({"overlap_seconds": 0}, "Change --overlap_seconds"),
        ({"chunk_seconds": 5.0, "overlap_seconds": 3.0}, "Raise --chunk_seconds"),
        ({"chunk_seconds": float("nan")}, "Raise --chunk_seconds"),
    ],
)
def test_ways_that_are_none_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        LongForm(**settings)


def test_chunks_beyond_the_window_are_refused_before_anything_is_heard(tiny_multilingual):
    model, processor = tiny_multilingual
    with pytest.raises(ValueError, match="The model hears 2 s at once"):
        LocalModel("whisper", model, processor, long_form=LongForm(chunk_seconds=30.0))
    with pytest.raises(ValueError, match="Lower --overlap_seconds"):
        LocalModel("whisper", model, processor, long_form=LongForm(overlap_seconds=1.5))
    assert LongForm().overlap_of(2.0) == 0.5
    assert LongForm().overlap_of(30.0) == 4.0
