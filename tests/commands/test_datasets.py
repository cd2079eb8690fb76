"""`audiorl datasets` as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import datasets
import pytest

from audiorl import cli
from audiorl.commands.datasets import DatasetsArguments, ExportArguments, export, main
from audiorl.datasets import list_corpora, register_corpus, speech_rows
from audiorl.datasets.corpus import _KNOWN
from audiorl.datasets.export import FORMS
from tests.datasets.corpus_copies import write_copy
from tests.datasets.recordings import recording

HEAVY = ("numpy", "torch", "datasets", "transformers", "trl", "librosa", "soundfile", "pyarrow")


def test_the_list_has_a_line_for_each_corpus(capsys):
    main([])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "task", "languages", "hours", "licence", "hub_id"]
    assert [line.split()[0] for line in lines[: len(list_corpora())]] == list_corpora()
    assert lines[0].split() == ["librispeech", "asr", "en", "982", "CC-BY-4.0", "openslr/librispeech_asr"]
    assert "audiorl datasets NAME" in lines[-1]


def test_one_corpus_is_shown_with_its_splits_columns_and_what_to_know(capsys):
    main(["FLEURS"])
    shown = capsys.readouterr().out
    for words in ("raw_transcription", "google/fleurs", "CC-BY-4.0", "de", "102 languages", 'load_corpus("fleurs"'):
        assert words in shown
    main(["esc50"])
    assert "folds 1, 2, 3" in capsys.readouterr().out


def test_json_for_programs(capsys):
    main(["--json"])
    assert [corpus["name"] for corpus in json.loads(capsys.readouterr().out)] == list_corpora()
    main(["gigaspeech", "--json"])
    assert json.loads(capsys.readouterr().out)["splits"]["validation"] == "dev/dev"


def test_a_misspelt_corpus_and_a_misspelt_flag_get_the_nearest_name(capsys):
    with pytest.raises(ValueError, match="did you mean 'voxpopuli'"):
        main(["voxpopulli"])
    with pytest.raises(SystemExit) as ended:
        main(["--jsn"])
    assert ended.value.code == 2
    assert "did you mean --json?" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Name it: audiorl datasets NAME"):
        main(["--export", "rows.jsonl"])


def test_rows_of_a_copy_are_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"transcript": f"słowo {i}"} for i in range(3)]
    write_copy(tmp_path / "copy", "multilingual_librispeech", "polish/dev-0", rows)
    out = tmp_path / "rows.jsonl"
    flags = ["--split", "validation", "--language", "pl", "--limit", "2", "--path", str(tmp_path / "copy")]
    main(["multilingual_librispeech", "--export", str(out), *flags])
    assert capsys.readouterr().out.startswith("2 rows of multilingual_librispeech lie in")
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(line["text"], line["task"], line["metadata"]["dataset"]) for line in lines] == [
        (f"słowo {i}", "asr", "multilingual_librispeech") for i in range(2)
    ]
    assert len(speech_rows(out, columns={"audio": "audio_path"})) == 2


def test_a_corpus_of_ones_own_is_listed(capsys):
    class Mine:
        name = "mine"

        def rows(self, split, language):
            return [{"audio": "a.wav", "text": "a"}]

    register_corpus(Mine())
    try:
        main([])
    finally:
        del _KNOWN["mine"]
    assert "mine" in capsys.readouterr().out


def test_listing_loads_nothing_heavy():
    program = "import sys; from audiorl.commands.datasets import main; main([]); main(['esc50'])"
    program += f"; print([name for name in {HEAVY} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_rows_of_any_form_are_exported_in_another(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    clip = recording(tmp_path / "a.wav", 1.0)
    lines = [{"audio_filepath": clip, "offset": 0.5 * i, "duration": 0.5, "sentence": f"t{i}"} for i in range(2)]
    (tmp_path / "manifest.json").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "shards"
    flags = ["--format", "webdataset", "--columns", "text=sentence", "--limit", "1"]
    assert cli.command("export") is export
    export(["--dataset_name", str(tmp_path / "manifest.json"), "--output", str(out), *flags])
    assert f"1 rows of {tmp_path}/manifest.json lie in {out}" in capsys.readouterr().out
    (row,) = speech_rows(out)
    assert row["text"] == "t0" and row["audio"]["bytes"].startswith(b"RIFF")
    with pytest.raises(ValueError, match="--limit is how many rows"):
        export(["--dataset_name", "x", "--output", "y", "--limit", "0"])
    with pytest.raises(SystemExit):
        export(["--dataset_name", "x", "--output", "y", "--formt", "kaldi"])
    assert "did you mean --format?" in capsys.readouterr().err


def test_the_forms_of_the_flags_are_those_that_are_written():
    for kind in (DatasetsArguments, ExportArguments):
        (form,) = (one for one in fields(kind) if one.name == "format")
        assert form.metadata["choices"] == tuple(FORMS)


def test_flags_come_from_a_file_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("show.yaml").write_text("name: esc50\njson: true\n")
    main(["--config", "show.yaml"])
    assert json.loads(capsys.readouterr().out)["name"] == "esc50"
    main(["--config", "show.yaml", "--no_json", "--name=fleurs"])
    assert "google/fleurs" in capsys.readouterr().out
