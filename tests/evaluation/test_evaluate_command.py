"""`audiorl evaluate` as a person runs it, on a tiny model and on the demo's checkpoint, here and served."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import soundfile

from audiorl.commands.evaluate import main, read_aliases
from audiorl.datasets import BadRowsError
from audiorl.demo import CHECKPOINT, demo_rows
from audiorl.evaluation import read_document
from audiorl.evaluation.run import Evaluation
from audiorl.evaluation.systems import LocalModel
from audiorl.models import speech_family
from tests.closed_pipe import ClosedPipe
from tests.evaluation.server import serving
from tests.tiny_any import KINDS, LANGUAGES, talkative
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_models import saved, tiny_clips, tiny_whisper

FAST = ("cohere_asr", "granite_speech5")
TEXTS = ["the lazy dog", "the quick brown fox", "", "she had your dark suit"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return Path(saved(tiny_whisper(), tmp_path_factory.mktemp("base")))


@pytest.fixture
def data(tmp_path) -> Path:
    lines = []
    for i, (clip, text) in enumerate(zip(tiny_clips(4), TEXTS, strict=True)):
        soundfile.write(tmp_path / f"{i}.wav", clip if text else np.zeros(8000), 16_000)
        lines.append({"id": f"u{i}", "audio": f"{i}.wav", "text": text, "speaker": f"s{i % 2}", "emotion": "sad"})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def evaluate(base: Path, data: Path, *flags: str, output: Path | None = None) -> dict:
    written = output or data.parent / "result.json"
    main(
        [
            *("--model_name_or_path", str(base), "--dataset_name", str(data), "--output", str(written)),
            *("--max_new_tokens", "8", "--resamples", "200", "--overwrite", *flags),
        ]
    )
    return read_document(written)


def test_one_model_on_one_file(base, data, capsys):
    found = evaluate(base, data, "--group_column", "speaker", "--num_beams", "2", "--probe_seconds", "0.5")
    (one,) = found["measurements"]
    assert (one["model"], one["dataset"]) == (str(base), str(data))
    assert [clip["id"] for clip in one["clips"]] == ["u0", "u1", "u2", "u3"]
    assert [clip["transcript"] for clip in one["clips"]] == TEXTS
    assert one["clips"][1]["audio"] == str(data.parent / "1.wav")
    assert one["clips"][1]["where"] == f"{data}:2"
    assert {name: one["decoding"][name] for name in ("num_beams", "max_new_tokens", "dtype")} == {
        **{"num_beams": 2, "max_new_tokens": 8, "dtype": "float32"}
    }
    assert (one["summary"]["words"], one["summary"]["silence"]["clips"]) == (12, 1)
    assert [part["value"] for part in one["breakdown"]["speaker"]] == ["s0", "s1"]
    assert one["summary"]["rtfx"] == one["summary"]["seconds"] / one["summary"]["decoding_seconds"]
    (probe,) = found["probes"]
    assert probe["seconds"] == 0.5 and probe["clips"][0]["kind"] == "silence"
    printed = capsys.readouterr().out
    assert "95 %" in printed and "0.5 s of silence and noise" in printed and printed.strip().endswith("result.json")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in FAST)) for kind in KINDS])
def test_a_model_of_every_family_is_measured_by_its_name(kind, data, tmp_path):
    """What the document says that the model said is what it says of each clip alone."""
    folder = saved(talkative(kind), tmp_path / "base")
    language = ["--language", LANGUAGES[kind]] if kind in LANGUAGES else []
    (one,) = evaluate(Path(folder), data, *language)["measurements"]
    model, processor = talkative(kind)
    family = speech_family(model, processor)
    asked = {"languages": language[1:]} if language else {}
    clips = [soundfile.read(data.parent / f"{i}.wav", dtype="float32")[0] for i in range(len(TEXTS))]
    said = [family.transcribe(model, family.features([clip]), max_new_tokens=8, **asked)[0] for clip in clips]
    assert [clip["hypothesis"] for clip in one["clips"]] == said and any(said)
    assert one["summary"]["words"] == 12


def test_what_was_measured_is_written_though_nobody_reads_what_is_printed(base, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    with pytest.raises(BrokenPipeError):
        evaluate(base, data, output=tmp_path / "out.json")
    assert len(read_document(tmp_path / "out.json")["measurements"]) == 1


def test_what_was_measured_is_printed_though_it_cannot_be_written(base, data, tmp_path, monkeypatch, capsys):
    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Evaluation, "write", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate(base, data, output=tmp_path / "out.json")
    assert "95 %" in capsys.readouterr().out


def test_models_times_data_sets_each_compared_with_the_first(base, data, tmp_path):
    words = tmp_path / "keywords.txt"
    words.write_text("dog\nfox\n")
    flags = ("--dataset_name", str(data), str(data), "--model_name_or_path", str(base), str(base), str(base))
    found = evaluate(base, data, *flags, "--keywords", str(words), "--limit", "2")
    assert len(found["measurements"]) == 6
    assert [(pair["before"], pair["after"]) for pair in found["comparisons"]] == [(0, 2), (1, 3), (0, 4), (1, 5)]
    assert {pair["p_value"] for pair in found["comparisons"]} == {1.0}
    assert all(one["summary"]["keywords"]["true"] == 2 for one in found["measurements"])
    assert found["settings"]["keywords"] == ["dog", "fox"]


def test_clips_outside_the_bounds_are_left_out_and_counted(base, data):
    (one,) = evaluate(base, data, "--max_audio_seconds", "0.85", "--limit", "2")["measurements"]
    # 0.9, 0.81, 0.5 and 0.63 s
    assert (one["left_out"], [clip["id"] for clip in one["clips"]]) == (1, ["u1", "u2"])
    with pytest.raises(ValueError, match="so none is left"):
        evaluate(base, data, "--min_audio_seconds", "5")


def test_labels_are_measured_as_labels(base, data, tmp_path):
    (tmp_path / "aliases.json").write_text(json.dumps({"sad": ["down"]}))
    flags = ("--label_column", "emotion", "--aliases", str(tmp_path / "aliases.json"))
    found = evaluate(base, data, *flags, "--limit", "2")
    assert found["settings"]["task"] == "labels"
    assert found["measurements"][0]["labels"]["per_label"][0]["label"] == "sad"
    assert found["measurements"][0]["summary"]["wer"] == 1 - found["measurements"][0]["labels"]["accuracy"]


def test_a_classifier_is_measured_by_accuracy(tmp_path, data):
    model, extractor = tiny_classifier("wav2vec2-group")
    model.save_pretrained(tmp_path / "classifier")
    extractor.save_pretrained(tmp_path / "classifier")
    known = list(model.config.id2label.values())
    main(["--model_name_or_path", str(tmp_path / "classifier"), "--dataset_name", str(data), "--limit", "2",
          "--label_column", "emotion", "--output", str(tmp_path / "labels.json")])  # fmt: skip
    (one,) = read_document(tmp_path / "labels.json")["measurements"]
    assert {clip["predicted"] for clip in one["clips"]} <= set(known)
    assert one["labels"]["accuracy"] == sum(clip["predicted"] == "sad" for clip in one["clips"]) / 2
    assert "num_beams" not in one["decoding"]
    lines = [{**json.loads(line), "answers": known} for line in data.read_text().splitlines()]
    (data.parent / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    main(["--model_name_or_path", str(tmp_path / "classifier"), "--dataset_name", str(data.parent / "answers.jsonl"),
          "--limit", "2", "--label_column", "answers", "--output", str(tmp_path / "answers.json")])  # fmt: skip
    (one,) = read_document(tmp_path / "answers.json")["measurements"]
    assert one["labels"]["accuracy"] == 1, "whatever it says is among the accepted answers"
    with pytest.raises(ValueError, match="transcripts are asked for"):
        main(["--model_name_or_path", str(tmp_path / "classifier"), "--dataset_name", str(data)])
    with pytest.raises(ValueError, match="searches nothing"):
        evaluate(tmp_path / "classifier", data, "--label_column", "emotion")


def test_all_bad_rows_are_told_at_once_before_anything_is_decoded(base, data):
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[0]["audio"] = "lost.wav"
    rows[1]["text"] = None
    rows[3]["text"] = 7
    soundfile.write(data.parent / "long.wav", np.full(40_000, 0.1), 16_000)
    rows[2]["audio"] = "long.wav"
    data.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadRowsError) as failure:
        evaluate(base, data)
    told = str(failure.value)
    for words in (":1: ", "lost.wav", ":2: ", "column 'text'", ":3: ", "2.50 s long, the model hears 1 s", "has int"):
        assert words in told
    assert not (data.parent / "result.json").exists()
    with pytest.raises(BadRowsError, match="emotions"):
        evaluate(base, data, "--text_column", "emotions")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--endpoint", "http://127.0.0.1:9"], "go together"),
        (["--endpoint_model", "m"], "go together"),
        (["--api_key_variable", "KEY"], "--endpoint, which is not given"),
        (["--label_column", "emotion", "--text_column", "words"], "not with both"),
        (["--probe_seconds", "30"], "--probe_seconds"),
        (["--limit", "0"], "at least 1"),
        (["--batch_size", "0"], "batch_size=0"),
        (["--num_beams", "0"], "num_beams=0"),
        (["--language", "de"], "English"),
        (["--keywords", "lost.txt"], "lost.txt"),
        (["--aliases", "lost.json", "--label_column", "emotion"], "lost.json"),
        (["--model_name_or_path", "lost"], "No model could be loaded from 'lost'"),
        (["--output", "nowhere/result.json"], "cannot be written"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_decoded(base, data, flags, message, capsys):
    with pytest.raises(ValueError, match=message):
        evaluate(base, data, *flags)
    assert "WER" not in capsys.readouterr().out


def test_a_misspelt_flag_ends_with_the_nearest(base, data, capsys):
    with pytest.raises(SystemExit) as end:
        evaluate(base, data, "--normalizer", "basic")
    assert end.value.code == 2
    assert "did you mean --normaliser?" in capsys.readouterr().err


def test_several_processes_are_refused(base, data, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without torchrun"):
        evaluate(base, data)


def test_aliases_are_lists_of_texts(tmp_path):
    path = tmp_path / "aliases.yaml"
    path.write_text("happy: [joy, glad]")
    assert read_aliases(str(path)) == {"happy": ["joy", "glad"]}
    for content in ("[a, b]", "happy: joy", "no: [nope]"):
        path.write_text(content)
        with pytest.raises(ValueError, match="lists of texts by label"):
            read_aliases(str(path))


def test_a_diverged_model_is_refused_by_its_name_before_any_decodes(base, data, tmp_path, monkeypatch):
    model, _ = tiny_whisper()
    model.model.decoder.layer_norm.weight.data[0] = float("nan")
    shutil.copytree(base, tmp_path / "diverged")
    model.save_pretrained(tmp_path / "diverged")
    monkeypatch.setattr(LocalModel, "transcribe", None)
    with pytest.raises(FloatingPointError, match=r"diverged has weights that are NaN .*decoder\.layer_norm\.weight"):
        main(["--model_name_or_path", str(base), str(tmp_path / "diverged"), "--dataset_name", str(data)])


def test_a_served_model_is_compared_with_a_local_one_and_its_key_stays_secret(base, data, capsys, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "sk-secret-123")

    def perfect(heard, before):
        names = {(data.parent / f"{i}.wav").read_bytes(): text for i, text in enumerate(TEXTS)}
        return 200, json.dumps({"text": names[heard.content]}), {}

    with serving(perfect) as server:
        flags = ("--endpoint", server.url, "--endpoint_model", "served", "--api_key_variable", "SERVER_KEY")
        found = evaluate(base, data, *flags)
        assert {heard.key for heard in server.heard} == {"Bearer sk-secret-123"}
    assert [one["model"] for one in found["measurements"]] == [str(base), "served"]
    assert found["measurements"][1]["summary"]["wer"] == 0.0
    assert found["comparisons"][0]["relative_gain"] == 1.0
    assert "sk-secret" not in json.dumps(found) + capsys.readouterr().out
    monkeypatch.delenv("SERVER_KEY")
    with pytest.raises(ValueError, match="SERVER_KEY, which is unset"):
        evaluate(base, data, *flags)


@pytest.mark.slow
def test_the_demo_behind_transformers_serve_says_what_it_says_here(tmp_path):
    """A real server of another project: `transformers serve`, on loopback."""
    pytest.importorskip("openai", reason="transformers serve wants it")
    lines = []
    for row in demo_rows("held_out", 24, seed=1):
        soundfile.write(tmp_path / f"{row['id']}.wav", row["audio"]["array"], 16_000, subtype="FLOAT")
        lines.append({"id": row["id"], "audio": f"{row['id']}.wav", "text": row["text"]})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "transformers.cli.transformers", "serve", str(CHECKPOINT), "--device", "cpu"),
            *("--dtype", "float32", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        _wait_for(f"{url}/health", server)
        flags = ("--endpoint", url, "--endpoint_model", str(CHECKPOINT), "--requests_in_flight", "2")
        found = evaluate(CHECKPOINT, tmp_path / "rows.jsonl", *flags, "--max_new_tokens", "40")
    finally:
        server.terminate()
        server.wait(30)
    here, served = found["measurements"]
    assert served["decoding"]["endpoint"] == f"{url}/v1/audio/transcriptions"
    assert [clip["hypothesis"] for clip in served["clips"]] == [clip["hypothesis"] for clip in here["clips"]]
    assert found["comparisons"][0]["p_value"] == 1.0 and 0.2 < served["summary"]["wer"] < 0.7


def _wait_for(url: str, server: subprocess.Popen) -> None:
    for _ in range(300):
        assert server.poll() is None, "the server ended"
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise AssertionError("the server does not answer")
