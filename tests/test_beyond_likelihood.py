"""The benchmark of what likelihood cannot say: figures by hand, made-up audio, and units where there is speech."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "beyond_likelihood.py"


@pytest.fixture(scope="module")
def beyond():
    return import_module("beyond_likelihood")


def test_keyword_figures_by_hand(beyond):
    row = {"text": "the fox saw anna", "hypothesis": "the fax saw anna anna", "keywords": ["fox", "anna"]}
    found = beyond.keyword_figures("speech", row)
    assert found["WER"] == (2.0, 4.0)
    assert found["keyword F1"] == (2.0, 4.0), "one hit of two spoken and two said"
    assert found["keyword CER"] == (pytest.approx(1.0), 7.0), "one of fox's three letters"
    assert set(beyond.keyword_figures("speech", row | {"keywords": []})) == {"WER"}


def test_hallucination_figures_by_hand(beyond):
    said = {"text": "", "hypothesis": "thank you"}
    assert beyond.hallucination_figures("no speech", said) == {
        "words a clip without speech": (2.0, 1.0),
        "such clips with words": (1.0, 1.0),
    }
    looped = {"text": "a b c", "hypothesis": "a b c a b c"}
    assert beyond.hallucination_figures("speech", looped)["words that loop"] == (3.0, 3.0)
    cut = {"text": "a b c d", "hypothesis": "a b x"}
    (figure,) = beyond.hallucination_figures("cut", cut).values()
    assert figure == (0.0, 4.0), "a wrong word is none too many"


def test_clips_without_speech_are_of_every_kind_and_loudness(beyond):
    rows = beyond.without_speech(10, np.random.default_rng(0))
    assert [row["kind"] for row in rows[:5]] == ["silence", "noise -60 dB", "noise -40 dB", "noise -25 dB", "music"]
    for row in rows:
        clip = row["audio"]["array"]
        assert row["text"] == "" and 16_000 <= len(clip) <= 160_000 and 0 < np.abs(clip).max() <= 1
        if row["kind"].startswith("noise"):
            level = 10 * np.log10(np.mean(clip.astype(np.float64) ** 2))
            assert level == pytest.approx(float(row["kind"].split()[1]), abs=0.1)


def units(beyond, said: dict[str, list[str]]) -> dict[str, dict]:
    """Units of two speakers, two clips each, all "a b c d"."""
    return {
        f"{method}-{speaker}": {
            "method": method,
            "speaker": speaker,
            "half": None,
            "seed": 0,
            "tests": {"speech": [{"text": "a b c d", "hypothesis": text, "keywords": ["b"]} for text in texts]},
        }
        for method, texts in said.items()
        for speaker in ("s", "t")
    }


def test_methods_are_compared_with_sft_and_with_the_nearest(beyond, capsys):
    wrong, right = ["a x c d", "a x c d"], ["a b c d", "a b c d"]
    found = units(
        beyond,
        {
            "checkpoint": wrong,
            "SFT": wrong,
            "SFT, keywords oftener": right,
            "SFT, then GRPO + SFT, keywords": right,
        },
    )
    told = beyond.summary(beyond.KEYWORDS, found)
    assert told["WER"]["SFT"]["value"] == 0.25 and told["keyword F1"]["SFT, keywords oftener"]["value"] == 1.0
    one = told["keyword F1"]["SFT, then GRPO + SFT, keywords"]
    assert one["against_sft"]["difference"] == 1.0 and one["against_sft"]["p_holm"] < 0.01
    assert one["against_nearest"]["method"] == "SFT, keywords oftener"
    assert one["against_nearest"]["difference"] == 0.0 and one["against_nearest"]["p"] == 1.0
    assert "| SFT, keywords oftener | 100.0 % (100.0 to 100.0) | 100.0 | +100.0, p = " in beyond.table(told)
    del found["SFT-t"]
    assert "SFT" not in beyond.summary(beyond.KEYWORDS, found)["WER"]
    assert "SFT is left out: no run yet for t" in capsys.readouterr().out


def test_halves_of_a_speaker_are_put_together_and_seeds_are_averaged(beyond):
    def unit(half: int, seed: int, text: str) -> dict:
        tests = {"speech": [{"text": "a b", "hypothesis": text}]}
        return {"method": "checkpoint", "speaker": "s", "half": half, "seed": seed, "tests": tests}

    found = {str(i): unit(*each) for i, each in enumerate([(0, 0, "a"), (0, 1, "a b"), (1, 0, "x y"), (1, 1, "x y")])}
    errors, words = beyond.by_method(beyond.NO_TRANSCRIPTS, found)["checkpoint"]["s"]["WER"]
    assert errors.tolist() == [0.5, 2.0] and words.tolist() == [2.0, 2.0]


def test_each_seed_has_its_value_beside_that_of_all(beyond):
    found = units(beyond, {"checkpoint": ["a x c d", "a b c d"], "SFT": ["a b c d", "a b c x"]})
    found |= {
        f"{name}-1": one
        | {"seed": 1, "tests": {"speech": [{**row, "hypothesis": "a"} for row in one["tests"]["speech"]]}}
        for name, one in found.items()
        if one["method"] == "SFT"
    }
    told = beyond.summary(beyond.KEYWORDS, found)["WER"]
    assert told["SFT"]["by_seed"] == {0: 1 / 8, 1: 3 / 4} and told["SFT"]["value"] == 7 / 16
    assert told["checkpoint"]["by_seed"] == {0: 1 / 8}, "it has no seed of its own, and is told once"


def test_folds_of_several_seeds_are_told_though_no_seed_has_them_all(beyond):
    found = units(beyond, {"checkpoint": ["a x c d", "a b c d"], "SFT": ["a b c d", "a b c x"]})
    found["SFT-t"] = found["SFT-t"] | {"seed": 1}
    told = beyond.summary(beyond.KEYWORDS, found)
    assert "by_seed" not in told["WER"]["SFT"]
    assert "| SFT | 12.5 % (" in beyond.table(told)


@pytest.mark.slow
@pytest.mark.skipif("AUDIORL_TEST_DATA" not in os.environ, reason="real speech: AUDIORL_TEST_DATA is not set")
@pytest.mark.parametrize("study", ["keywords", "hallucination", "noise", "no_transcripts"])
def test_a_study_runs_on_the_smallest_speaker_and_is_told(tmp_path, study):
    seconds = {json.dumps([name, {}]): 2.0 for name in ("SFTConfig", "GRPOConfig", "RAFTConfig", "ORPOConfig")}
    (tmp_path / "seconds.json").write_text(json.dumps(seconds))
    common = ["--out", str(tmp_path), "--study", study, "--minutes", "0.04"]
    only = {"hallucination": ["SFT", "SFT, silence too"], "no_transcripts": ["RAFT, consensus", "GRPO, consensus"]}
    methods = ["--methods", "checkpoint", *only.get(study, ["SFT"])]
    run = [sys.executable, str(BENCHMARK), "run", *common, "--seeds", "0", "--speakers", "422", *methods]
    subprocess.run(run, capture_output=True, text=True, check=True)
    tell = [sys.executable, str(BENCHMARK), "tell", *common, "--record", str(tmp_path / "record.json")]
    told = subprocess.run(tell, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout.splitlines()[-1])["study"] == study
    assert json.loads((tmp_path / "record.json").read_text())["units"]
