"""Oracle: systems whose answers are known; nothing is asked of them before every row is checked."""

import io

import datasets
import numpy as np
import pytest
import soundfile

from audiorl import evaluation
from audiorl.audio import AudioFault
from audiorl.datasets import BadRowsError, speech_rows
from audiorl.evaluation import EvaluationSettings, NamedRows, evaluate
from audiorl.evaluation.run import chosen_rows
from audiorl.evaluation.systems import SOUNDS, LocalModel, probe_rows
from audiorl.evaluation.transcription import TranscribedRow, read_rows, where
from audiorl.text.tasks import TRANSCRIPTION, Labels
from tests.tiny_ctc import tiny_ctc

SETTINGS = EvaluationSettings(resamples=50)


class Echo:
    """Says the transcript, or always the same."""

    name, includes, decoding_seconds = "echo", "nothing", 1.0

    def __init__(self, said=None, labels=None, window=(0.0, None)):
        self.said, self.task = said, TRANSCRIPTION if labels is None else Labels(labels)
        self.min_seconds, self.max_seconds = window
        self.decodes_with_prompts = False
        self.setting_columns = ("language", "task")
        self.asked = 0

    def transcribe(self, rows, transcript_column, *, check=None, progress=True):
        for place, row in enumerate(read_rows(rows)):
            self.asked += 1
            if check is not None:
                check(row, where(place, row))
            yield TranscribedRow(row, row[transcript_column] if self.said is None else self.said, 1.0)

    def decoding(self):
        return {}


def wav(seconds):
    file = io.BytesIO()
    soundfile.write(file, np.full(int(1000 * seconds), 0.1), 1000, format="WAV")
    return {"bytes": file.getvalue(), "path": None}


def rows_of(*texts, seconds=1.0, **columns):
    made = [{"text": text, "audio": wav(seconds)} for text in texts]
    return speech_rows([{**row, **{name: of[i] for name, of in columns.items()}} for i, row in enumerate(made)])


def named(name="rows", **columns):
    return NamedRows(name, rows_of("a b", "c d", **columns))


def test_every_public_name_is_there():
    assert all(getattr(evaluation, name) for name in evaluation.__all__)
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        evaluation.evaluat  # noqa: B018


def test_every_model_meets_every_data_set_and_is_compared_with_the_first():
    found = evaluate([Echo(), Echo("a b")], [named("one"), named("two")], SETTINGS, probe_seconds=1.0, progress=False)
    assert [(one.dataset, one.wer) for one in found.evaluated] == [
        *(("one", 0.0), ("two", 0.0), ("one", 0.5), ("two", 0.5))
    ]
    assert [(pair.before, pair.after, pair.changes.difference) for pair in found.compared] == [(0, 2, 0.5), (1, 3, 0.5)]
    first, second = (probe.to_dict() for probe in found.probes)
    assert (first["with_output"], first["words"]) == (0, 0)
    assert (second["with_output"], second["words"]) == (5, 10)


def test_nothing_is_asked_before_the_last_row_is_checked():
    good, echo = named(), Echo(window=(0.5, 2.0))
    for bad, message in (
        (NamedRows("long", rows_of("a", "b", seconds=3.0)), "3.00 s long, the model hears 2 s"),
        (NamedRows("short", rows_of("a", "b", seconds=0.1)), "100.0 ms long, the model needs 500 ms"),
        (NamedRows("empty", speech_rows([{"text": "a", "audio": None}, {"text": None, "audio": wav(1)}])), "2 faults"),
        (NamedRows("textless", speech_rows([{"words": "a", "audio": wav(1)}])), "text"),
    ):
        with pytest.raises(BadRowsError, match=message):
            evaluate([echo], [good, bad], SETTINGS, progress=False)
    for seconds in (0.0, 0.4, 2.1):
        with pytest.raises(ValueError, match="--probe_seconds"):
            evaluate([echo], [good], SETTINGS, probe_seconds=seconds, progress=False)
    for systems, data in (([], [good]), ([echo], [])):
        with pytest.raises(ValueError, match="needs a model and a data set"):
            evaluate(systems, data, SETTINGS)
    assert echo.asked == 0


