"""Verdicts that are kept change nothing but the time: faults, order and counts are those of a check without them."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiorl.datasets import BadRowsError, RowJudge, kept_rows, speech_rows, verdicts
from audiorl.datasets.verdicts import judge_rows
from audiorl.models import speech_family
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_ctc import tiny_ctc

SECONDS = (0.1, 0.2, 0.3, 0.4, 0.5)


class Limits:
    """What a family of models asks of a row."""

    def __init__(self, longest: int = 40):
        self.longest = longest

    def tokenize(self, text, row) -> list[int]:
        if len(text) > self.longest:
            raise ValueError(f"{len(text)} tokens are more than the decoder's {self.longest}. Shorten it.")
        return list(text.encode())

    def last_time(self, text):
        return float(text.split("|")[1]) if "|" in text else None

    def least_seconds(self, text):
        return 0.005 * len(text)


class Watched(RowJudge):
    """Writes down which rows it reads, in whatever process."""

    def read(self, row):
        with open(os.environ["READ_ROWS"], "a") as file:
            file.write(f"{row['row_id']}\n")
        return super().read(row)

    def listen(self, row):
        if str(row["row_id"]) == os.environ.get("STOP_AT"):
            raise KeyboardInterrupt
        return super().listen(row)


class Lenient(RowJudge):
    """Finds no fault in any clip."""

    def heard(self, row, seconds):
        return []


def judge_of(limits: Limits | None = None, **settings) -> Watched:
    limits = limits or Limits()
    functions = {name: getattr(limits, name) for name in ("tokenize", "last_time", "least_seconds")}
    return Watched(**{"text_columns": ("text",), "max_seconds": 0.45, "distinct": False, **functions, **settings})


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Verdicts of few rows and of new files are kept, in blocks of four rows."""
    monkeypatch.setenv(verdicts.FOLDER_VARIABLE, str(tmp_path / "verdicts"))
    monkeypatch.setenv("READ_ROWS", str(tmp_path / "read"))
    monkeypatch.setattr(verdicts, "BLOCK", 4)
    monkeypatch.setattr(verdicts, "KEPT_FROM", 1)
    monkeypatch.setattr(kept_rows, "SETTLED", 0.0)
    return tmp_path


def write_rows(folder: Path, changes: dict[int, dict], count: int = 18) -> str:
    rows = []
    for number in range(count):
        path = folder / f"{number}.wav"
        if not path.exists():
            soundfile.write(path, np.sin(np.arange(int(16000 * SECONDS[number % 4]))) / 2, 16000)
        rows.append({"audio": path.name, "text": f"words {number}", "duration": None, **changes.get(number, {})})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


DAMAGED = {
    1: {"audio": "gone.wav"},
    4: {"text": ""},
    5: {"text": "x" * 41},
    6: {"audio": "cut.wav"},
    9: {"text": "late |9.5"},
    12: {"audio": 5},
    13: {"duration": 7.0},
    16: {"text": None, "audio": "empty.wav"},
    17: {"audio": "long.wav"},
}


@pytest.fixture
def damaged(folder) -> str:
    soundfile.write(folder / "long.wav", np.sin(np.arange(16000)) / 2, 16000)
    (folder / "cut.wav").write_bytes((folder / "long.wav").read_bytes()[:9000])
    (folder / "empty.wav").write_bytes(b"")
    return write_rows(folder, DAMAGED)


def read_rows_of(folder: Path) -> list[int]:
    """The rows that were judged since the last call."""
    path = folder / "read"
    found = sorted(map(int, path.read_text().split())) if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def plain(rows, judge, monkeypatch):
    """The check without verdicts, in one process."""
    with monkeypatch.context() as patch:
        patch.setenv(verdicts.FOLDER_VARIABLE, "")
        return judge_rows(rows, judge, num_workers=0)


def same(found, expected) -> bool:
    return (
        found.faults == expected.faults
        and found.outside == expected.outside
        and np.array_equal(found.seconds, expected.seconds, equal_nan=True)
    )


