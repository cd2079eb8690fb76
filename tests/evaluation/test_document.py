"""The JSON document: what its description lists is what is in it, and a failed write leaves the former file."""

import json
import re
from dataclasses import replace
from datetime import datetime

import pytest

from audiorl.evaluation import EvaluationSettings, document
from audiorl.evaluation.document import Compared, check_output, read_document, write_document
from audiorl.evaluation.measurement import changes
from audiorl.evaluation.run import Evaluation
from tests.evaluation.clips import measured

PAIRS = [("the cat sat", "the cat sat"), ("one two", ""), ("", "thanks")]


def evaluation(settings=None):
    columns = {"speaker": ["a", "b", "b"], "language": ["en", "en", None], "keywords": [["cat"], None, None]}
    both = [measured(*pairs, settings=settings, **columns) for pairs in (PAIRS, [(true, true) for true, _ in PAIRS])]
    evaluated = [
        replace(found, model=name, dataset="rows.jsonl", left_out=1, decoding={"num_beams": 1})
        for name, found in zip("xy", both, strict=True)
    ]
    return Evaluation(EvaluationSettings(**(settings or {})), evaluated, [Compared(0, 1, changes(*both))], [])


def keys(value):
    """Every key of an object and of what is inside it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in ("versions", "decoding", "aliases"):
                yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


@pytest.mark.parametrize("settings", [None, {"task": "labels"}])
def test_the_description_names_every_key(settings):
    described = set(re.findall(r"\w+", document.__doc__))
    found = set(keys(evaluation(settings).to_dict()))
    assert {"measurements", "hypothesis", "substitutions", "rtfx", "p_value"} <= found
    assert found <= described


def test_a_document_comes_back_as_it_was_written(tmp_path):
    found = evaluation()
    found.write(tmp_path / "result.json")
    back = read_document(tmp_path / "result.json")
    assert {**back, "date": 0} == json.loads(json.dumps({**found.to_dict(), "date": 0}))
    assert datetime.fromisoformat(back["date"]).utcoffset().total_seconds() == 0
    assert {"audiorl", "python", "torch", "transformers", "jiwer"} <= set(back["versions"])
    first, second = back["measurements"]
    assert (first["summary"]["wer"], second["summary"]["wer"], first["left_out"]) == (3 / 5, 0.0, 1)
    assert first["clips"][1] == {
        **{
            "id": "c1",
            "where": "row 1",
            "audio": None,
            "channel": None,
            "segment": None,
            "transcript": "one two",
            "hypothesis": "",
        },
        **{"substitutions": 0, "deletions": 2, "insertions": 0, "hits": 0, "seconds": 1.0},
        **{"speaker": "b", "language": "en", "empty": True, "looping": False, "keywords": None, "predicted": None},
    }
    assert first["clips"][0]["keywords"] == {"hits": 1, "true": 1, "said": 1}
    for one in (first, second):
        for count in ("substitutions", "deletions", "insertions", "hits", "empty", "looping"):
            assert sum(clip[count] for clip in one["clips"]) == one["summary"][count]
    (comparison,) = back["comparisons"]
    assert (comparison["before"], comparison["after"], comparison["before_model"]) == (0, 1, "x")
    assert comparison["better"][0] == {
        **{"clip": 1, "clip_after": 1, "id": "c1"},
        **{"errors_before": 2, "errors_after": 0},
    }


def test_the_report_for_a_terminal_has_the_numbers():
    told = str(evaluation())
    for words in (
        "x on rows.jsonl",
        "60.0",
        "normaliser basic, unit auto",
        "RTFx over everything",
        "silence: 1 of 1 clips got words, 1 altogether",
        "keywords: precision 100.0 %, recall 100.0 %",
        "keywords letter by letter: CER 0.0 %, 100.0 % of those spoken right or nearly right",
        "1 clips left out",
        "speaker",
        "unknown",
        "difference -60.0 points",
        "-100 % relative",
        "2 clips better, 0 worse, 1 with as many errors",
        "better: c1, 2 -> 0 errors",
    ):
        assert words in told, words


def test_the_report_of_labels_has_accuracies_and_confusions():
    told = str(evaluation({"task": "labels"}))
    assert "accuracy 33.3 %" in told and "1 x one two taken for" in told


def test_a_full_disk_is_told_and_leaves_the_former_file(tmp_path, monkeypatch):
    def no_room(*args):
        raise OSError(28, "No space left on device")

    path = tmp_path / "result.json"
    path.write_text("former")
    monkeypatch.setattr(document.os, "replace", no_room)
    with pytest.raises(OSError, match=r"result\.json: .*No space left.*make room"):
        write_document({}, path)
    assert path.read_text() == "former"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_what_cannot_be_written_leaves_the_former_file(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("former")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_document({"wer": float("nan")}, path)
    assert path.read_text() == "former"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    check_output(tmp_path / "new.json")
    (tmp_path / "old.json").write_text("")
    check_output(tmp_path / "old.json", overwrite=True)
    with pytest.raises(ValueError, match=r"exists already.*--overwrite"):
        check_output(tmp_path / "old.json")
    for bad in (tmp_path, tmp_path / "nowhere" / "new.json"):
        with pytest.raises(ValueError, match="cannot be written"):
            check_output(bad, overwrite=True)


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other"}', '{"format": "audiorl evaluation", "version": 2}'])
def test_other_files_are_no_evaluations(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"result\.json (cannot be read|is not an evaluation)"):
        read_document(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_document(tmp_path / "lost.json")
