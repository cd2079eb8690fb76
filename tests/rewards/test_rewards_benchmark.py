"""The rewards benchmark runs, and its last line is its record."""

import importlib
import json

import pytest

from audiorl.rewards import REWARDS


@pytest.fixture
def benchmark():
    return importlib.import_module("rewards")


def test_last_line_is_json_with_every_reward(benchmark, tmp_path, capsys):
    benchmark.main(["--repeats", "1", "--out", str(tmp_path / "rewards.json")])
    last = capsys.readouterr().out.splitlines()[-1]
    result = json.loads(last)
    assert json.loads((tmp_path / "rewards.json").read_text()) == result
    assert {(row["script"], row["reward"]) for row in result["rows"]} >= {
        (script, name) for script in ("latin", "chinese") for name in REWARDS
    }
    assert all(row["median_ms"] > 0 and len(row["all_ms"]) == 1 for row in result["rows"])
    assert result["hypotheses"] == 512 and result["threads"] == 1
    assert result["target"]["met"] == (result["target"]["reached_ms"] < 50)


def test_texts_are_of_their_script_and_repeatable(benchmark):
    for script, language in (("latin", "en"), ("chinese", "zh")):
        batch = benchmark.make_batch(script, 3)
        assert batch == benchmark.make_batch(script, 3) != benchmark.make_batch(script, 4)
        assert len(batch.completions) == 512 and set(batch.columns["language"]) == {language}
        scores = REWARDS["funasr"](completions=batch.completions, **batch.columns)
        # the first of each eight is right, the last loops
        assert scores[0::8] == [2.0] * 64 and max(scores[7::8]) < min(scores[0::8])


def test_options_that_make_no_sense_are_refused(benchmark, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--repeats", "0"])
    assert stopped.value.code == 2 and "--repeats" in capsys.readouterr().err
