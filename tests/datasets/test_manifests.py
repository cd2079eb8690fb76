"""Rows in the forms of other tools, written here as their documents show them, against the rows they mean."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import sys
import tarfile

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, Features, Value

from audiorl.audio import load_audio, load_row_audio, row_segment
from audiorl.datasets import BadRowsError, check_rows, drop_bad_rows, speech_rows
from audiorl.datasets.checks import UNLIMITED
from tests.datasets.recordings import RATE, recording


@pytest.fixture
def clips(tmp_path):
    """a.wav of 1 s and b.flac of 2 s."""
    recording(tmp_path / "a.wav", 1.0, subtype="PCM_16")
    recording(tmp_path / "b.flac", 2.0, subtype="PCM_16")
    return tmp_path


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def said(rows, *columns):
    return [tuple(row.get(column) for column in columns) for row in rows]


def faultless(rows, *texts):
    assert check_rows(rows, text_columns=texts or ("text",), distinct=False, **UNLIMITED) == []
    return rows


# ---- JSON rows ----


def test_a_nemo_manifest(clips):
    given = [
        {"audio_filepath": "b.flac", "offset": 0.5, "duration": 1.0, "text": "one", "lang": "en"},
        {"audio_filepath": str(clips / "a.wav"), "duration": 1.0, "text": "two", "lang": "de"},
    ]
    (clips / "manifest.json").write_text(lines(given))
    rows = faultless(speech_rows(clips / "manifest.json"))
    assert said(rows, "text", "language", "duration", "offset") == [("one", "en", 1.0, 0.5), ("two", "de", 1.0, None)]
    assert load_row_audio(rows[0], RATE).tolist() == load_audio(str(clips / "b.flac"), RATE)[8000:24000].tolist()
    assert rows["where"][1] == f"{clips}/manifest.json:2"
    again = speech_rows(clips / "manifest.json", columns={"audio": "audio_filepath"})
    assert again["audio"] == rows["audio"]


def test_a_nemo_manifest_that_translates_says_so(clips):
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "eins", "source_lang": "en", "target_lang": "de"}
    (clips / "manifest.json").write_text(lines([row]))
    assert said(speech_rows(clips / "manifest.json"), "language", "task") == [("en", "translate:de")]


def cut(path, seconds, start=0.0, **changes):
    duration = changes.pop("duration", seconds - start)
    supervision = {"id": "s", "recording_id": "r", "start": 0.0, "duration": duration, "channel": 0, "text": "one"}
    return {
        **{"id": "c", "start": start, "duration": duration, "channel": 0, "type": "MonoCut"},
        "supervisions": [{**supervision, "language": "en", "speaker": "x", "custom": {"noise": "low"}}],
        "recording": {
            **{"id": "r", "sampling_rate": RATE, "num_samples": round(seconds * RATE), "duration": seconds},
            "sources": [{"type": "file", "channels": [0], "source": str(path)}],
        },
        **changes,
    }


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_lhotse_cuts(clips, name):
    two = cut("b.flac", 2.0, 0.5, duration=1.0)
    two["recording"]["sources"][0]["channels"] = [0, 1]
    text = lines([cut(clips / "a.wav", 1.0), two, cut(clips / "a.wav", 1.0, supervisions=[])]).encode()
    (clips / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    rows = speech_rows(clips / name)
    assert said(rows, "text", "language", "speaker", "noise", "id", "offset", "duration", "channel") == [
        ("one", "en", "x", "low", "c", None, 1.0, None),
        ("one", "en", "x", "low", "c", 0.5, 1.0, 0),
        (None, None, None, None, "c", None, 1.0, None),
    ]
    assert rows[1]["audio"]["path"] == str(clips / "b.flac")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (cut("a.wav", 1.0, type="MixedCut"), "the cut is a MixedCut, which only lhotse reads, and lhotse is not"),
        (cut("a.wav", 1.0, recording=None), "the cut has no recording"),
        (cut("a.wav", 1.0, supervisions=cut("a", 1.0)["supervisions"] * 2), "2 supervisions.*trim-to-supervisions"),
        (cut("a.wav", 1.0)["recording"], "this is a lhotse recording, not a cut.*lhotse cut simple"),
        (cut("a.wav", 1.0)["supervisions"][0], "this is a lhotse supervision, not a cut"),
    ],
)
def test_other_things_of_lhotse_are_named(clips, monkeypatch, row, told):
    for name in ("lhotse", "lhotse.serialization"):
        monkeypatch.setitem(sys.modules, name, None)
    (clips / "cuts.jsonl").write_text(lines([row]))
    with pytest.raises(BadRowsError, match=f"cuts.jsonl:1: .*{told}"):
        speech_rows(clips / "cuts.jsonl")


def chat(question, answer, system=None):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [{"role": "system", "content": system}, *turns] if system else turns


def shared(question, answer=None):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return turns if answer is not None else turns[:1]


CONVERSATIONS = {
    "swift": ({"messages": chat("<audio>Write it down.", "one"), "audios": ["a.wav"]}, {"text": "one"}),
    "swift dpo": (
        {"messages": chat("<audio>Write it down.", "one"), "rejected_response": "won", "audios": ["a.wav"]},
        {"chosen": "one", "rejected": "won"},
    ),
    "swift dpo turns": (
        {
            "messages": chat("<audio>Write it down.", "one"),
            "rejected_messages": chat("<audio>Write it down.", "won"),
            "audios": "a.wav",
        },
        {"chosen": "one", "rejected": "won"},
    ),
    "swift kto": (
        {"messages": chat("<audio>Write it down.", "one"), "label": False, "audios": ["a.wav"]},
        {"completion": "one", "label": False},
    ),
    "parts": (
        {
            "messages": chat([{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "Write it down."}], "one"),
        },
        {"text": "one"},
    ),
    "llama factory": ({"conversations": shared("<audio>Write it down.", "one"), "audios": ["a.wav"]}, {"text": "one"}),
    "llama factory dpo": (
        {
            **{"conversations": shared("<audio>Write it down."), "audios": ["a.wav"]},
            **{"chosen": {"from": "gpt", "value": "one"}, "rejected": {"from": "gpt", "value": "won"}},
        },
        {"chosen": "one", "rejected": "won"},
    ),
    "llama factory kto": (
        {"conversations": shared("<audio>Write it down.", "one"), "kto_tag": True, "audios": ["a.wav"]},
        {"completion": "one", "label": True},
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations_about_a_clip(clips, name):
    given, expected = CONVERSATIONS[name]
    (clips / "rows.json").write_text(json.dumps([{**given, "id": "x"}]))
    (row,) = speech_rows(clips / "rows.json")
    ours = {name: value for name, value in row.items() if name not in ("where", "row_id", "audio")}
    assert ours == {**expected, "id": "x", "prompt": "Write it down."}
    assert row["audio"]["path"] == f"{clips}/a.wav"


def test_a_system_prompt_stays_a_column_of_its_own(clips):
    row = {"messages": chat("<audio>", "one", system="You write."), "audios": ["a.wav"]}
    (clips / "rows.jsonl").write_text(lines([row]))
    assert said(speech_rows(clips / "rows.jsonl"), "system", "prompt", "text") == [("You write.", None, "one")]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": chat("<audio><audio>", "one"), "audios": ["a.wav", "b.flac"]}, "1 questions and 2 clips"),
        ({"messages": chat("Hello", "one")}, "0 clips"),
        ({"messages": [*chat("<audio>", "one"), *chat("And?", "two")], "audios": ["a.wav"]}, "has 2 answers"),
        ({"messages": [{"role": "tool", "content": "x"}], "audios": ["a.wav"]}, "a turn is .*'tool'"),
        ({"messages": chat([{"type": "image"}], "one"), "audios": ["a.wav"]}, "a turn holds .*remove images"),
        ({"audio": "a.wav", "text": "one"}, "row's keys differ from those of the rows before it.*ms-swift"),
    ],
)
def test_conversations_that_are_no_rows_are_faults_of_their_line(clips, row, told):
    good = CONVERSATIONS["swift"][0]
    (clips / "rows.jsonl").write_text(lines([good, row]))
    with pytest.raises(BadRowsError, match=rf"(?s)rows\.jsonl:2: .*{told}"):
        speech_rows(clips / "rows.jsonl")
    kept = speech_rows(clips / "rows.jsonl", keep_unread=True)
    assert len(kept) == 2 and kept[1]["row_faults"][0]["problem"]


def test_rows_that_could_be_two_things_say_which_was_taken(clips, caplog):
    conversation = CONVERSATIONS["swift"][0]
    (clips / "rows.jsonl").write_text(lines([{"audio": "b.flac", "text": "two", **conversation}]))
    assert said(speech_rows(clips / "rows.jsonl"), "text") == [("two",)]
    assert "is read as rows of ours, by audio and their texts; it could be ms-swift" in caplog.text
    (clips / "rows.jsonl").write_text(lines([{"audio_filepath": "b.flac", "text": "two", **conversation}]))
    assert said(speech_rows(clips / "rows.jsonl"), "text") == [("one",)]
    assert "is read as ms-swift's messages; it could be a NeMo manifest, too" in caplog.text


def test_rows_around_which_an_object_stands_are_told_how_to_leave_it(clips):
    (clips / "rows.json").write_text(json.dumps({"data": [{"audio": "a.wav"}]}, indent=1))
    with pytest.raises(ValueError, match=r"its rows under 'data'.*jq \.data"):
        speech_rows(clips / "rows.json")
    (clips / "rows.json").write_text(json.dumps({"x1": {"wav": "a.wav"}, "x2": {"wav": "b.flac"}}, indent=1))
    with pytest.raises(ValueError, match=r"keys are the ids of its rows \('x1'.*to_entries"):
        speech_rows(clips / "rows.json")


# ---- encodings ----


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.tsv", "rows.csv"])
def test_texts_of_any_encoding_are_the_same_rows(clips, name, end, encoding, packed):
    text = {
        "rows.jsonl": '{"audio": "a.wav", "text": "größer, 一"}\n{"audio": "b.flac", "text": ""}\n',
        "rows.tsv": "audio\ttext\na.wav\tgrößer, 一\nb.flac\t\n",
        "rows.csv": 'audio,text\na.wav,"größer, 一"\nb.flac,\n',
    }[name]
    content = text.replace("\n", end).encode(encoding)
    path = clips / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)
    rows = speech_rows(path)
    assert rows["text"] == ["größer, 一", ""]
    assert [row["audio"]["path"] for row in rows] == [f"{clips}/a.wav", f"{clips}/b.flac"]
    assert rows["where"] == [f"{path}:{line}" for line in ((1, 2) if "json" in name else (2, 3))]


# ---- tables ----


def test_common_voice(clips):
    (clips / "clips").mkdir()
    for name in ("a.wav", "b.flac"):
        (clips / name).rename(clips / "clips" / name)
    header = "client_id\tpath\tsentence\tup_votes\tage\tgender\tlocale\n"
    (clips / "test.tsv").write_text(header + 'u1\ta.wav\t"One", he said\t2\t\tmale\tde\nu2\tb.flac\tTwo\t0\t\t\t\n')
    (clips / "dev.tsv").write_text(header + "u3\tb.flac\tThree\t2\t\t\tde\n")
    rows = faultless(speech_rows(clips / "test.tsv"))
    expected = [('"One", he said', "u1", "de", "2", "male"), ("Two", "u2", None, "0", "")]
    assert said(rows, "text", "speaker", "language", "up_votes", "gender") == expected
    assert speech_rows(clips, split="validation")["text"] == ["Three"]
    assert speech_rows(clips / "test.tsv", columns={"audio": "path", "text": "sentence"})["text"] == rows["text"]
    with pytest.raises(ValueError, match=r"splits \['dev', 'test'\]; got split=None.*/dev\.tsv"):
        speech_rows(clips)


def test_numbers_and_empty_cells_of_a_table(clips):
    text = "audio,start,end,duration,language,text\nb.flac,0.5,1.5,1,,one\na.wav,,,,en,two\nb.flac,x,1,,,three\n"
    (clips / "rows.csv").write_text(text)
    rows = speech_rows(clips / "rows.csv")
    assert said(rows.select(range(2)), "start", "end", "duration", "language") == [
        (0.5, 1.5, 1.0, None),
        (None, None, None, "en"),
    ]
    (fault,) = check_rows(rows, text_columns=("text",), distinct=False, **UNLIMITED)
    assert fault.where == f"{clips}/rows.csv:4" and "start is 'x'" in fault.problem


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("rows.csv", "a|one\nb|two\n", "separated by '|', which is no known form"),
        ("rows.csv", "audio,text\na.wav,one, two\n", r"rows\.csv:2 cannot be read: .*Quote values"),
        ("rows.tsv", "audio\ttext\na.wav\n", r"rows\.tsv:2 cannot be read: .*Keep tabs"),
        ("rows.tsv", "audio\taudio\na.wav\tb\n", "Give each column one name"),
        ("rows.tsv", "audio\ttext\n", "has no rows"),
        ("wav.scp", "a a.wav\n", "one file of a Kaldi folder. Pass the folder"),
        ("x.rttm", "SPEAKER x 1 0 1\n", "times of words or speakers.*start"),
        ("rows.txt", "a.wav one\n", "none of the forms that rows come in"),
        ("rows.zip", "PK\x03\x04", "a ZIP archive or a spreadsheet"),
        ("rows.tar", "no tar", "not a tar that can be read"),
        ("rows.parquet", "PAR1 and no more", "could not be loaded"),
    ],
)
def test_files_of_another_kind_are_called_what_they_are(clips, name, content, told):
    (clips / name).write_text(content)
    with pytest.raises(ValueError, match=told):
        speech_rows(clips / name)


@pytest.mark.parametrize("name", ["rows.tsv", "rows.csv", "data/text"])
def test_a_text_in_another_alphabet_is_told_with_its_line(clips, name):
    kaldi(clips, wav_scp=f"u1 {clips}/a.wav\n")
    (clips / name).write_bytes(b"audio\ttext\n" + "u1\tgrößer\n".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}:2 is not UTF-8 \(byte 0xf6\)\. Write the file anew"):
        speech_rows(clips / "data" if "data" in name else clips / name)


def test_a_damaged_gzip_is_named(clips):
    (clips / "rows.jsonl").write_bytes(gzip.compress(b'{"audio": "a.wav"}\n' * 50)[:-9])
    with pytest.raises(ValueError, match="gzip that is cut off or damaged"):
        speech_rows(clips / "rows.jsonl")


# ---- Kaldi ----


def kaldi(folder, **files):
    (folder / "data").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / "data" / name.replace("wav_scp", "wav.scp")).write_text(text)
    return folder / "data"


def test_a_kaldi_folder_with_segments(clips):
    folder = kaldi(
        clips,
        wav_scp=f"r1 {clips}/a.wav\nr2 {clips}/b.flac\n",
        segments="u1 r2 0.5 1.5\nu2 r2 1.5 -1\nu3 r1 0 1\n",
        text="u1 one two\nu2 three\n",
        utt2spk="u1 x\nu2 x\nu3 y\n",
        utt2lang="u1 en\nu2 en\nu3 de\n",
    )
    rows = speech_rows(folder)
    assert said(rows, "id", "text", "speaker", "language") == [
        ("u1", "one two", "x", "en"),
        ("u2", "three", "x", "en"),
        ("u3", None, "y", "de"),
    ]
    assert [row_segment(row) for row in rows] == [(0.5, 1.5), (1.5, None), (0.0, 1.0)]
    assert rows["where"][1] == f"{folder}/segments:2" and len(load_row_audio(rows[1], RATE)) == RATE // 2
    faultless(rows.select(range(2)))


def test_a_kaldi_folder_without_segments_and_paths_from_the_working_folder(clips, monkeypatch):
    monkeypatch.chdir(clips)
    folder = kaldi(clips, wav_scp="u1 a.wav\nu2\tb.flac\n", text="u1 one\nu2 two\n", utt2dur="u1 1.0\nu2 2.0\n")
    rows = faultless(speech_rows(folder))
    assert said(rows, "id", "text", "duration") == [("u1", "one", 1.0), ("u2", "two", 2.0)]
    assert [row["audio"]["path"] for row in rows] == [f"{clips}/a.wav", f"{clips}/b.flac"]


def test_channels_of_kaldi(clips):
    recording(clips / "c.wav", 1.0, channels=2)
    scp = f"c-A {clips}/c.wav\nc-B {clips}/c.wav\n"
    rows = speech_rows(kaldi(clips, wav_scp=scp, reco2file_and_channel="c-A c A\nc-B c B\n"))
    assert rows["channel"] == [0, 1]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"wav_scp": "u1 sph2pipe -f wav a.sph |\n"}, r"wav\.scp:1: the recording is a command.*Run each command once"),
        ({"wav_scp": "u1 raw.ark:17\n"}, "lies in an archive"),
        ({"wav_scp": "u1\n"}, "has no path"),
        ({"wav_scp": ""}, "has no lines"),
        ({"wav_scp": "u1 a.wav\nu1 b.flac\n"}, r"wav\.scp:2: u1 is there twice"),
        (
            {"wav_scp": "r a.wav\n", "segments": "u1 q 0 1\n"},
            "segments:1: the segment is of 'q', which wav.scp does not",
        ),
        ({"wav_scp": "r a.wav\n", "segments": "u1\n"}, "segments:1: the segment is of '', which wav.scp does not"),
        ({"wav_scp": "r a.wav\n", "segments": "u1 r 0\n"}, "the segment has the times '0'"),
        ({"wav_scp": "u1 a.wav\n", "text": "u1 a\nu2 b\n"}, "text:2: the utterance is in the file text, but"),
        ({"wav_scp": "u1 a.wav\n", "reco2file_and_channel": "u1 a C\n"}, "the channel is 'c'"),
    ],
)
def test_kaldi_folders_that_do_not_fit_are_refused_with_the_line(clips, files, told):
    with pytest.raises(ValueError, match=f"(?s){told}"):
        speech_rows(kaldi(clips, **files))


def test_a_folder_that_could_be_two_things_says_which_it_took(clips, caplog):
    folder = kaldi(clips, wav_scp=f"u1 {clips}/a.wav\n")
    recording(folder / "other.wav", 1.0)
    with caplog.at_level(logging.WARNING):
        assert speech_rows(folder)["id"] == ["u1"]
    assert "is read as Kaldi (by wav.scp); it could be a folder of clips, too" in caplog.text


# ---- tars ----


def tar(path, members):
    with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["shard-0.tar", "shard-0.tar.gz"])
def test_webdataset(clips, name):
    one, two = (clips / "a.wav").read_bytes(), (clips / "b.flac").read_bytes()
    members = [
        *(("x/u1.wav", one), ("x/u1.json", json.dumps({"text": "one", "duration": 1.0, "n": 1}).encode())),
        *(("x/u2.flac", two), ("x/u2.txt", "zwö\n".encode()), ("x/u2.cls", b"3"), ("x/u2.spk.txt", b"y")),
    ]
    shard = tar(clips / name, members)
    for source in (shard, clips):
        rows = faultless(speech_rows(source))
        assert said(rows, "id", "text", "n", "label", "spk.txt") == [
            ("x/u1", "one", 1, None, None),
            ("x/u2", "zwö", None, "3", "y"),
        ]
        assert [row["audio"]["bytes"] for row in rows] == [one, two]
        assert rows["where"][1] == f"{shard}:x/u2"


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("a.txt", b"one")], r"rows\.tar:a: it has 0 audio files"),
        ([("a.wav", b"x"), ("a.flac", b"x")], "it has 2 audio files"),
        ([("a.wav", b"x"), ("a.json", b"{")], "a.json is not JSON"),
        ([("a.wav", b"x"), ("a.json", b"[1]")], "a.json is not a JSON object"),
        ([("a.wav", b"x"), ("a.npy", b"\x93\xff")], "a.npy is not text in UTF-8"),
        ([], "has no members"),
    ],
)
def test_tars_that_hold_no_rows_say_why(clips, members, told):
    with pytest.raises(ValueError, match=told):
        speech_rows(tar(clips / "rows.tar", members))


def shar(folder, cuts, clips):
    folder.mkdir()
    (folder / "cuts.000000.jsonl.gz").write_bytes(gzip.compress(lines(cuts).encode()))
    members = [pair for name, content in clips for pair in ((f"{name}.flac", content), (f"{name}.json", b"{}"))]
    tar(folder / "recording.000000.tar", members)
    return folder


def test_lhotse_shar(clips):
    two = (clips / "b.flac").read_bytes()
    source = {"sources": [{"type": "shar", "channels": [0], "source": ""}], "sampling_rate": RATE, "duration": 2.0}
    cuts = [cut("", 2.0, 3.0, duration=2.0, recording=source, id=name) for name in ("c.1", "c.2")]
    rows = faultless(speech_rows(shar(clips / "shar", cuts, [("c.1", two), ("c.2", two)])))
    assert said(rows, "id", "text", "duration", "offset") == [("c.1", "one", 2.0, None), ("c.2", "one", 2.0, None)]
    assert rows[1]["audio"]["bytes"] == two
    with pytest.raises(ValueError, match=r"does not hold the cuts of .*from number 2 on \(1 clips, 2 cuts\)"):
        speech_rows(shar(clips / "broken", cuts, [("c.1", two)]))
    os.remove(clips / "shar" / "recording.000000.tar")
    (clips / "shar" / "other.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has no .*recording\.000000\.tar beside it"):
        speech_rows(clips / "shar")


# ---- Parquet ----


@pytest.mark.parametrize("kind", ["struct", "audio", "bytes", "path", "path in a struct"])
def test_parquet(clips, kind, monkeypatch):
    content = (clips / "a.wav").read_bytes()
    entry = {
        **{"struct": {"bytes": content, "path": "a.wav"}, "audio": {"bytes": content, "path": None}},
        **{"bytes": content, "path": "a.wav", "path in a struct": {"bytes": None, "path": "a.wav"}},
    }[kind]
    features = {"text": Value("string")}
    if kind in ("bytes", "path"):
        features["audio"] = Value("binary" if kind == "bytes" else "string")
    else:
        features["audio"] = {"bytes": Value("binary"), "path": Value("string")}
    rows = Dataset.from_list([{"audio": entry, "text": "one"}], features=Features(features))
    if kind == "audio":
        rows = rows.cast_column("audio", Audio(decode=False))
    (clips / "data").mkdir()
    (clips / "a.wav").rename(clips / "data" / "a.wav")
    rows.to_parquet(clips / "data" / "rows.parquet")
    found = faultless(speech_rows(clips / "data" / "rows.parquet"))
    assert found["text"] == ["one"]
    np.testing.assert_array_equal(load_audio(found[0]["audio"], RATE), soundfile.read(clips / "data" / "a.wav")[0])


# ---- rows that are skipped ----


def skipped(source) -> tuple[list, list[tuple[str, str]]]:
    """The rows that are kept, and place and problem of the others, as `on_bad_rows=skip` has them."""
    rows = speech_rows(source, keep_unread=True)
    faults = check_rows(rows, text_columns=("text",), distinct=False, **UNLIMITED)
    return list(drop_bad_rows(rows, faults, None)), [(fault.where, fault.problem) for fault in faults]


def test_bad_lines_of_a_kaldi_folder_are_rows_to_skip(clips):
    folder = kaldi(
        clips,
        wav_scp=f"r1 {clips}/a.wav\nr2 {clips}/b.flac\nr3 sph2pipe x.sph |\n",
        segments="u1 r1 0 1\nu2 r3 0 1\nu3 q 0 1\nu4 r2 0 x\nu5 r2 0.5 1.5\n",
        text="u1 one\nu2 two\nu3 three\nu4 four\nu5 five\nu6 six\n",
    )
    kept, lost = skipped(folder)
    assert [(row["id"], row["text"], row["row_id"]) for row in kept] == [("u1", "one", 0), ("u5", "five", 4)]
    assert [where for where, _ in lost] == [*(f"{folder}/segments:{n}" for n in (2, 3, 4)), f"{folder}/text:6"]
    assert ["is a command", "which wav.scp does not have", "the times '0 x'", "in no segment"] == [
        next(
            words
            for words in ("is a command", "which wav.scp does not have", "the times '0 x'", "in no segment")
            if words in problem
        )
        for _, problem in lost
    ]
    with pytest.raises(BadRowsError, match="is a command"):
        speech_rows(folder)
    with pytest.raises(BadRowsError, match="is a command"):
        speech_rows(kaldi(clips, wav_scp="r3 x |\n", segments="", text=""), keep_unread=True)


def test_bad_members_of_a_tar_are_rows_to_skip_and_the_others_keep_their_sound(clips):
    members = {
        "a.wav": (clips / "a.wav").read_bytes(),
        "a.txt": b"one",
        "b.txt": b"no sound",
        "c.wav": (clips / "a.wav").read_bytes(),
        "c.flac": (clips / "b.flac").read_bytes(),
        "d.flac": (clips / "b.flac").read_bytes(),
        "d.json": b"{broken",
        "e.flac": (clips / "b.flac").read_bytes(),
        "e.txt": b"five",
    }
    with tarfile.open(clips / "rows.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    kept, lost = skipped(clips / "rows.tar")
    assert [(row["id"], row["text"], row["audio"]["path"]) for row in kept] == [
        ("a", "one", "a.wav"),
        ("e", "five", "e.flac"),
    ]
    assert [row["audio"]["bytes"] for row in kept] == [members["a.wav"], members["e.flac"]]
    assert [where.rpartition(":")[2] for where, _ in lost] == ["b", "c", "d"]
    with pytest.raises(BadRowsError, match="3 faults in 3 rows"):
        speech_rows(clips / "rows.tar")
