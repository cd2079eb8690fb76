"""Rows written in every form and read back are the same rows."""

from __future__ import annotations

import csv
import json
import sys
import tarfile

import numpy as np
import pytest

from audiorl.audio import load_row_audio
from audiorl.datasets import BadRowsError, export_rows, speech_rows
from audiorl.datasets.export import FORMS
from tests.datasets.recordings import RATE, recording

NAMES = {
    **{"jsonl": "out.jsonl", "nemo": "out.json", "kaldi": "out", "lhotse": "out.jsonl.gz", "shar": "out"},
    **{"webdataset": "out", "parquet": "out.parquet", "ms-swift": "out.jsonl", "llama-factory": "out.jsonl"},
    **{"common-voice": "out.tsv"},
}


@pytest.fixture
def rows(tmp_path):
    """A file, a segment of one, one channel of one, and bytes."""
    one = recording(tmp_path / "a.wav", 1.0, subtype="PCM_16")
    two = recording(tmp_path / "b.flac", 2.0, channels=2, subtype="PCM_16")
    with open(one, "rb") as file:
        content = file.read()
    texts = [{"text": text, "language": "de", "speaker": "x"} for text in ("eins", "zwei, drei", "größer", "一")]
    sounds = [
        {"audio": one},
        {"audio": one, "offset": 0.25, "duration": 0.5},
        {"audio": two, "channel": 1},
        {"audio": {"bytes": content, "path": None}},
    ]
    return [{"id": f"u{i}", **sound, **text} for i, (sound, text) in enumerate(zip(sounds, texts, strict=True))]


def samples_of(rows):
    return [load_row_audio(row, RATE) for row in rows]


def said(rows, *columns):
    return [tuple(row.get(column) for column in columns) for row in rows]


def require_the_same_sound(found, given):
    for after, before in zip(samples_of(found), samples_of(given), strict=True):
        np.testing.assert_allclose(after, before, atol=1 / 32768)


@pytest.mark.parametrize("form", FORMS)
def test_rows_go_through_every_form_and_back(tmp_path, rows, form):
    path = tmp_path / "somewhere" / NAMES[form]
    assert export_rows(rows, path, form=form, progress=False) == 4
    back = speech_rows(path)
    assert said(back, "id", "text", "language", "speaker") == said(rows, "id", "text", "language", "speaker")
    require_the_same_sound(back, speech_rows(rows))
    again = path.with_name(f"again-{path.name}")
    export_rows(back, again, form=form, progress=False)
    assert said(speech_rows(again), "id", "text") == said(rows, "id", "text")
    with pytest.raises(ValueError, match="exists already"):
        export_rows(rows, path, form=form, progress=False)


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if ("chosen", "rejected") in form.texts])
@pytest.mark.parametrize("kind", ["pairs", "judged"])
def test_pairs_and_judged_rows_go_through_the_forms_that_hold_them(tmp_path, rows, form, kind):
    texts = {"chosen": "eins", "rejected": "keins"} if kind == "pairs" else {"completion": "eins", "label": True}
    given = [{"audio": rows[0]["audio"], "id": "x", "prompt": "Write.", "system": "You write.", **texts}]
    path = tmp_path / "somewhere" / NAMES[form]
    export_rows(given, path, form=form, progress=False)
    columns = ("id", "prompt", "system", *texts)
    assert said(speech_rows(path), *columns) == said(given, *columns)


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if ("chosen", "rejected") not in form.texts])
def test_forms_of_transcripts_refuse_pairs(tmp_path, rows, form):
    given = [{"audio": rows[0]["audio"], "chosen": "a", "rejected": "b"}]
    with pytest.raises(ValueError, match=rf"The form {form} holds transcripts.*parquet, ms-swift, llama-factory"):
        export_rows(given, tmp_path / "out", form=form, progress=False)