@pytest.mark.parametrize("wanted", [(None, None), (0.15, 0.35)], ids=["all", "wanted"])
@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_rows_are_told_alike_with_kept_verdicts_and_without(folder, damaged, monkeypatch, wanted, workers):
    rows, judge = speech_rows(damaged), judge_of(wanted=wanted)
    expected = plain(rows, judge, monkeypatch)
    bounded = wanted != (None, None)  # two of the nine damaged rows are then left out, among others
    assert len({fault.row_id for fault in expected.faults}) == (7 if bounded else 9)
    assert expected.outside == (([0, 4, 8], [3, 7, 11, 15, 17]) if bounded else ([], []))
    read_rows_of(folder)
    assert same(judge_rows(rows, judge, num_workers=workers), expected)
    assert read_rows_of(folder) == list(range(18))
    for _ in range(2):  # from its file, and in another order of the processes
        assert same(judge_rows(rows, judge, num_workers=workers), expected)
        assert read_rows_of(folder) == sorted({fault.row_id for fault in expected.faults})


def test_rows_that_are_selected_and_missing_columns_are_told_alike(folder, damaged, monkeypatch):
    rows, judge = speech_rows(damaged).select([9, 3, 4, 0, 17, 2]), judge_of(text_columns=("text", "chosen"))
    expected = plain(rows, judge, monkeypatch)
    assert [fault.row_id for fault in expected.faults] == [-1, 9, 4, 17]
    for _ in range(2):
        assert same(judge_rows(rows, judge), expected)


