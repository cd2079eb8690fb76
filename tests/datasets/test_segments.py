"""Rows that are segments of longer recordings, against slices of the whole recording."""

from __future__ import annotations

import os

import numpy as np
import pytest
from torch.utils.data import DataLoader

from audiorl.audio import AudioFault, audio_bytes, audio_seconds, load, load_audio, load_row_audio, row_segment
from audiorl.datasets import check_rows, export_rows, speech_rows
from audiorl.datasets.checks import UNLIMITED, outside_seconds
from audiorl.pairs.unpaired import paired_rows
from audiorl.report.audio import PageAudio
from audiorl.report.run_folder import KeptAudio, place_of
from tests.datasets.recordings import RATE, recording

FORMATS = {
    "a.wav": {"subtype": "PCM_16"},
    "b.flac": {"subtype": "PCM_16"},
    "c.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "d.opus": {"format": "OGG", "subtype": "OPUS"},
    "e.mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
    "f.aiff": {"subtype": "PCM_24"},
    "g.wav": {"subtype": "IMA_ADPCM"},
}


@pytest.fixture
def opened(monkeypatch):
    """The paths of the files that are opened."""
    load._recordings.close()
    load._known_shape.cache_clear()
    paths: list[str] = []
    plain = load._open_path

    def counted(path):
        paths.append(path)
        return plain(path)

    monkeypatch.setattr(load, "_open_path", counted)
    yield paths
    load._recordings.close()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channel", [None, 1])
def test_a_segment_is_a_slice_of_the_recording_and_the_file_is_opened_once(tmp_path, opened, name, channel):
    path = recording(tmp_path / name, channels=2, **FORMATS[name])
    whole = load_audio(path, RATE, channel=channel)
    opened.clear()
    for start, end in ((0.5, 1.25), (1.25, 2.0), (0.0, 0.5), (2.0, None), (0.7001, 0.9003)):
        found = load_audio(path, RATE, channel=channel, segment=(start, end))
        expected = whole[round(start * RATE) : None if end is None else round(end * RATE)]
        assert found.tolist() == expected.tolist()
        assert audio_seconds(path, segment=(start, end)) == len(expected) / RATE
    assert opened == [path, path]  # once for samples, once for lengths


def test_a_segment_of_bytes_and_of_an_array(tmp_path):
    path = recording(tmp_path / "a.wav")
    part = load_audio(path, RATE)[8000:16_000].tolist()
    with open(path, "rb") as file:
        content = file.read()
    array = {"array": load_audio(path, RATE), "sampling_rate": RATE}
    for source in (content, {"bytes": content, "path": "a.wav"}, array):
        assert load_audio(source, RATE, segment=(0.5, 1.0)).tolist() == part
        assert audio_seconds(source, segment=(0.5, 1.0)) == 0.5
    cut = audio_bytes(path, segment=(0.5, 1.0))
    assert load_audio(cut, RATE) == pytest.approx(part, abs=1e-4)


def test_a_file_that_changed_is_read_anew_and_few_files_stay_open(tmp_path, opened):
    path = recording(tmp_path / "a.wav")
    assert audio_seconds(path, segment=(1.0, None)) == 2.0 and len(load_audio(path, RATE, segment=(1.0, None))) == 32000
    recording(tmp_path / "a.wav", seconds=2.0)
    assert audio_seconds(path, segment=(1.0, None)) == 1.0 and len(load_audio(path, RATE, segment=(1.0, None))) == 16000
    for number in range(12):
        load_audio(recording(tmp_path / f"{number}.wav", 0.2), RATE, segment=(0.0, 0.1))
    assert len(load._recordings._open) == load._RECORDINGS


def test_a_recording_that_is_decoded_again_and_again_is_told_once(tmp_path, opened, monkeypatch, caplog):
    monkeypatch.setattr(load, "_KEPT_BYTES", 0)
    monkeypatch.setattr("audiorl.audio.sources._said", set())
    paths = [recording(tmp_path / name, **FORMATS[name]) for name in ("c.ogg", "e.mp3")]
    for path in paths * 2:
        load_audio(path, RATE, segment=(1.0, 2.0))
    assert opened == paths * 2
    (message,) = [record.message for record in caplog.records if "decoded as a whole once more" in record.message]
    assert "c.ogg" in message and "Convert it to FLAC" in message


@pytest.mark.parametrize(
    ("row", "segment"),
    [
        ({}, None),
        ({"duration": 2.0}, None),
        ({"offset": 0, "start": None}, None),
        ({"offset": 0, "duration": 2.0}, (0.0, 2.0)),
        ({"offset": 0.5}, (0.5, None)),
        ({"offset": 0.5, "duration": 1}, (0.5, 1.5)),
        ({"start": 0.5, "end": 1.5}, (0.5, 1.5)),
        ({"end": 1.5}, (0.0, 1.5)),
        ({"start": np.float32(0.5), "duration": 1.0, "end": 1.5}, (0.5, 1.5)),
    ],
)
def test_what_columns_say_of_the_segment(row, segment):
    assert row_segment(row) == segment