def test_a_nemo_manifest_names_what_nemo_reads(tmp_path, rows):
    export_rows(rows[:2], tmp_path / "out.json", form="nemo", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    common = {"audio_filepath": rows[0]["audio"], "lang": "de", "speaker": "x"}
    assert lines == [
        {**common, "id": "u0", "duration": 1.0, "text": "eins"},
        {**common, "id": "u1", "offset": 0.25, "duration": 0.5, "text": "zwei, drei"},
    ]


def test_a_kaldi_folder_is_sorted_and_needs_no_commands(tmp_path, rows, caplog):
    del rows[2]
    export_rows([{**row, "room": "big"} for row in reversed(rows)], tmp_path / "out", form="kaldi", progress=False)
    assert "no place for the columns ['room']" in caplog.text
    text = {file.name: file.read_text() for file in (tmp_path / "out").iterdir() if file.is_file()}
    audio = f"{tmp_path}/out/audio/000000.wav"
    assert text["wav.scp"] == f"rec000000 {audio}\nrec000001 {rows[0]['audio']}\n"
    assert text["segments"] == "u0 rec000001 0 -1\nu1 rec000001 0.25 0.75\nu3 rec000000 0 -1\n"
    assert text["text"] == "u0 eins\nu1 zwei, drei\nu3 一\n"
    assert text["utt2spk"] == "u0 x\nu1 x\nu3 x\n"
    with pytest.raises(BadRowsError, match="'u 1' is there twice, empty or has spaces"):
        export_rows([{**rows[0], "id": "u 1"}], tmp_path / "other", form="kaldi", progress=False)
    assert not list(tmp_path.glob("other*"))


def test_a_table_of_common_voice_has_one_line_a_row(tmp_path, rows):
    given = [{**rows[0], "votes": 3, "tags": ["a", "b"], "text": 'He said "a'}]
    export_rows(given, tmp_path / "test.tsv", form="common-voice", progress=False)
    with open(tmp_path / "test.tsv", newline="") as file:
        (line,) = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert (line["path"], line["sentence"], line["client_id"]) == ("test/000000.wav", 'He said "a', "x")
    assert (line["votes"], line["tags"]) == ("3", '["a", "b"]')
    with pytest.raises(BadRowsError, match="has a tab or a line break"):
        export_rows([{**rows[0], "text": "a\tb"}], tmp_path / "dev.tsv", form="common-voice", progress=False)


def test_tars_have_shards(tmp_path, rows, monkeypatch):
    monkeypatch.setattr("audiorl.datasets.export._SHARD", 2)
    for form in ("webdataset", "shar"):
        export_rows(rows[:3], tmp_path / form, form=form, progress=False)
        assert said(speech_rows(tmp_path / form), "text") == said(rows[:3], "text")
    assert sorted(file.name for file in (tmp_path / "webdataset").iterdir()) == ["000000.tar", "000001.tar"]
    with tarfile.open(tmp_path / "shar" / "recording.000001.tar") as tar:
        assert tar.getnames() == ["u2.wav", "u2.json"]


def test_a_parquet_file_has_one_set_of_columns(tmp_path, rows):
    many = [{"audio": rows[0]["audio"], "text": "a"}] * 101
    stream = (
        speech_rows(many).to_iterable_dataset().map(lambda row: {**row, **({"b": 1} if row["row_id"] > 99 else {})})
    )
    with pytest.raises(ValueError, match="has a column 'b', which the first 100 rows lack"):
        export_rows(stream, tmp_path / "a.parquet", form="parquet", progress=False)
    assert export_rows(stream.take(100), tmp_path / "a.parquet", form="parquet", progress=False) == 100


def test_a_form_that_is_none_is_answered_with_those_there_are(tmp_path, rows):
    with pytest.raises(ValueError, match=r"form is one of jsonl, nemo.*--format"):
        export_rows(rows, tmp_path / "b", form="nemoo", progress=False)


# ---- lhotse itself, where it is installed ----


@pytest.fixture
def lhotse():
    return pytest.importorskip("lhotse", reason="lhotse is not installed")


def test_lhotse_reads_what_is_written(tmp_path, rows, lhotse):
    given = speech_rows(rows)
    export_rows(given, tmp_path / "cuts.jsonl", form="lhotse", progress=False)
    export_rows(given, tmp_path / "shar", form="shar", progress=False)
    shards = {"cuts": [tmp_path / "shar/cuts.000000.jsonl.gz"], "recording": [tmp_path / "shar/recording.000000.tar"]}
    for cuts in (lhotse.CutSet.from_jsonl(tmp_path / "cuts.jsonl"), lhotse.CutSet.from_shar(shards)):
        for cut, row, samples in zip(cuts, given, samples_of(given), strict=True):
            assert (cut.id, cut.supervisions[0].text) == (row["id"], row["text"])
            np.testing.assert_allclose(cut.load_audio()[0], samples, atol=1 / 32768)


def test_what_lhotse_writes_is_read(tmp_path, rows, lhotse):
    mono = [row for row in rows if isinstance(row["audio"], str) and "channel" not in row]
    export_rows(mono, tmp_path / "cuts.jsonl", form="lhotse", progress=False)
    cuts = lhotse.CutSet.from_jsonl(tmp_path / "cuts.jsonl").to_eager()
    mixed = lhotse.CutSet.from_cuts([cuts[0].append(cuts[1]).merge_supervisions()])
    mixed.to_file(tmp_path / "mixed.jsonl.gz")
    (row,) = speech_rows(tmp_path / "mixed.jsonl.gz")
    assert row["text"] == "eins zwei, drei" and len(load_row_audio(row, RATE)) == RATE * 3 // 2
    lost = json.dumps({**mixed[0].to_dict(), "type": "MixedCut"}).replace("a.wav", "gone.wav")
    (tmp_path / "lost.jsonl").write_text(lost)
    with pytest.raises(BadRowsError, match="the cut is a MixedCut, and lhotse cannot read it"):
        speech_rows(tmp_path / "lost.jsonl")
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "flac"}, num_jobs=1)
    back = speech_rows(tmp_path / "shar")
    assert said(back, "id", "text") == said(mono, "id", "text")
    require_the_same_sound(back, speech_rows(mono))
    assert "lhotse" in sys.modules
