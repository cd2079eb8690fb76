"""Oracle: a family whose transcript of a clip is known from the clip, and transcripts worked by hand."""

import io
import json
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from audiorl.audio import AudioFault
from audiorl.datasets import speech_rows
from audiorl.evaluation import count_errors, evaluate_model, format_result, transcribe
from audiorl.evaluation.transcription import BATCHES_SORTED_TOGETHER

RATE = 1000


class ModeModel(nn.Module):
    """Notes in which mode and on which graph it was called."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(1, 1)
        self.trained = nn.Linear(1, 1)
        self.calls = []


class CountingFamily:
    """Says one word for each tenth of a second, and the language it was told."""

    sampling_rate = RATE
    max_seconds = 3.0
    min_seconds = 0.01
    decodes_with_prompts = False
    encoder_cache = None
    setting_columns = ("language", "task")

    def __init__(self, answers=None):
        self.answers = answers or {}
        self.batches = []
        self.settings = []

    def features(self, clips):
        longest = max(map(len, clips))
        padded = [np.pad(clip, (0, longest - len(clip))) for clip in clips]
        lengths = torch.tensor([len(clip) for clip in clips])
        return {"input_values": torch.tensor(np.stack(padded)), "lengths": lengths}

    def transcribe(self, model, audio, **settings):
        model.calls.append((model.training, model.frozen.training, torch.is_grad_enabled()))
        lengths = audio["lengths"].tolist()
        self.batches.append(lengths)
        self.settings.append(settings)
        return [self.answers.get(length, f"w{length}") for length in lengths]


def clip(samples):
    return {"array": np.full(samples, 0.1, dtype=np.float32), "sampling_rate": RATE}


def wav(samples):
    file = io.BytesIO()
    soundfile.write(file, np.full(samples, 0.1), RATE, format="WAV")
    return file.getvalue()


def make_rows(lengths, **columns):
    return [{"audio": {"bytes": wav(length), "path": None}, "text": f"w{length}", **columns} for length in lengths]


LENGTHS = [300, 100, 500, 200, 400]


def test_hypotheses_come_in_the_order_of_the_rows_and_batches_longest_first():
    rows = make_rows(LENGTHS)
    for row, length in zip(rows, LENGTHS, strict=True):
        row["duration"] = length / RATE
    family = CountingFamily()
    found = transcribe(ModeModel(), None, rows, batch_size=2, progress=False, family=family)
    assert found == ["w300", "w100", "w500", "w200", "w400"]
    assert family.batches == [[500, 400], [300, 200], [100]]


def test_clips_of_unknown_duration_are_sorted_by_what_their_headers_say():
    rows = make_rows(LENGTHS)
    rows[0]["duration"] = 0.3
    family = CountingFamily()
    found = transcribe(ModeModel(), None, rows, batch_size=3, progress=False, family=family)
    assert found == [f"w{length}" for length in LENGTHS]
    assert family.batches == [[500, 400, 300], [200, 100]]


def test_a_silent_clip_is_measured_where_nothing_was_said_and_refused_elsewhere():
    rows = make_rows([100, 200])
    file = io.BytesIO()
    soundfile.write(file, np.zeros(200), RATE, format="WAV")
    rows[1].update(audio={"bytes": file.getvalue(), "path": None}, text=" ")
    assert measured(rows).hypotheses == ["The cat, sat", ""]
    rows[1]["text"] = "one two"
    with pytest.raises(AudioFault, match=r"row 1.*silent"):
        measured(rows)
    with pytest.raises(AudioFault, match=r"row 1.*silent"):
        transcribe(ModeModel(), None, rows, progress=False, family=CountingFamily())


def test_arrays_are_transcribed():
    rows = [{"audio": clip(length), "text": ""} for length in LENGTHS]
    found = transcribe(ModeModel(), None, rows, progress=False, family=CountingFamily())
    assert found == [f"w{length}" for length in LENGTHS]


def test_streams_are_read_window_by_window():
    count = BATCHES_SORTED_TOGETHER + 3
    stream = datasets.Dataset.from_list(
        [{"audio": clip(100 + place), "duration": (100 + place) / RATE} for place in range(count)]
    ).to_iterable_dataset()
    family = CountingFamily()
    found = transcribe(ModeModel(), None, stream, batch_size=1, progress=False, family=family)
    assert found == [f"w{100 + place}" for place in range(count)]
    assert family.batches[0] == [100 + BATCHES_SORTED_TOGETHER - 1]
    assert family.batches[-1] == [100 + BATCHES_SORTED_TOGETHER]


def test_the_model_is_evaluated_without_gradients_and_each_part_returns_to_its_mode():
    model = ModeModel()
    model.train()
    model.frozen.eval()
    transcribe(model, None, make_rows([100]), progress=False, family=CountingFamily())
    assert model.calls == [(False, False, False)]
    assert (model.training, model.trained.training, model.frozen.training) == (True, True, False)


def test_the_mode_returns_after_a_fault_as_well():
    model = ModeModel()
    with pytest.raises(AudioFault):
        transcribe(model, None, make_rows([100, 9000]), progress=False, family=CountingFamily())
    assert model.training


def test_only_settings_that_were_given_reach_the_decoder():
    family = CountingFamily()
    rows = make_rows([100, 200])
    transcribe(ModeModel(), None, rows, progress=False, family=family)
    transcribe(ModeModel(), None, rows, max_new_tokens=7, num_beams=2, progress=False, family=family)
    rows[1]["language"] = "hi"
    transcribe(ModeModel(), None, rows, progress=False, family=family)
    assert family.settings == [
        {},
        {"max_new_tokens": 7, "num_beams": 2},
        {"languages": ["hi", None]},  # the longer clip first
    ]


def test_a_clip_longer_than_the_window_is_refused_with_its_row():
    with pytest.raises(AudioFault, match=r"row 1.*lasts 3\.00 s.*hears 3 s") as fault:
        transcribe(ModeModel(), None, make_rows([3000, 3001]), progress=False, family=CountingFamily())
    assert fault.value.remedy


def test_a_clip_too_short_for_the_model_is_refused_with_its_row():
    with pytest.raises(AudioFault, match=r"row 1.*lasts 9\.0 ms.*needs 10 ms"):
        transcribe(ModeModel(), None, make_rows([10, 9]), progress=False, family=CountingFamily())


def test_a_bad_clip_stops_the_evaluation_with_its_row():
    rows = make_rows([100, 200, 300], id="clip")
    rows[1]["audio"] = {"bytes": b"not audio", "path": None}
    with pytest.raises(AudioFault, match=r"row 1.*\(id clip\)"):
        evaluate_model(ModeModel(), None, rows, progress=False, family=CountingFamily())


def test_a_bad_clip_of_a_file_is_named_by_file_and_line(tmp_path):
    (tmp_path / "good.wav").write_bytes(wav(100))
    lines = [json.dumps({"audio": f"{name}.wav", "text": "a"}) for name in ("good", "lost")]
    (tmp_path / "held_out.jsonl").write_text("\n".join(lines))
    with pytest.raises(AudioFault, match=r"held_out\.jsonl:2: .*lost\.wav"):
        transcribe(ModeModel(), None, tmp_path / "held_out.jsonl", progress=False, family=CountingFamily())


def test_a_family_that_loses_a_clip_is_noticed():
    class LosingFamily(CountingFamily):
        def transcribe(self, model, audio, **settings):
            return super().transcribe(model, audio, **settings)[1:]

    with pytest.raises(ValueError, match="zip"):
        transcribe(ModeModel(), None, make_rows([100, 200]), progress=False, family=LosingFamily())


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_holds_at_least_one_clip(batch_size):
    with pytest.raises(ValueError, match=f"got batch_size={batch_size}"):
        transcribe(ModeModel(), None, make_rows([100]), batch_size=batch_size, family=CountingFamily())


ANSWERS = {100: "The cat, sat", 200: "", 300: "a b c", 400: "thanks"}
TRANSCRIPTS = ["the cat sat", "one two", "a x", ""]


def measured(rows=None, **options):
    if rows is None:
        rows = make_rows([100, 200, 300, 400])
        for row, transcript in zip(rows, TRANSCRIPTS, strict=True):
            row["text"] = transcript
    options = {"normalise": "lower", "family": CountingFamily(ANSWERS), **options}
    return evaluate_model(ModeModel(), None, rows, progress=False, **options)


def test_an_evaluation_worked_by_hand():
    # hits 3 | 2 deleted | a kept, x substituted, c added | 1 added: 1 S, 2 D, 2 I in 7 words
    found = measured()
    assert (found.substitutions, found.deletions, found.insertions, found.words) == (1, 2, 2, 7)
    assert found.wer == 5 / 7
    # characters: 0 | 7 deleted | x -> b and " c" added | 6 added, of 11 + 7 + 3 + 0
    assert found.cer == (0 + 7 + 3 + 6) / 21
    assert (found.clips, found.unit, found.normaliser, found.empty_share) == (4, "word", "lower", 0.25)
    assert found.looping_share == 0.0
    assert found.hypotheses == list(ANSWERS.values())
    assert found.seconds_of_audio == pytest.approx(1.0)
    assert found.wall_seconds > 0
    assert found.interval is not None and found.interval[0] <= found.wer <= found.interval[1]


def test_a_result_reads_as_one_line():
    found = measured()
    low, high = (100 * end for end in found.interval)
    assert str(found) == format_result(found)
    assert str(found) == (f"WER 71.4 % (95 % interval {low:.1f} to {high:.1f}), 1 S 2 D 2 I in 7 words, 4 clips")
    single = measured(make_rows([100]))
    assert single.interval is None
    assert str(single) == "WER 300.0 % (no interval), 1 S 0 D 2 I in 1 word, 1 clip"


def test_a_script_without_spaces_is_measured_by_character():
    rows = make_rows([100, 100])
    for row in rows:
        row["text"] = "今天天气"
    family = CountingFamily({100: "今天 天汽"})
    found = evaluate_model(ModeModel(), None, rows, progress=False, family=family)
    assert (found.unit, found.wer, found.cer, found.words) == ("character", 0.25, 0.25, 8)
    assert str(found) == "CER 25.0 % (95 % interval 25.0 to 25.0), 2 S 0 D 0 I in 8 characters, 2 clips"


def test_a_result_goes_into_json_and_its_errors_come_back():
    found = measured(max_new_tokens=5)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["decoding"] == {"batch_size": 16, "max_new_tokens": 5}
    assert plain["interval"] == list(found.interval)
    assert plain["errors"]["insertions"] == [0, 0, 1, 1]
    assert type(found.errors)(**plain["errors"]).wer == found.wer
    assert found.errors.to_dict() == count_errors(TRANSCRIPTS, found.hypotheses, normalise="lower").to_dict()


def test_speakers_are_resampled_where_a_column_names_them():
    rows = make_rows([100, 200, 300, 400])
    for place, row in enumerate(rows):
        row.update(text=TRANSCRIPTS[place], speaker=f"s{place % 2}")
    grouped = measured(rows, group_column="speaker")
    # two speakers: every resample is one of three sums
    assert grouped.interval == pytest.approx((min(2 / 5, 3 / 2), max(2 / 5, 3 / 2)), abs=1e-12)
    for row in rows:
        row["speaker"] = "one"
    assert measured(rows, group_column="speaker").interval is None


def test_a_missing_column_is_named_with_its_nearest_before_anything_is_decoded():
    family = CountingFamily()
    rows = make_rows([100, 200])
    rows[1]["txet"] = rows[1].pop("text")
    with pytest.raises(ValueError, match=r"row 1: .*column 'text' in every row.*Did you mean 'txet'"):
        evaluate_model(ModeModel(), None, rows, progress=False, family=family)
    assert family.batches == []
    with pytest.raises(ValueError, match="column 'speaker'"):
        evaluate_model(ModeModel(), None, make_rows([100]), group_column="speaker", progress=False, family=family)


def test_a_transcript_that_is_no_text_is_refused():
    rows = make_rows([100])
    rows[0]["text"] = 7
    with pytest.raises(ValueError, match="has int in column 'text'"):
        evaluate_model(ModeModel(), None, rows, progress=False, family=CountingFamily())


def test_no_rows_are_no_evaluation():
    stream = datasets.IterableDataset.from_generator(lambda: iter(()))
    for rows in ([], stream):
        with pytest.raises(ValueError, match="no rows"):
            evaluate_model(ModeModel(), None, rows, progress=False, family=CountingFamily())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_model_whose_weights_are_not_finite_has_no_error_rate(value):
    model, family = ModeModel(), CountingFamily()
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    model.register_buffer("steps", torch.tensor([3]))
    assert evaluate_model(model, None, make_rows([100]), progress=False, family=family).clips == 1
    model.trained.weight.data[0, 0] = value
    with pytest.raises(FloatingPointError, match=r"ModeModel has .*in 1 of 5 tensors, first in trained.weight"):
        evaluate_model(model, None, make_rows([100]), progress=False, family=family)
    model.trained.weight.data[0, 0] = 1.0
    model.mask[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"first in mask\)"):
        transcribe(model, None, make_rows([100]), progress=False, family=family)
    assert len(model.calls) == 1


@pytest.mark.slow
@pytest.mark.skipif("AUDIORL_TEST_DATA" not in os.environ, reason="AUDIORL_TEST_DATA is not set")
def test_real_speech_has_the_error_rate_its_readme_states():
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    data = Path(os.environ["AUDIORL_TEST_DATA"])
    checkpoint = data / "models" / "whisper-tiny-regrown"
    # stored in half precision, which a CPU computes ten times as slowly
    model = AutoModelForSpeechSeq2Seq.from_pretrained(checkpoint, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(checkpoint)
    rows = speech_rows(data / "data" / "librispeech-mini" / "validation.jsonl")
    rows = rows.filter(lambda row: row["duration"] <= 11.9)
    found = evaluate_model(model, processor, rows, progress=False, normalise="lower")
    assert 0.32 <= found.wer <= 0.39
    assert found.interval[0] < found.wer < found.interval[1]
