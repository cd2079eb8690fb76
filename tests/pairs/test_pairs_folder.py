"""A folder that pairs are mined into: killed, shared, full, contested, and in the end the same to the byte."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from audiorl.datasets import speech_rows
from audiorl.pairs import MiningConfig, MiningFolder, mine_into, mine_pairs
from audiorl.pairs.miner import Miner
from audiorl.pairs.records import MinedBatch, as_dataset, save_dataset
from tests.pairs.mining_rows import TEXTS, rows, rows_on_disk
from tests.tiny_models import tiny_whisper
from tests.trainers.pair_rows import trainer

OUTPUTS = ("pairs.jsonl", "hypotheses.jsonl", "summary.json")
CONFIG = MiningConfig(num_generations=3, batch_size=2, strategy="transcript_vs_each", measure_wer=True)


@pytest.fixture
def data(tmp_path) -> Path:
    """Seven rows: four batches."""
    return rows_on_disk(tmp_path, 7)


def mine(folder: Path, source: Any, rank: int = 0, world: int = 1, config: MiningConfig = CONFIG) -> Any:
    model, processor = tiny_whisper()
    with MiningFolder(folder, asdict(config), rank=rank, world=world) as opened:
        return mine_into(opened, model, processor, source, config=config, progress=False)


def written(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in OUTPUTS]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def forked(target, *args) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    return process


def mine_until(killed_at: bytes, torn: bool, *args) -> None:
    """Mine, and be killed when a write or a new name contains these bytes, with half of it written if `torn`."""
    write, replace = os.write, os.replace

    def last_write(file: int, data: bytes) -> int:
        if killed_at in data:
            write(file, data[: len(data) // 2] if torn else data)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data)

    def last_replace(source: str, target: str) -> None:
        if killed_at in os.fsencode(target):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.write, os.replace = last_write, last_replace
    mine(*args)


def kill_at(killed_at: bytes, torn: bool, *args) -> None:
    process = forked(mine_until, killed_at, torn, *args)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that is full as soon as a file has so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_holds_the_pairs_that_memory_would(data, tmp_path):
    summary = mine(tmp_path / "out", str(data))
    model, processor = tiny_whisper()
    found = mine_pairs(model, processor, str(data), config=CONFIG, progress=False)
    for name, expected in (("pairs.jsonl", found.rows), ("hypotheses.jsonl", found.hypotheses)):
        for row, other in zip(lines(tmp_path / "out" / name), expected, strict=True):
            assert row == {**other, "audio": other["audio"]["path"]}
            assert Path(row["audio"]).is_absolute()
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary.clips, summary.pairs) == (told["clips"], told["pairs"]) == (7, len(found.rows))
    assert told["mean_wer"] == summary.mean_wer == pytest.approx(found.mean_wer)
    assert told["mean_margin"] == pytest.approx(found.mean_margin)
    assert told["wer"] == pytest.approx(found.wer)
    assert f"{len(found.rows):,} pairs from 7 clips" in str(summary) and f"{found.wer:.2%}" in str(summary)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["hypotheses.jsonl", "pairs.jsonl", "parts",
                                                                        "summary.json"]  # fmt: skip


@pytest.mark.parametrize("torn", [True, False])
def test_killed_in_the_middle_and_started_again_it_writes_the_rows_of_an_uninterrupted_run(
    data, tmp_path, monkeypatch, torn
):
    mine(tmp_path / "whole", str(data))
    kill_at(b'{"batch": 2,', torn, tmp_path / "out", str(data))
    part = (tmp_path / "out" / "parts" / "00000.jsonl").read_bytes()
    assert part.count(b"\n") == (2 if torn else 3) and part.endswith(b"\n") is not torn
    assert not (tmp_path / "out" / "pairs.jsonl").exists()
    again, call = [], Miner.__call__
    monkeypatch.setattr(Miner, "__call__", lambda self, some: again.append(some[0]["row_id"]) or call(self, some))
    mine(tmp_path / "out", str(data))
    assert again == ([4, 6] if torn else [6])  # no batch is lost and none is mined twice
    assert written(tmp_path / "out") == written(tmp_path / "whole")


@pytest.mark.parametrize("name", OUTPUTS)
def test_killed_while_it_merges_it_merges_again(data, tmp_path, name):
    mine(tmp_path / "whole", str(data))
    kill_at(name.encode(), False, tmp_path / "out", str(data))
    assert not (tmp_path / "out" / "summary.json").exists()
    mine(tmp_path / "out", str(data))
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_two_processes_at_once_equal_one(data, tmp_path):
    mine(tmp_path / "whole", str(data))
    queue = multiprocessing.get_context("fork").Queue()

    def share(rank: int) -> None:
        summary = mine(tmp_path / "out", str(data), rank, 2)
        queue.put(summary and summary.clips)

    processes = [forked(share, rank) for rank in range(2)]
    told = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(told, key=str) == [7, None]  # the one that ended last has merged
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_a_run_goes_on_with_another_number_of_processes(data, tmp_path):
    mine(tmp_path / "whole", str(data))
    assert mine(tmp_path / "out", str(data), 0, 2) is None
    kill_at(b'{"batch": 3,', True, tmp_path / "out", str(data), 1, 2)
    assert mine(tmp_path / "out", str(data), 0, 1).clips == 7
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_a_stream_is_mined_alike_also_in_two_shares(data, tmp_path):
    mine(tmp_path / "whole", str(data))
    for rank in range(2):
        summary = mine(tmp_path / "out", speech_rows(str(data)).to_iterable_dataset(), rank, 2)
    assert summary.clips == 7
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_a_full_disk_leaves_what_was_mined_and_the_run_goes_on(data, tmp_path):
    mine(tmp_path / "whole", str(data))
    part = tmp_path / "out" / "parts" / "00000.jsonl"
    kill_at(b'{"batch": 1,', False, tmp_path / "out", str(data))
    before = part.read_bytes()
    with files_no_larger_than(len(before) + 500):
        with pytest.raises(OSError, match=r"could not be written \(File too large\).*kept.*same command again"):
            mine(tmp_path / "out", str(data))
    assert part.read_bytes() == before  # nothing of the line that did not fit
    assert [json.loads(line)["batch"] for line in before.splitlines()] == [0, 1]
    mine(tmp_path / "out", str(data))
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_a_disk_that_is_full_at_the_end_leaves_all_parts(data, tmp_path):
    mine(tmp_path / "whole", str(data))
    out = tmp_path / "out"
    assert mine(out, str(data), 0, 2) is None
    # room for the second part, not for all rows together
    largest = max(len(part) for part in written(tmp_path / "whole"))
    with files_no_larger_than(largest - 100):
        with pytest.raises(OSError, match=r"hypotheses.jsonl could not be written|pairs.jsonl could not be written"):
            mine(out, str(data), 1, 2)
    assert not list(out.glob("*.tmp")) and not (out / "summary.json").exists()
    assert mine(out, str(data), 1, 2).clips == 7
    assert written(out) == written(tmp_path / "whole")


def test_clips_that_came_as_bytes_are_files_beside_the_rows(tmp_path):
    for name in ("one", "two"):
        mine(tmp_path / name, rows(3))
    assert written(tmp_path / "one") == written(tmp_path / "two")
    assert {row["audio"] for row in lines(tmp_path / "one" / "pairs.jsonl")} == {
        f"audio/000000/{i}.wav" for i in range(3)
    }
    assert len(list((tmp_path / "one" / "audio").rglob("*.*"))) == 3


def test_offline_trainers_read_what_is_written(data, tmp_path):
    out = tmp_path / "out"
    mine(out, str(data))
    folder = tmp_path / "pairs"
    save_dataset(out / "pairs.jsonl", folder)
    save_dataset(out / "pairs.jsonl", folder)  # once more over it
    losses = [
        trainer(tmp_path / "run", speech_rows(source), max_steps=1).train().training_loss
        for source in (str(out / "pairs.jsonl"), str(folder))
    ]
    assert losses[0] == losses[1] > 0
    for i in range(7):
        os.remove(tmp_path / f"{i}.wav")
    assert all(row["audio"]["bytes"] for row in speech_rows(str(folder)))  # the audio is inside
    rewards = as_dataset(out / "hypotheses.jsonl")
    assert rewards["text"][:] == list(TEXTS)
    assert all(len(row) == len(said) for row, said in zip(rewards["rewards"], rewards["hypotheses"], strict=True))


def test_two_runs_cannot_write_to_one_folder(data, tmp_path):
    with MiningFolder(tmp_path / "out", {}, rank=0, world=1):
        with pytest.raises(ValueError, match="Another run is writing"):
            mine(tmp_path / "out", str(data))
        with MiningFolder(tmp_path / "out", {}, rank=1, world=2):
            pass  # another process of the same run may


def test_a_run_that_mined_nothing_leaves_a_folder_for_other_settings(data, tmp_path, monkeypatch):
    other = MiningConfig(**{**asdict(CONFIG), "num_generations": 2})

    def fail(self, rows):
        raise ValueError("no such model")

    with monkeypatch.context() as patched:
        patched.setattr(Miner, "__call__", fail)
        with pytest.raises(ValueError, match="no such model"):
            mine(tmp_path / "out", str(data), config=other)
    # killed between the settings and the first batch
    kill_at(b'{"batch": 0,', True, tmp_path / "out", str(data), 0, 1, other)
    assert json.loads((tmp_path / "out" / "parts" / "settings.json").read_text())["num_generations"] == 2
    mine(tmp_path / "whole", str(data))
    mine(tmp_path / "out", str(data))
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_two_runs_that_begin_at_once_with_other_settings_are_not_mixed(data, tmp_path):
    other = MiningConfig(**{**asdict(CONFIG), "num_generations": 2})
    with MiningFolder(tmp_path / "out", asdict(other), rank=1, world=2) as late:
        assert mine(tmp_path / "out", str(data), 0, 2) is None
        with pytest.raises(ValueError, match="num_generations was 3 and is 2"):
            late.append(1, MinedBatch())


def test_strays_of_killed_runs_are_swept(data, tmp_path):
    kill_at(b"summary.json", False, tmp_path / "out", str(data))
    strays = [tmp_path / "out" / "summary.json.0.tmp", tmp_path / "out" / "audio" / "000000" / "1.wav.0.tmp"]
    strays[1].parent.mkdir(parents=True)
    strays[1].write_bytes(b"half a clip")
    assert strays[0].exists()
    mine(tmp_path / "out", str(data))
    assert not any(stray.exists() for stray in strays)


def test_a_finished_run_is_told_again_and_other_settings_are_refused(data, tmp_path):
    first = mine(tmp_path / "out", str(data))
    before = written(tmp_path / "out")
    with MiningFolder(tmp_path / "out", asdict(CONFIG)) as folder:
        assert folder.summary == first
        assert mine_into(folder, None, None, None, config=CONFIG) == first
    with pytest.raises(ValueError, match=r"num_generations was 3 and is 4.*another output_dir"):
        mine(tmp_path / "out", str(data), config=MiningConfig(**{**asdict(CONFIG), "num_generations": 4}))
    assert written(tmp_path / "out") == before


def test_files_of_others_are_left_alone_and_damaged_parts_are_told(data, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match="no mining run wrote"):
        mine(tmp_path, str(data))
    assert (tmp_path / "pairs.jsonl").read_text() == "mine\n"
    kill_at(b'{"batch": 1,', False, tmp_path / "out", str(data))
    part = tmp_path / "out" / "parts" / "00000.jsonl"
    part.write_bytes(b"\0" * 9 + part.read_bytes())
    with pytest.raises(ValueError, match="damaged at byte 0"):
        mine(tmp_path / "out", str(data))


def test_rows_that_json_cannot_hold_are_refused_before_they_are_mined(tmp_path, monkeypatch):
    monkeypatch.setattr(Miner, "__call__", None)
    with pytest.raises(ValueError, match=r"row 0: the column \['noise'\] cannot be written as JSON.*remove_columns"):
        mine(tmp_path / "out", rows(2, noise=[float("nan"), 1.0]))