def rewrite_in_place(folder):
    """Another sound with the same size and, as `cp -p` would have it, the same time."""
    before = os.stat(folder / "2.wav")
    content = bytearray((folder / "2.wav").read_bytes())
    content[24:28] = (8000).to_bytes(4, "little")  # the rate: the clip is twice as long now
    (folder / "2.wav").write_bytes(content)
    os.utime(folder / "2.wav", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(folder / "2.wav").st_size == before.st_size


CHANGES = {
    "a file is gone": (lambda folder: (folder / "2.wav").unlink(), {}, {}),
    "a file is another of the same size and time": (rewrite_in_place, {}, {}),
    "a text is too long": (None, {2: {"text": "y" * 50}}, {}),
    "a text is other and good": (None, {2: {"text": "other"}}, {}),
    "a column is new": (None, {2: {"language": "de"}}, {}),
    "a clip is another": (None, {2: {"audio": "17.wav"}}, {}),
    "the window is shorter": (None, {}, {"max_seconds": 0.25}),
    "the tokenizer takes less": (None, {}, {"limits": Limits(7)}),
    "another length is wanted": (None, {}, {"wanted": (0.25, None)}),
    "texts have to differ": (None, {}, {"text_columns": ("text", "audio_name"), "distinct": True}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_stale_is_trusted(folder, monkeypatch, change):
    do, rows, settings = CHANGES[change]
    name = {number: {"audio_name": f"name {number}"} for number in range(18)}
    assert judge_rows(speech_rows(write_rows(folder, name)), judge_of()).faults == []
    if do is not None:
        do(folder)
    changed = {number: {**one, **rows.get(number, {})} for number, one in name.items()}
    after = speech_rows(write_rows(folder, changed) if rows else folder / "rows.jsonl")
    judge = judge_of(**settings)
    expected = plain(after, judge, monkeypatch)
    read_rows_of(folder)
    found = judge_rows(after, judge)
    assert same(found, expected)
    assert 2 in read_rows_of(folder), "the row whose verdict is stale was judged again"


def test_a_change_costs_its_block_alone(folder):
    rows = speech_rows(write_rows(folder, {}))
    judge_rows(rows, judge_of())
    read_rows_of(folder)
    judge_rows(speech_rows(write_rows(folder, {9: {"text": "other"}})), judge_of())
    assert read_rows_of(folder) == [8, 9, 10, 11]
    (folder / "0.wav").write_bytes((folder / "1.wav").read_bytes())
    longer = speech_rows(write_rows(folder, {9: {"text": "other"}}, count=20))
    judge_rows(longer, judge_of())
    assert read_rows_of(folder) == [0, 1, 2, 3, 16, 17, 18, 19]


def test_a_mended_row_is_good_at_once(folder):
    path = write_rows(folder, {3: {"audio": "later.wav"}})
    assert len(judge_rows(speech_rows(path), judge_of()).faults) == 1
    soundfile.write(folder / "later.wav", np.sin(np.arange(3200)) / 2, 16000)
    assert judge_rows(speech_rows(path), judge_of()).faults == []


def test_files_that_may_still_change_unseen_are_judged_again(folder, monkeypatch):
    rows = speech_rows(write_rows(folder, {}))
    monkeypatch.setattr(kept_rows, "SETTLED", 3600.0)
    for _ in range(2):
        judge_rows(rows, judge_of())
        assert read_rows_of(folder) == list(range(18))


def test_another_version_of_a_package_or_of_the_code_judges_again(folder, monkeypatch):
    rows = speech_rows(write_rows(folder, {}))
    judge_rows(rows, judge_of())
    read_rows_of(folder)
    monkeypatch.setattr(verdicts, "code_state", lambda: ["audiorl 99"])
    judge_rows(rows, judge_of())
    assert read_rows_of(folder) == list(range(18))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_verdict_file_is_told_and_written_anew(folder, damaged, monkeypatch, caplog, damage):
    rows, judge = speech_rows(damaged), judge_of()
    expected = plain(rows, judge, monkeypatch)
    judge_rows(rows, judge)
    (path,) = (folder / "verdicts").rglob("*.verdicts")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes({"cut": whole[:-40], "flipped": bytes(flipped), "empty": b"", "other": b"{}"}[damage])
    read_rows_of(folder)
    with caplog.at_level(logging.WARNING):
        assert same(judge_rows(rows, judge), expected)
    assert f"{path} is damaged, so all rows are checked again" in caplog.text
    assert read_rows_of(folder) == list(range(18))
    assert path.read_bytes() == whole


def test_verdicts_that_cannot_be_written_stop_nothing(folder, damaged, monkeypatch, caplog):
    (folder / "verdicts").write_text("a file where the folder should be")
    rows, judge = speech_rows(damaged), judge_of()
    with caplog.at_level(logging.WARNING):
        assert same(judge_rows(rows, judge), plain(rows, judge, monkeypatch))
    assert "cannot be kept" in caplog.text
    assert verdicts.FOLDER_VARIABLE in caplog.text


def test_an_interrupted_check_keeps_what_it_has_judged(folder, monkeypatch):
    rows = speech_rows(write_rows(folder, {}))

    judge = judge_of()
    with monkeypatch.context() as patch:
        patch.setenv("STOP_AT", "10")
        with pytest.raises(KeyboardInterrupt):
            judge_rows(rows, judge, num_workers=0)
    read_rows_of(folder)
    judge_rows(rows, judge)
    assert read_rows_of(folder) == list(range(8, 18))


def _judge_in_a_process(path: str, ready, pipe) -> None:
    rows, judge = speech_rows(path), judge_of()
    ready.wait()
    found = [judge_rows(rows, judge, num_workers=0) for _ in range(3)]
    pipe.send([(one.faults, list(one.outside)) for one in found])


def test_processes_that_share_a_verdict_file_agree(folder, damaged, monkeypatch):
    expected = plain(speech_rows(damaged), judge_of(), monkeypatch)
    context = multiprocessing.get_context("fork")
    ready, pipes, started = context.Barrier(3), [], []
    for _ in range(3):
        ours, theirs = context.Pipe()
        started.append(context.Process(target=_judge_in_a_process, args=(damaged, ready, theirs)))
        started[-1].start()
        pipes.append(ours)
    answers = [answer for pipe in pipes for answer in pipe.recv()]
    for process in started:
        process.join()
    assert answers == [(expected.faults, list(expected.outside))] * 9
    read_rows_of(folder)
    assert same(judge_rows(speech_rows(damaged), judge_of()), expected)
    assert read_rows_of(folder) == sorted(DAMAGED)


def test_workers_leave_the_random_numbers_of_the_run_alone(folder):
    rows = speech_rows(write_rows(folder, {}))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    judge_rows(rows, judge_of(), num_workers=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_other_rules_have_verdicts_of_their_own(folder):
    rows = speech_rows(write_rows(folder, {3: {"duration": 9.0}}))
    judge = judge_of()
    settings = {name: getattr(judge, name) for name in judge.__dataclass_fields__}
    assert judge_rows(rows, Lenient(**settings)).faults == []
    assert [fault.row_id for fault in judge_rows(rows, RowJudge(**settings)).faults] == [3]


def test_judges_that_cannot_be_told_apart_keep_nothing(folder):
    rows = speech_rows(write_rows(folder, {}))
    judge_rows(rows, judge_of(tokenize=lambda text, row: None))
    assert not (folder / "verdicts").exists()


MIXTURES = {
    "plain": {},
    "nulls in a part": {n: {"duration": 0.5, "note": None} for n in range(200, 300)},
    "a column that comes late": {n: {"late": "word", "more": n} for n in range(150, 300)},
    "a number in a later part": {250: {"who": 7}},
    "whole numbers, then others": {n: {"gain": n if n < 200 else n + 0.5} for n in range(300)},
    "values that cannot be kept": {280: {"text": "\ud800"}, 10: {"big": 2**70}, 290: {"audio": 7}},
    "lists and objects": {n: {"tags": ["a"] if n % 2 else [], "meta": {"x": n}} for n in range(300)},
    "texts of two kinds in each part": {n: {"mixed": n if n % 2 else "x"} for n in range(300)},
    "exported": {
        n: {"audio": None, "audio_path": f"{n}.wav", "duration": 1.0, "task": "asr", "metadata": {}} for n in range(300)
    },
    "of another tool": {
        n: {"audio": None, "audio_filepath": f"{n}.wav", "duration": 1.0, "offset": 0.0} for n in range(300)
    },
    "of lhotse": {
        n: {
            "audio": None,
            **{"id": f"c{n}", "start": 0.0, "duration": 1.0, "channel": 0, "supervisions": [], "custom": {"who": "x"}},
            "recording": {"id": "r", "duration": 1.0, "sources": [{"type": "file", "source": f"{n}.wav"}]},
        }
        for n in range(300)
    },
}


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("columns", [None, {"speaker": "who"}], ids=["as it is", "renamed"])
def test_a_large_file_has_the_rows_of_a_small_one(folder, monkeypatch, mixture, columns):
    """Read in parts, or as a whole where parts would not do."""
    lines = []
    for n in range(300):
        row = {"audio": f"{n}.wav", "text": f"words {n}", "who": f"s{n % 7}", **MIXTURES[mixture].get(n, {})}
        lines.append("\n" * (n % 50 == 49) + json.dumps({k: v for k, v in row.items() if (k, v) != ("audio", None)}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    expected = speech_rows(folder / "rows.jsonl", columns=columns)
    monkeypatch.setattr(kept_rows, "LARGE_BYTES", 1)
    monkeypatch.setattr(kept_rows, "PART_BYTES", 4000)
    for _ in range(2):
        found = speech_rows(folder / "rows.jsonl", columns=columns)
        assert found.features == expected.features
        assert found.column_names == expected.column_names
        assert list(found) == list(expected)
    whole = ["a number in a later part", "whole numbers, then others", "exported", "of lhotse"]
    whole += ["of another tool"] * (columns is not None)
    assert bool(found.cache_files) == (mixture not in whole)


def test_kept_rows_are_those_of_the_file_as_it_is(folder, monkeypatch, caplog):
    monkeypatch.setattr(kept_rows, "LARGE_BYTES", 1)
    path = write_rows(folder, {})
    assert speech_rows(path)["text"][3] == "words 3"
    write_rows(folder, {3: {"text": "other 3"}})
    assert speech_rows(path)["text"][3] == "other 3"
    kept = list((folder / "verdicts" / "rows").iterdir())
    assert len(kept) == 2
    for one in kept:
        one.write_bytes(one.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        assert speech_rows(path)["text"][3] == "other 3"
    assert "is damaged" in caplog.text
    with open(path, "a") as file:
        file.write("{broken\n")
    with pytest.raises(BadRowsError, match=r"rows\.jsonl:19"):
        speech_rows(path)


def test_a_family_is_told_by_its_tokenizer_and_its_settings(tiny_multilingual):
    model, processor = tiny_multilingual

    def digest(change=None) -> str | None:
        family = speech_family(model, processor)
        if change is not None:
            change(family)
        return verdicts.judge_digest(RowJudge.of(family.limits, text_columns=("text",), distinct=False))

    assert digest() is not None
    assert digest() == digest()
    assert digest() != digest(lambda family: family.set_defaults(language="de"))
    before = digest()
    assert before != digest(lambda family: family.processor.tokenizer.add_tokens(["newword"]))


@pytest.mark.parametrize(("make", "kind"), [(tiny_audio_llm, "qwen3_asr"), (tiny_ctc, "parakeet")])
def test_what_a_family_has_tokenized_does_not_change_its_name(make, kind):
    family = speech_family(*make(kind))
    row = {"language": "english"}

    def digest() -> str | None:
        return verdicts.judge_digest(RowJudge.of(family.limits, text_columns=("text",), distinct=False))

    before = digest()
    family.tokenize_row("hello", row)
    assert digest() == before is not None
    assert pickle.loads(pickle.dumps(family)).tokenize_row("hello", row) == family.tokenize_row("hello", row)