@pytest.mark.parametrize("kind", ["wav2vec2", "parakeet"])
def test_a_clip_below_the_first_frame_of_a_ctc_model_is_a_bad_row(kind):
    model = LocalModel("ctc", *tiny_ctc(kind))
    # more letters than half a second has frames: that is no fault of the row
    rows = [{"text": "a long sentence " * 9, "audio": wav(seconds)} for seconds in (0.5, 0.012)]
    least = f"{1000 * model.min_seconds:g} ms"
    with pytest.raises(BadRowsError, match=f"row 1: the clip is 12.0 ms long, the model needs {least}") as told:
        evaluate([model], [NamedRows("rows", speech_rows(rows))], SETTINGS, progress=False)
    assert len(told.value.faults) == 1
    stream = speech_rows(datasets.Dataset.from_list(rows).to_iterable_dataset())
    with pytest.raises(AudioFault, match=f"row 1: the clip lasts 12.0 ms, the model needs {least}"):
        evaluate([model], [NamedRows("stream", stream)], SETTINGS, progress=False)


def test_a_stream_is_measured_and_its_rows_are_checked_as_they_come():
    made = datasets.Dataset.from_list([{"text": text, "audio": wav(1)} for text in ("a", "b", "c")])
    stream = speech_rows(made.to_iterable_dataset())
    found = evaluate([Echo()], [chosen_rows("stream", stream, SETTINGS, limit=2)], SETTINGS, progress=False)
    assert [clip.transcript for clip in found.evaluated[0].rows] == ["a", "b"]
    with pytest.raises(ValueError, match="the stream stream does not allow"):
        chosen_rows("stream", stream, SETTINGS, max_seconds=1.0)
    bad = datasets.IterableDataset.from_generator(lambda: iter([{"text": None, "audio": wav(1)}]))
    with pytest.raises(ValueError, match=r"row 0: .*column 'text'"):
        evaluate([Echo()], [NamedRows("bad", speech_rows(bad))], SETTINGS, progress=False)


def test_label_numbers_become_names():
    kinds = datasets.Features({"label": datasets.ClassLabel(names=["no", "yes"])})
    made = datasets.Dataset.from_dict({"label": [1, 0, 1]}, features=kinds)
    made = made.add_column("audio", [wav(1)] * 3)
    settings = EvaluationSettings(task="labels", text_column="label", resamples=50)
    data = chosen_rows("numbers", speech_rows(made), settings)
    (one,) = evaluate([Echo("yes", labels=["yes", "no", "maybe"])], [data], settings, progress=False).evaluated
    assert one.measured.answers.true == ["yes", "no", "yes"]
    assert one.measured.answers.to_dict()["accuracy"] == 2 / 3
    with pytest.raises(ValueError, match="transcripts are asked for"):
        evaluate([Echo(labels=["yes", "no"])], [named()], SETTINGS)
    with pytest.raises(ValueError, match="silence shows nothing"):
        evaluate([Echo(labels=["yes", "no"])], [data], settings, probe_seconds=1.0)


def test_the_probe_is_silence_and_noise_of_the_stated_length_and_level():
    rows = probe_rows(0.5)
    assert [row["text"] for row in rows] == [""] * len(SOUNDS)
    for row, (kind, level) in zip(rows, SOUNDS, strict=True):
        samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]))
        assert (len(samples), rate) == (8000, 16_000)
        if level is None:
            assert kind == "silence" and not samples.any()
        else:
            # 16 bits round a noise of -50 dB by less than 0.1 dB
            assert 20 * np.log10(np.sqrt(np.mean(samples**2))) == pytest.approx(level, abs=0.1)
    assert rows == probe_rows(0.5)
