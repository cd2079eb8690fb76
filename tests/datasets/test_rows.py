"""Rows of every source in one form, against the files and arrays they were made of."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict, Features, IterableDataset, List, Value
from torch.utils.data import DataLoader

from audiorl.audio import AudioFault, load_audio
from audiorl.datasets import BadRowsError, iterate_batches, speech_rows
from audiorl.datasets.storage import AUDIO, audio_column

RATE = 16000


def sine(samples: int = 800) -> np.ndarray:
    return (0.5 * np.sin(np.arange(samples) / 10)).astype(np.float32)


def wav(samples: np.ndarray) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, RATE, format="WAV", subtype="FLOAT")
    return content.getvalue()


def listed(rows, column: str) -> list:
    return [row[column] for row in rows]


# ---- JSON ----


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.json"])
def test_rows_of_a_file_have_places_numbers_and_paths_from_the_files_folder(tmp_path, clips, monkeypatch, name):
    content = wav(sine())  # made once: its PEAK chunk holds the second in which it was written
    address = "data:audio/wav;base64," + base64.b64encode(content).decode()
    elements = [
        {"audio": "audio/0.wav", "text": "a", "duration": 0.1},
        {"audio": {"path": "audio/1.wav"}, "text": "b", "language": "de"},
        {"audio": str(clips[2]), "text": "c", "n": 3},
        {"audio": address, "text": "d"},
        {"audio": {"array": sine().tolist(), "sampling_rate": RATE}, "text": "e"},
    ]
    lines = ",\n".join(map(json.dumps, elements))
    (tmp_path / name).write_text(f"[\n{lines}\n]" if name.endswith(".json") else lines.replace(",\n", "\n"))
    monkeypatch.chdir(tmp_path.parent)
    given = f"{tmp_path.name}/{name}"
    rows = speech_rows(given)
    assert isinstance(rows, Dataset)
    assert rows.features["audio"] == AUDIO
    first = 2 if name.endswith(".json") else 1
    assert listed(rows, "where") == [f"{given}:{first + i}" for i in range(5)]
    assert listed(rows, "row_id") == [0, 1, 2, 3, 4]
    assert listed(rows, "text") == list("abcde")
    assert listed(rows, "language") == [None, "de", None, None, None]
    assert listed(rows, "n") == [None, None, 3, None, None]
    assert [len(load_audio(row["audio"], RATE)) for row in rows] == [1600, 3200, 4800, 800, 800]
    assert listed(rows, "audio")[0] == {"bytes": None, "path": f"{tmp_path.name}/audio/0.wav"}
    assert listed(rows, "audio")[3] == {"bytes": content, "path": None}
    assert load_audio(rows[4]["audio"], RATE).tolist() == sine().tolist()


def test_values_of_several_types_in_a_column_come_back_as_they_were(tmp_path):
    values = [5, "5", None, ["a", 1], {"k": [1.5, None]}, True, "ä", 2**63]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": value}) + "\n" for value in values))
    assert listed(speech_rows(path), "text") == values
    assert listed(speech_rows(path).select([1, 0]).add_column("n", [1, 2]), "text") == ["5", 5]


@pytest.mark.parametrize("entry", [5, None, [0.1, 0.2], {}, {"url": "x"}, {"array": [1, 2], "sampling_rate": 8000}])
def test_an_entry_that_is_no_audio_has_its_fault_beside_it(tmp_path, entry):
    with pytest.raises(AudioFault) as expected:
        load_audio(entry, RATE)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"audio": entry}) + "\n" + json.dumps({"audio": "a.wav"}) + "\n")
    rows = speech_rows(path)
    fault = {"column": "audio", "problem": expected.value.problem, "remedy": expected.value.remedy}
    assert listed(rows, "row_faults") == [[fault], None]
    assert listed(speech_rows(rows.to_list()), "row_faults") == [[fault], None]
    with pytest.raises(AudioFault, match="entry is empty"):
        load_audio(rows[0]["audio"], RATE)
    assert rows[1]["audio"]["path"] == str(tmp_path / "a.wav")


def test_an_empty_path_is_empty_and_not_the_files_folder(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"audio": ""}\n{"audio": {"path": ""}}\n')
    for row in speech_rows(path):
        with pytest.raises(AudioFault, match="entry is empty"):
            load_audio(row["audio"], RATE)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.jsonl", "\n \n", r"rows\.jsonl has no rows"),
        ("rows.json", "[]", r"rows\.json has no rows"),
        ("rows.jsonl", '{"where": "x"}', r"'where' of .*rows\.jsonl .*Rename 'where' to 'source_where'"),
        ("rows.json", '[{"a": 1}, {"row_id": 1, "where": 2}]', "Rename 'where' to 'source_where' and 'row_id'"),
        ("rows.csv", "audio,text", r"rows\.csv has no rows"),
    ],
)
def test_a_file_that_holds_no_rows_says_why(tmp_path, name, content, problem):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=problem):
        speech_rows(tmp_path / name)


def test_lines_that_do_not_parse_are_bad_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"audio": "a.wav"}\n{"audio": \n7\n')
    with pytest.raises(BadRowsError, match=r"2 faults in 2 rows:\n.*rows\.jsonl:2: .*\n.*rows\.jsonl:3: "):
        speech_rows(tmp_path / "rows.jsonl")


def test_a_file_is_the_split_train_and_no_other(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"audio": "a.wav"}\n')
    assert len(speech_rows(tmp_path / "rows.jsonl", split="train")) == 1
    with pytest.raises(ValueError, match="split='test' was asked for"):
        speech_rows(tmp_path / "rows.jsonl", split="test")


def test_a_missing_file_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        speech_rows(tmp_path / "gone.jsonl")


def test_a_hundred_thousand_lines_are_read_with_their_places(tmp_path):
    line = json.dumps({"audio": "audio/clip.wav", "chosen": "some words " * 5, "rejected": "other words " * 5})
    (tmp_path / "rows.jsonl").write_text(f"{line}\n" * 100_000)
    rows = speech_rows(tmp_path / "rows.jsonl")
    assert rows[99_999]["where"].endswith("rows.jsonl:100000")


# ---- lists ----


def test_rows_of_a_list_keep_arrays_without_loss():
    stereo = np.stack([sine(), -sine() / 2], axis=1)
    rows = speech_rows(
        [
            {"audio": {"array": sine(), "sampling_rate": RATE}, "text": "a"},
            {"audio": {"array": (sine() * 32767).astype(np.int16), "sampling_rate": RATE}, "speaker": 7},
            {"audio": {"array": stereo.T, "sampling_rate": RATE}},
            {"audio": wav(sine()), "text": "d"},
        ]
    )
    assert listed(rows, "where") == ["row 0", "row 1", "row 2", "row 3"]
    assert listed(rows, "text") == ["a", None, None, "d"]
    assert listed(rows, "speaker") == [None, 7, None, None]
    heard = [load_audio(row["audio"], RATE) for row in rows]
    assert heard[0].tolist() == heard[3].tolist() == sine().tolist()
    assert heard[1] == pytest.approx(sine(), abs=1e-4)
    assert heard[2] == pytest.approx(sine() / 4, abs=1e-6)


def test_a_list_with_elements_that_are_no_dicts_names_them():
    with pytest.raises(BadRowsError, match="row 1: this is of type str") as caught:
        speech_rows([{"audio": "a.wav"}, "b.wav", None])
    assert [fault.row_id for fault in caught.value.faults] == [1, 2]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ([], "no rows"),
        ([{"audio": "a.wav", "where": "here"}], "Rename 'where'"),
        ([{"audio": "a.wav", "row_id": 3}], "Rename 'row_id'"),
        ([{"audio": "a.wav", "row_faults": []}], "Rename 'row_faults' to 'source_row_faults'"),
        (17, "got int"),
        (Dataset.from_dict({"audio": [], "text": []}), "no rows"),
        (Dataset.from_dict({"audio": ["a.wav"], "where": [3]}), "Rename 'where'"),
        (Dataset.from_dict({"audio": ["a.wav"], "row_id": [3], "where": ["x"]}), "Rename 'where' .* and 'row_id'"),
    ],
)
def test_a_source_without_rows_or_with_our_columns_is_refused(source, problem):
    with pytest.raises(ValueError, match=problem):
        speech_rows(source)


# ---- datasets ----


def audio_dataset(count: int = 6) -> Dataset:
    """An `Audio` column of stored bytes, as a data set from the Hub has it."""
    stored = [{"bytes": wav(sine(160 * (i + 1))), "path": f"{i}.wav"} for i in range(count)]
    plain = Dataset.from_dict(
        {"audio": stored, "text": [f"text {i}" for i in range(count)]},
        features=Features({"audio": AUDIO, "text": Value("string")}),
    )
    return plain.cast_column("audio", Audio(sampling_rate=8000))


@pytest.mark.parametrize("shuffled", [False, True])
def test_an_audio_column_is_taken_as_stored_bytes_and_never_decoded(shuffled):
    source = audio_dataset()
    if shuffled:
        source = source.select([4, 1])
    rows = speech_rows(source)
    order = [4, 1] if shuffled else list(range(6))
    assert rows.features["audio"] == AUDIO
    assert listed(rows, "text") == [f"text {i}" for i in order]
    assert listed(rows, "where") == [f"row {i}" for i in range(len(order))]
    assert listed(rows, "audio") == list(source.cast_column("audio", AUDIO)["audio"])
    assert [row["audio"]["path"] for row in rows] == [f"{i}.wav" for i in order]
    assert [len(load_audio(row["audio"], RATE)) for row in rows] == [160 * (i + 1) for i in order]
    assert listed(rows.map(lambda row: {"n": row["row_id"] + 1}), "n") == list(range(1, len(order) + 1))


def test_a_second_audio_column_is_not_decoded_either():
    source = audio_dataset()
    source = source.add_column("noise", source.cast_column("audio", Audio(decode=False))["audio"][:])
    source = source.cast_column("noise", Audio())
    assert speech_rows(source)[0]["noise"]["bytes"] == wav(sine(160))


@pytest.mark.parametrize("kind", ["path", "entry", "array", "integers", "channels", "null"])
def test_other_audio_columns_become_bytes_and_paths(clips, kind):
    samples = Value("int16") if kind == "integers" else Value("float32")
    samples = List(List(samples)) if kind == "channels" else List(samples)
    array = {"integers": (sine() * 32767).astype(np.int16), "channels": np.stack([sine(), sine()])}.get(kind, sine())
    feature, entry = {
        "path": (Value("string"), str(clips[0])),
        "entry": ({"path": Value("string"), "bytes": Value("binary")}, {"path": None, "bytes": wav(sine(1600))}),
        "null": (Value("null"), None),
    }.get(kind, ({"array": samples, "sampling_rate": Value("int64")}, {"array": array, "sampling_rate": RATE}))
    features = Features({"audio": feature, "text": Value("string")})
    source = Dataset.from_dict({"audio": [entry, entry], "text": ["a", "b"]}, features=features)
    for rows in (speech_rows(source), speech_rows(source.to_iterable_dataset())):
        first = next(iter(rows))
        assert rows.features["audio"] == AUDIO
        # a stream says beforehand which columns it has, so it has one for faults where there may be some
        assert set(first) == set(rows.features) == {"audio", "text", "where", "row_id"} | (set(first) & {"row_faults"})
        assert isinstance(rows, IterableDataset) or ("row_faults" in first) == (kind == "null")
        assert (first.get("row_faults") is None) == (kind != "null")
        assert set(first["audio"]) == {"bytes", "path"}
        if kind == "null":
            with pytest.raises(AudioFault, match="entry is empty"):
                load_audio(first["audio"], RATE)
        elif kind in ("path", "entry"):
            assert len(load_audio(first["audio"], RATE)) == 1600
        else:
            assert load_audio(first["audio"], RATE) == pytest.approx(sine(), abs=1e-4)


def test_rows_that_have_the_form_come_back_as_they_are(tmp_path, clips):
    rows = speech_rows([{"audio": str(clip), "text": "a"} for clip in clips])
    assert speech_rows(rows).to_list() == rows.to_list()
    chosen = rows.select([3, 1])
    assert listed(speech_rows(chosen), "row_id") == [3, 1]
    assert listed(speech_rows(chosen.to_list()), "where") == ["row 3", "row 1"]
    stream = speech_rows(speech_rows(audio_dataset().to_iterable_dataset()).skip(2))
    assert listed(stream, "row_id") == [2, 3, 4, 5]
    untyped = IterableDataset.from_generator(lambda: iter([{"audio": "a.wav"}, {"audio": "b.wav"}]))
    assert listed(speech_rows(speech_rows(untyped).skip(1)), "row_id") == [1]


def test_a_tensor_format_is_dropped_and_a_transform_refused():
    rows = speech_rows(Dataset.from_dict({"audio": ["a.wav"], "n": [[1, 2]]}).with_format("torch"))
    assert rows[0]["n"] == [1, 2]
    with pytest.raises(ValueError, match="set_transform"):
        speech_rows(audio_dataset().with_transform(lambda batch: batch))


def test_a_saved_folder_is_loaded_and_its_split_chosen(tmp_path):
    audio_dataset(3).save_to_disk(tmp_path / "one")
    DatasetDict({"train": audio_dataset(2), "test": audio_dataset(4)}).save_to_disk(tmp_path / "two")
    DatasetDict({"only": audio_dataset(5)}).save_to_disk(tmp_path / "three")
    assert len(speech_rows(tmp_path / "one")) == 3
    assert len(speech_rows(str(tmp_path / "two"), split="test")) == 4
    assert len(speech_rows(tmp_path / "three")) == 5
    assert len(speech_rows(DatasetDict({"train": audio_dataset(2)}))) == 2
    for split in (None, "validation"):
        with pytest.raises(ValueError, match=r"splits \['test', 'train'\]"):
            speech_rows(tmp_path / "two", split=split)


def test_another_folder_and_its_splits_are_left_to_datasets(tmp_path, clips):
    folder = tmp_path / "parquet"
    folder.mkdir()
    audio_dataset(5).to_parquet(folder / "train.parquet")
    audio_dataset(3).to_parquet(folder / "test.parquet")
    assert listed(speech_rows(folder, split="train[1:3]"), "text") == ["text 1", "text 2"]
    assert len(load_audio(speech_rows(folder, split="test")[2]["audio"], RATE)) == 480


def test_a_folder_that_datasets_cannot_load_says_why(clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # `datasets` wants it to list a folder of audio files
    folder = clips[0].parent.parent / "by_split"
    shutil.copytree(clips[0].parent, folder / "train" / "spoken")
    with pytest.raises(ValueError, match=r"could not be loaded as a data set: .*torchcodec.*JSON lines file"):
        speech_rows(folder, split="train")


def test_a_name_that_cannot_be_loaded_is_told_without_the_loaders_traceback(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="no-such-org/no-such-rows could not be loaded"):
        speech_rows("no-such-org/no-such-rows")


# ---- streams ----


def test_building_a_stream_reads_nothing_and_reading_it_numbers_the_rows(clips):
    read = []

    def generate():
        for clip in clips:
            read.append(clip)
            yield {"audio": str(clip), "text": clip.stem}

    rows = speech_rows(IterableDataset.from_generator(generate))
    assert isinstance(rows, IterableDataset)
    assert read == []
    first = next(iter(rows))
    assert len(read) == 1
    assert first == {"audio": {"bytes": None, "path": str(clips[0])}, "text": "0", "where": "row 0", "row_id": 0}
    assert listed(rows, "row_id") == [0, 1, 2, 3]


def test_a_stream_of_an_audio_column_is_not_decoded():
    rows = speech_rows(audio_dataset().to_iterable_dataset(num_shards=2))
    assert listed(rows, "audio") == [{"bytes": wav(sine(160 * (i + 1))), "path": f"{i}.wav"} for i in range(6)]
    assert rows.column_names == ["audio", "text", "where", "row_id"]


def test_a_stream_keeps_what_is_no_audio_for_its_row_to_report():
    rows = speech_rows(IterableDataset.from_generator(lambda: iter([{"audio": 5}, {"text": "a"}])))
    first, second = rows
    assert first["row_faults"][0]["problem"] == "the audio entry 5 (int) is not a clip"
    assert second["row_id"] == 1 and "row_faults" not in second


def test_a_stream_with_our_columns_is_refused_when_built_or_where_unknown_when_read():
    source = Dataset.from_dict({"audio": ["a.wav"], "where": [1]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="Rename 'where'"):
        speech_rows(source)
    rows = speech_rows(IterableDataset.from_generator(lambda: iter([{"audio": "a.wav", "row_id": 1}])))
    with pytest.raises(ValueError, match="Rename 'row_id'"):
        next(iter(rows))


def test_workers_that_share_a_stream_give_every_row_a_place_and_a_number_of_its_own():
    rows = speech_rows(audio_dataset().to_iterable_dataset(num_shards=2))
    loader = DataLoader(rows, batch_size=None, num_workers=2)
    found = list(loader)
    assert sorted(row["row_id"] for row in found) == list(range(6))  # noise is drawn by it
    places = {row["text"]: row["where"] for row in found}
    assert len(set(places.values())) == 6
    assert places["text 0"] == "row 0 of worker 0"
    assert places["text 5"] == "row 2 of worker 1"


# ---- and besides ----


def test_rows_come_in_batches_the_last_one_shorter():
    assert list(iterate_batches(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_audio_is_stored_in_chunks_that_arrow_can_count(monkeypatch):
    monkeypatch.setattr("audiorl.datasets.storage._CHUNK_BYTES", 100)
    entries = [{"bytes": bytes([i]) * size, "path": None} for i, size in enumerate((60, 30, 60, 250, 0, 10))]
    column = audio_column(entries)
    assert [len(chunk) for chunk in column.chunks] == [2, 1, 1, 2]
    assert column.to_pylist() == entries


def test_torchcodec_is_never_loaded(tmp_path, clips):
    audio_dataset().save_to_disk(tmp_path / "saved")
    program = (
        "import sys\n"
        "sys.modules['torchcodec'] = None\n"  # importing it raises
        "from audiorl.audio import load_audio\n"
        "from audiorl.datasets import check_rows, speech_rows\n"
        f"rows = speech_rows({str(tmp_path / 'saved')!r})\n"
        "faults = check_rows(rows, text_columns=('text',), tokenize=lambda *a: 0, max_seconds=9, distinct=False)\n"
        "streamed = list(speech_rows(rows.remove_columns(['where', 'row_id']).to_iterable_dataset()))\n"
        "print(len(faults), sum(len(load_audio(row['audio'], 16000)) for row in (*rows, *streamed)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", str(2 * 160 * 21)], done.stderr
