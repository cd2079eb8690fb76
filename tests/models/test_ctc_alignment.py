"""Forced alignment: the path against all paths, and segments of a recording whose words have known times."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

from audiorl.commands import segment
from audiorl.datasets import BadRowsError, check_rows, speech_rows
from audiorl.datasets.checks import UNLIMITED
from audiorl.models import align, segments_of, speech_family
from audiorl.models.ctc_alignment import Alignment, best_path
from tests.oracles_ctc import best_alignment, collapsed
from tests.tiny_ctc import tiny_ctc

RATE = 16_000


@pytest.mark.parametrize("symbols", [[1], [1, 2], [1, 1], [2, 1, 1], [1, 2, 1], [2, 2, 2]])
def test_the_path_is_the_most_probable_of_all(symbols):
    random = np.random.default_rng(sum(symbols))
    for frames in range(1, 8):
        logits = random.normal(0, 2, (frames, 3))
        logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = best_alignment(logps.tolist(), symbols, 0)
        if expected == -np.inf:
            with pytest.raises(ValueError, match="frames of the model"):
                best_path(logps, symbols, 0)
            continue
        extended = np.zeros(2 * len(symbols) + 1, dtype=int)
        extended[1::2] = symbols
        path = best_path(logps, symbols, 0)
        said = extended[path]
        assert collapsed(said.tolist(), 0) == tuple(symbols)
        assert logps[np.arange(frames), said].sum() == pytest.approx(expected, abs=1e-12)
        assert (np.diff(path) >= 0).all()


def test_a_long_path_has_no_better_neighbor():
    """Over many blocks of kept rows: moving any border by a frame makes it less probable."""
    random = np.random.default_rng(0)
    symbols = random.integers(1, 6, 60).tolist()
    logps = np.log(random.dirichlet(np.ones(6), 500))
    path = best_path(logps, symbols, 0)
    extended = np.zeros(121, dtype=int)
    extended[1::2] = symbols
    score = logps[np.arange(500), extended[path]].sum()
    assert collapsed(extended[path].tolist(), 0) == collapsed(np.repeat(extended, 2).tolist(), 0)
    for t in range(1, 500):
        for value in (path[t - 1], path[min(t + 1, 499)]):
            other = path.copy()
            other[t] = value
            moves = np.diff(other)
            if collapsed(extended[other].tolist(), 0) == tuple(symbols) and (moves >= 0).all():
                assert logps[np.arange(500), extended[other]].sum() <= score + 1e-9


# ---- a recording whose words have known times ----


@pytest.fixture(scope="module")
def ctc():
    model, processor = tiny_ctc("wav2vec2")
    return model.eval(), processor


def planted(ctc, monkeypatch, words: list[tuple[str, float, float]], seconds: float):
    """A family that hears these words between these times, and blanks elsewhere."""
    model, processor = ctc
    family = speech_family(model, processor)
    frames = int(seconds * 50)
    logps = torch.full((frames, model.config.vocab_size), -12.0)
    logps[:, family.end_token] = -0.01
    for number, (word, start, end) in enumerate(words):
        ids = family.ctc_text.ids(word)
        places = np.linspace(start * 50, end * 50 - 1, len(ids)).round().astype(int)
        for place, symbol in zip(places, ids, strict=True):
            logps[place] = -12.0
            logps[place, symbol] = -0.02
        if number + 1 < len(words):  # the mark between words
            place = round((end + words[number + 1][1]) * 25)
            logps[place] = -12.0
            logps[place, family.ctc_text.tokenizer.word_delimiter_token_id] = -0.02
    monkeypatch.setattr(family, "frame_logps", lambda *args, **how: logps)
    return family, model, np.zeros(round(seconds * RATE), dtype=np.float32)


SAID = [("HELLO", 0.5, 1.0), ("WORLD", 1.2, 1.7), ("AGAIN", 4.0, 4.6), ("AND", 4.8, 5.0), ("MORE", 8.0, 8.5)]


def test_words_stand_where_they_are_said(ctc, monkeypatch):
    family, model, clip = planted(ctc, monkeypatch, SAID, 10.0)
    found = align(family, model, clip, "Hello, world! 42 again and — more.")
    assert [word.text for word in found.words] == ["Hello,", "world! 42", "again", "and —", "more."]
    for word, (_, start, end) in zip(found.words, SAID, strict=True):
        assert (word.start, word.end) == pytest.approx((start, end), abs=0.03)


def test_one_line_is_cut_at_its_longest_pauses(ctc, monkeypatch):
    family, model, clip = planted(ctc, monkeypatch, SAID, 10.0)
    found = align(family, model, clip, "hello world again and more")
    cut = segments_of(found, max_seconds=3.0)
    assert [one.text for one in cut] == ["hello world", "again and", "more"]
    assert (cut[0].start, cut[0].end) == pytest.approx((0.3, 1.9), abs=0.03)
    assert (cut[2].start, cut[2].end) == pytest.approx((7.8, 8.7), abs=0.03)
    # half a second is too little to stand alone, though its pause is the longest
    assert [one.text for one in segments_of(found, max_seconds=6.0)] == ["hello world", "again and more"]
    assert [one.text for one in segments_of(found, max_seconds=20.0)] == ["hello world again and more"]


def test_lines_are_segments_and_long_ones_are_cut(ctc, monkeypatch):
    family, model, clip = planted(ctc, monkeypatch, SAID, 10.0)
    found = align(family, model, clip, "hello\n\nworld again and\nmore\n")
    assert [one.text for one in segments_of(found, max_seconds=5.0)] == ["hello", "world again and", "more"]
    assert [one.text for one in segments_of(found, max_seconds=2.0)] == ["hello", "world", "again and", "more"]


def test_confidence_is_that_of_the_worst_second():
    logps = np.zeros(300)
    logps[100:125] = -4.0  # half a second of frames of 20 ms
    aligned = Alignment([], logps, 0.02)
    assert aligned.confidence(0.0, 6.0) == pytest.approx(np.exp(-2.0))
    assert aligned.confidence(3.0, 6.0) == 1.0
    assert aligned.confidence(2.0, 2.5) == pytest.approx(np.exp(-4.0))  # shorter than a second: all of it


def test_other_words_have_little_confidence(ctc, monkeypatch):
    family, model, clip = planted(ctc, monkeypatch, SAID, 10.0)
    right = segments_of(align(family, model, clip, "hello world\nagain and\nmore"))
    wrong = segments_of(align(family, model, clip, "hello world\nquick fox\nmore"))
    assert all(one.confidence > 0.9 for one in right)
    assert wrong[1].confidence < 0.3 < wrong[2].confidence


@pytest.mark.parametrize(("text", "told"), [("42 — 7", "no word"), ("word " * 200, "the clip has 100")])
def test_transcripts_that_cannot_be_aligned_are_told(ctc, monkeypatch, text, told):
    family, model, clip = planted(ctc, monkeypatch, [], 2.0)
    with pytest.raises(ValueError, match=told):
        align(family, model, clip, text)


# ---- the command ----


@pytest.fixture
def checkpoint(ctc, tmp_path) -> str:
    model, processor = ctc
    model.save_pretrained(tmp_path / "ctc")
    processor.save_pretrained(tmp_path / "ctc")
    return str(tmp_path / "ctc")


def recordings(folder, **changes):
    samples = np.random.default_rng(0).normal(0, 0.1, 6 * RATE)
    soundfile.write(folder / "talk.flac", samples, RATE)
    row = {"audio": "talk.flac", "text": "HELLO THERE\nAND SO ON", "id": "talk", "speaker": "ann", **changes}
    (folder / "talks.jsonl").write_text(json.dumps(row) + "\n")
    return str(folder / "talks.jsonl")


def run(folder, checkpoint, rows, *flags):
    output = str(folder / "rows.jsonl")
    segment.main(["--model_name_or_path", checkpoint, "--dataset_name", rows, "--output", output, *flags])
    return speech_rows(output)


def test_the_command_writes_rows_that_every_command_reads(tmp_path, checkpoint, capsys):
    rows = run(tmp_path, checkpoint, recordings(tmp_path, start=1.0, end=6.0), "--min_confidence=0")
    assert check_rows(rows, **UNLIMITED, text_columns=("text",), distinct=False) == []
    assert [row["text"] for row in rows] == ["HELLO THERE", "AND SO ON"]
    assert [row["id"] for row in rows] == ["talk-0000", "talk-0001"]
    assert {row["speaker"] for row in rows} == {"ann"}
    assert all(1.0 <= row["start"] < row["end"] <= 6.0 for row in rows), "times count from the file's start"
    assert all(0 <= row["confidence"] <= 1 for row in rows)
    said = capsys.readouterr().out
    assert "2 segments" in said
    assert "RTFx" in said
    assert not (tmp_path / "rows.left_out.jsonl").exists()


def test_segments_of_little_confidence_lie_beside_the_others(tmp_path, checkpoint, capsys):
    with pytest.raises(ValueError, match="no rows"):
        run(tmp_path, checkpoint, recordings(tmp_path), "--min_confidence=0.9999")
    left = [json.loads(line) for line in (tmp_path / "rows.left_out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in left] == ["HELLO THERE", "AND SO ON"]
    assert all("below 0.9999" in row["left_out"] for row in left)
    assert "2 were left out" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--overwrite"):
        run(tmp_path, checkpoint, str(tmp_path / "talks.jsonl"))


def test_what_cannot_be_segmented_is_told_before_a_model_is_loaded(tmp_path):
    rows = recordings(tmp_path, text="")
    with pytest.raises(BadRowsError, match="text is empty"):
        run(tmp_path, "no such model", rows)
    with pytest.raises(ValueError, match="between 0 and 1"):
        run(tmp_path, "no such model", rows, "--min_confidence=1.5")
    with pytest.raises(ValueError, match="Raise --chunk_seconds"):
        run(tmp_path, "no such model", rows, "--chunk_seconds=2", "--overlap_seconds=1.5")


def test_a_model_without_frames_is_refused(tmp_path, tiny_multilingual):
    model, processor = tiny_multilingual
    model.save_pretrained(tmp_path / "whisper")
    processor.save_pretrained(tmp_path / "whisper")
    with pytest.raises(ValueError, match="is no CTC model"):
        run(tmp_path, str(tmp_path / "whisper"), recordings(tmp_path))


def test_a_transcript_that_does_not_fit_is_named_with_its_row(tmp_path, checkpoint):
    with pytest.raises(BadRowsError, match=r"talks\.jsonl:1: the clip is 6.00 s long, the model needs"):
        run(tmp_path, checkpoint, recordings(tmp_path, text="word " * 500))