def rows_of_one(path, **columns):
    return speech_rows([{"audio": path, "text": "a", **columns}])


def judged(rows):
    return [fault.problem for fault in check_rows(rows, text_columns=("text",), distinct=False, **UNLIMITED)]


def test_the_judge_asks_that_segments_lie_inside_and_last_as_long_as_they_say(tmp_path, opened):
    path = recording(tmp_path / "a.wav")
    inside = [{"start": 0.0, "end": 1.0}, {"start": 1.0, "end": 3.05}, {"start": 2.0, "end": 3.0, "duration": 1.02}]
    assert judged(speech_rows([{"audio": path, "text": "a", **row} for row in inside])) == []
    assert opened == [path]
    assert "from 2.5 s to 3.5 s does not lie inside" in judged(rows_of_one(path, start=2.5, end=3.5))[0]
    assert "from 3.2 s to 3.25 s does not lie inside" in judged(rows_of_one(path, start=3.2, end=3.25))[0]
    assert "duration says 2 s, the audio is 1.00 s" in judged(rows_of_one(path, start=0.0, end=1.0, duration=2.0))[0]
    text = speech_rows([{"audio": path, "text": "a", "start": "0:01"}])
    assert "start is '0:01' (str), not seconds of a recording" in judged(text)[0]


def test_bounds_count_the_seconds_of_the_segment(tmp_path):
    path = recording(tmp_path / "a.wav")
    rows = speech_rows([{"audio": path, "text": "a", "start": 0.5, "end": end} for end in (0.7, 1.5, 3.0)])
    found = outside_seconds(rows, 0.5, 2.0)
    assert (found.shorter, found.longer) == ([0], [2])


def test_loader_processes_read_segments_each_from_a_file_of_its_own(tmp_path):
    path = recording(tmp_path / "a.wav")
    whole = load_audio(path, RATE)
    rows = [{"audio": path, "offset": 0.1 * i, "duration": 0.1} for i in range(24)]
    load_row_audio(rows[3], RATE)  # open in this process when the others are forked
    found = list(DataLoader(rows, batch_size=None, num_workers=2, collate_fn=_load))
    for row, samples in zip(rows, found, strict=True):
        start = round(row["offset"] * RATE)
        assert samples.tolist() == whole[start : start + len(samples)].tolist() and 1599 <= len(samples) <= 1601


def _load(row):
    return load_row_audio(row, RATE)


def test_report_and_pairs_know_the_segment(tmp_path):
    path = recording(tmp_path / "a.wav")
    rows = speech_rows([{"audio": path, "text": "a", "start": i, "end": i + 1.0} for i in range(2)])
    places = [place_of(row, KeptAudio(tmp_path)) for row in rows]
    assert [place["segment"] for place in places] == [(0.0, 1.0), (1.0, 2.0)]
    page = PageAudio(tmp_path / "page.html", 1 << 20)
    shown = [page.add(place["audio"], place["seconds"], segment=list(place["segment"])) for place in places]
    assert shown == [{"embedded": 0}, {"embedded": 1}] and page.embedded[0] != page.embedded[1]
    assert page.add(path, 1.0, segment=[0.0, 1.0]) == {"embedded": 0}
    judged = [{"audio": path, "start": i, "end": i + 1.0, "completion": f"{i} {j}", "label": not j}
              for i in range(2) for j in range(2)]  # fmt: skip
    assert [(pair["chosen"], pair["rejected"]) for pair in paired_rows(judged)] == [("0 0", "0 1"), ("1 0", "1 1")]


def test_an_export_keeps_the_segment(tmp_path):
    path = recording(tmp_path / "a.wav")
    given = [{"audio": path, "text": "a", "start": 0.5, "end": 1.5}, {"audio": path, "text": "b", "offset": 2.0}]
    assert export_rows(given, tmp_path / "rows.jsonl", progress=False) == 2
    back = speech_rows(tmp_path / "rows.jsonl")
    assert [row_segment(row) for row in back] == [(0.5, 1.5), (2.0, 3.0)] and back["duration"] == [1.0, 1.0]
    assert [os.path.realpath(row["audio"]["path"]) for row in back] == [os.path.realpath(path)] * 2


def test_a_damaged_part_is_a_fault_of_the_segment(tmp_path):
    path = recording(tmp_path / "a.flac")
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        file.write(bytes(4000))
    load_audio(path, RATE, segment=(0.0, 1.0))
    with pytest.raises(AudioFault, match="cut off or damaged"):
        load_audio(path, RATE, segment=(1.0, 2.5))
