"""The benchmark that leaves one speaker out: its statistics by hand, and a fold of real speech where there is some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "leave_one_out.py"


@pytest.fixture(scope="module")
def loo():
    return import_module("leave_one_out")


def write_units(loo, folder: Path, said: dict[str, dict[str, list[str]]], seeds=(0,)) -> None:
    """Units of made-up speakers whose clips all say "a b c d"; method -> speaker -> hypotheses."""
    for method, by in said.items():
        for speaker, hypotheses in by.items():
            for seed in seeds:
                path = loo.unit_path(folder, 4.0, seed, speaker, method)
                path.parent.mkdir(parents=True, exist_ok=True)
                unit = {"method": method, "speaker": speaker, "seed": seed, "hypotheses": hypotheses}
                unit["signs"] = dict.fromkeys(("entropy", "sample_wer", "best_sample_wer", "flat_groups", "drift"), 0.5)
                unit |= {} if method == loo.CHECKPOINT else {"looks": [0.3, 0.1 * seed, 0.2, 0.2], "steps": [7]}
                path.write_text(json.dumps(unit | {"transcripts": ["a b c d"] * len(hypotheses)}))


def test_folds_train_on_six_look_at_one_and_measure_the_last(loo):
    speakers = {name: [] for name in "abcdefgh"}
    looked_at = set()
    for measured in speakers:
        train, looked = loo.fold(speakers, measured)
        assert len(train) == 6 and {*train, looked, measured} == set(speakers)
        looked_at.add(looked)
    assert looked_at == set(speakers)


def test_pooled_rates_tests_and_kinds_by_hand(loo, tmp_path):
    right, one, two = "a b c d", "a b c x", "a b"
    write_units(
        loo,
        tmp_path,
        {
            "checkpoint": {"s": [one, one], "t": [two, two]},
            "SFT": {"s": [right, one], "t": [one, two]},
            "ORPO": {"s": [right, right], "t": [right, right]},
            "RAFT": {"s": [right, right]},  # a fold is missing
        },
        seeds=(0, 1),
    )
    found = loo.pooled(loo.known_units(tmp_path, None))
    assert set(found) == {"checkpoint", "SFT", "ORPO"}
    told = loo.summary(found)
    assert [told[name]["wer"] for name in ("checkpoint", "SFT", "ORPO")] == [6 / 16, 4 / 16, 0]
    assert told["SFT"]["folds"] == {"s": 1 / 8, "t": 3 / 8} and told["SFT"]["seeds"] == [0, 1]
    assert (told["checkpoint"]["substitutions"], told["checkpoint"]["deletions"]) == (2 / 16, 4 / 16)
    assert told["ORPO"]["against_checkpoint"]["difference"] == -6 / 16
    assert told["ORPO"]["against_sft"]["difference"] == -4 / 16
    assert told["ORPO"]["against_checkpoint"]["p_holm"] >= told["ORPO"]["against_checkpoint"]["p"] > 0
    low, high = told["SFT"]["interval"]
    assert low <= 4 / 16 <= high
    assert (
        loo.table(told).splitlines()[2].startswith("| ORPO | 0.0 % (0.0 to 0.0) | 0.0, 0.0 | 0.0 to 0.0 | -37.5, p = ")
    )
    lines = loo.changes(found, told).splitlines()
    assert lines[4] == "| checkpoint | 12.5, 25.0, 0.0 | 0.50 | 50.0, 50.0 % | 50 % | 0.5000 |  |  |  |"
    assert (
        lines[3]
        == "| SFT | 12.5, 12.5, 0.0 | 0.50 | 50.0, 50.0 % | 50 % | 0.5000 | 0, 4, 0, 0 | 30.0, 5.0, 20.0, 20.0 | 7 |"
    )
    ElementTree.fromstring(loo.picture(told))


def test_more_minutes_are_compared_with_fewer_clip_by_clip(loo, tmp_path):
    right, one, two = "a b c d", "a b c x", "a b"
    checkpoint = {"s": [two, two], "t": [two, two]}
    for folder, said in (("few", {"s": [one, one], "t": [two, one]}), ("more", {"s": [right, one], "t": [one, right]})):
        write_units(loo, tmp_path / folder, {"checkpoint": checkpoint, "SFT": said})
    write_units(loo, tmp_path / "few", {"RAFT": checkpoint})
    few, more = (loo.pooled(loo.known_units(tmp_path / folder, None)) for folder in ("few", "more"))
    tests = loo.against_itself(more, few)
    assert set(tests) == {"SFT"} and tests["SFT"]["difference"] == (2 - 5) / 16
    # nothing changes where s is drawn twice (1 in 4) and each time its second clip (1 in 16): p is twice 1 / 64
    assert tests["SFT"]["p"] == pytest.approx(2 / 64, abs=0.006)
    line = loo.minutes_table(loo.summary(more), tests, 12, 4.0).splitlines()[2]
    assert line.startswith("| SFT | 31.2 % | 12.5 % | -18.8 (-25.0 to -6.2), p = 0.03")


def test_holm_by_hand(loo):
    assert loo.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": 0.03, "b": 0.06, "c": 0.06}
    assert loo.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_a_difference_of_one_sign_has_the_smallest_p_and_one_around_zero_a_large_one(loo):
    assert loo.two_sided(np.full(999, -0.1)) == 2 / 1000
    assert loo.two_sided(np.linspace(-1, 1, 1000)) > 0.9


def test_speakers_are_drawn_as_well_as_clips(loo):
    words = {"s": np.full(3, 4), "t": np.full(3, 4)}
    errors = {"s": np.zeros(3), "t": np.full(3, 4)}
    rates = loo.rates(errors, words, loo.draws(words, resamples=400))
    assert {0.0, 0.5, 1.0} == set(rates)  # of clips alone it would always be a half


def test_a_record_tells_another_folder_what_is_known(loo, tmp_path):
    write_units(loo, tmp_path / "one", {"checkpoint": {"s": ["a b c d"]}})
    record, other = tmp_path / "record.json", tmp_path / "other"
    units = loo.known_units(tmp_path / "one", None)
    record.write_text(json.dumps({"units": units, "seconds_for_a_step": {"[]": 1.5}}))
    loo.with_seconds(other, record)
    assert loo.seconds_known(other) == {"[]": 1.5} and loo.known_units(other, record) == units


def test_one_seed_is_told_and_all_are_kept(loo, tmp_path, monkeypatch):
    write_units(loo, tmp_path, {"checkpoint": {"s": ["a b"]}, "SFT": {"s": ["a b c d"]}})
    write_units(loo, tmp_path, {"SFT": {"s": ["x x x x"]}}, seeds=(1,))
    for path in (tmp_path / "units").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"minutes": 4.0}))
    record = tmp_path / "record.json"
    tell = ["tell", "--out", str(tmp_path), "--seeds", "0", "--record", str(record)]
    monkeypatch.setenv("AUDIORL_TEST_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), *tell])
    loo.main()
    kept = json.loads(record.read_text())
    assert kept["methods"]["SFT"]["wer"] == 0 and kept["methods"]["SFT"]["seeds"] == kept["seeds"] == [0]
    assert len(kept["units"]) == 3
    assert "against_itself" not in kept
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), *tell, "--against", str(record)])
    loo.main()
    again = json.loads(record.read_text())
    assert again["against_minutes"] == 4.0 and again["against_itself"]["SFT"]["difference"] == 0


@pytest.mark.slow
@pytest.mark.skipif("AUDIORL_TEST_DATA" not in os.environ, reason="real speech: AUDIORL_TEST_DATA is not set")
def test_a_fold_runs_is_kept_and_told(tmp_path):
    record = tmp_path / "record.json"
    common = [
        sys.executable,
        str(BENCHMARK),
        "run",
        "--out",
        str(tmp_path),
        "--minutes",
        "0.1",
        "--record",
        str(record),
    ]
    run = [*common, "--seeds", "0", "--speakers", "1919", "--methods", "SFT"]
    untimed = subprocess.run(run, capture_output=True, text=True)
    assert untimed.returncode != 0 and "run `time` first" in untimed.stderr
    subprocess.run([*common[:2], "time", *run[3:]], check=True, capture_output=True)
    first = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "WER" in first.stdout
    again = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "WER" not in again.stdout
    tell = [*common[:2], "tell", *common[3:]]
    told = subprocess.run(tell, capture_output=True, text=True, check=True)
    assert set(json.loads(told.stdout.splitlines()[-1])["methods"]) == {"checkpoint", "SFT"}
    kept = json.loads(record.read_text())
    assert len(kept["units"]) == 2 and record.with_suffix(".svg").exists()
    for path in (tmp_path / "units").glob("*.json"):
        path.unlink()
    assert "WER" not in subprocess.run(run, capture_output=True, text=True, check=True).stdout, "the record is enough"


@pytest.mark.slow
@pytest.mark.skipif("AUDIORL_TEST_DATA" not in os.environ, reason="real speech: AUDIORL_TEST_DATA is not set")
@pytest.mark.timeout(1800)
def test_a_first_phase_that_another_method_has_trained_changes_nothing(loo, tmp_path):
    last = "SFT, then RAFT"
    for folder, methods in (("alone", [last]), ("second", ["SFT, then MWER + SFT", last])):
        (tmp_path / folder).mkdir()
        seconds = {loo.key(phase): 4.0 for name in methods for phase in loo.METHODS[name]}
        (tmp_path / folder / "seconds.json").write_text(json.dumps(seconds))
        common = ["--out", str(tmp_path / folder), "--minutes", "0.1", "--seeds", "0", "--speakers", "422"]
        run = [sys.executable, str(BENCHMARK), "run", *common, "--methods", *methods]
        subprocess.run(run, capture_output=True, text=True, check=True)
        assert len(list((tmp_path / folder / "first_phases").iterdir())) == 1
    path = loo.unit_path(Path("."), 0.1, 0, "422", last)
    alone, second = (json.loads((tmp_path / folder / path).read_text()) for folder in ("alone", "second"))
    assert alone["seconds"] != second["seconds"]
    assert {**alone, "seconds": 0} == {**second, "seconds": 0}
