"""Messages, pickling and the record of skipped rows, through real workers and processes."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from audiorl.audio import AudioFault
from audiorl.datasets import BadRowsError, RowFault, SkippedRows


def fault(row_id: int = 3, problem: str = "text is empty", remedy: str = "Write one.") -> RowFault:
    return RowFault(f"pairs.jsonl:{row_id + 1}", row_id, problem, remedy)


def many(problem: str, count: int, first: int = 0) -> list[RowFault]:
    return [fault(first + i, problem.format(i)) for i in range(count)]


def written(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_a_fault_reads_as_place_problem_and_remedy():
    assert str(fault()) == "pairs.jsonl:4: text is empty. Write one."


def test_faults_that_differ_in_names_and_numbers_are_of_one_kind():
    kinds = {
        fault(problem=problem).kind
        for problem in ("'a.wav' is 3.5 s of 12 s", "'it/b.wav' is 14 s of 2 s", '"it\'s.wav" is 1e-05 s of 1 s')
    }
    assert len(kinds) == 1
    assert fault(problem="text is empty").kind != fault(problem="audio is empty").kind


def test_few_faults_are_all_shown():
    message = str(BadRowsError([fault(0), fault(1, "audio file 'a' is missing", "Copy it.")]))
    assert message.splitlines() == [
        "2 faults in 2 rows:",
        "  pairs.jsonl:1: text is empty. Write one.",
        "  pairs.jsonl:2: audio file 'a' is missing. Copy it.",
    ]


def test_twenty_of_many_faults_are_shown_and_no_kind_is_crowded_out():
    faults = many("file 'x{}' is missing", 3000) + many("text is empty", 2, 3000) + many("{} s is too long", 40, 3002)
    lines = str(BadRowsError(faults)).splitlines()
    shown = [line for line in lines if line.startswith("  pairs.jsonl:")]
    assert lines[0] == "3,042 faults in 3,042 rows:"
    assert len(shown) == 20
    assert sum("text is empty" in line for line in shown) == 2
    assert sum("too long" in line for line in shown) == 9
    assert "  and 3,022 more of the same kinds" in lines
    assert lines[-4:] == ["by kind:", "  3,000 x file … is missing", "  2 x text is empty", "  40 x … s is too long"]


def test_a_fault_of_the_whole_data_set_counts_no_row():
    whole = RowFault("all rows", -1, "the column 'text' is missing", "Add it.")
    assert str(BadRowsError([whole])).startswith("1 fault:\n")


def test_the_error_survives_pickling_with_its_faults():
    error = BadRowsError(many("file 'x{}' is missing", 50))
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, BadRowsError)
    assert again.faults == error.faults
    assert str(again) == str(error)
    bare = BadRowsError("just words")
    assert str(pickle.loads(pickle.dumps(bare))) == "just words"


class Failing(Dataset):
    """Raises what it holds, as a collator in a worker does, while another exception is handled."""

    def __init__(self, error: Exception):
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        try:
            raise KeyError("what came before")
        except KeyError as first:
            raise self.error from first


@pytest.mark.parametrize("count", [1, 50])
def test_the_message_comes_out_of_a_data_loaders_worker_whole_and_alone(count):
    error = BadRowsError(many("file 'x{}' is\nmissing", count))
    with pytest.raises(BadRowsError) as caught:
        next(iter(DataLoader(Failing(error), num_workers=1)))
    assert str(caught.value) == str(error)


def test_an_audio_fault_comes_out_of_a_data_loaders_worker_as_one():
    with pytest.raises(AudioFault, match=r"it is broken\. Mend it\."):
        next(iter(DataLoader(Failing(AudioFault("it is broken", "Mend it.")), num_workers=1)))


def test_a_skipped_row_is_one_json_line_with_its_reasons(tmp_path):
    skipped = SkippedRows(tmp_path / "out" / "skipped_rows.jsonl")
    assert skipped.count() == 0
    assert not (tmp_path / "out").exists()
    skipped.add(fault(3), fault(3, "audio file 'ä' is missing", "Copy it."), fault(5))
    skipped.add(fault(3))
    lines = written(skipped.path)
    assert lines == [
        {
            "where": "pairs.jsonl:4",
            "row_id": 3,
            "problem": "text is empty; audio file 'ä' is missing",
            "remedy": "Write one. Copy it.",
        },
        {"where": "pairs.jsonl:6", "row_id": 5, "problem": "text is empty", "remedy": "Write one."},
    ]
    assert skipped.count() == 2


def test_rows_of_one_number_in_two_places_are_two_rows(tmp_path):
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    skipped.add(RowFault("row 0 of worker 0", 0, "a", "b"), RowFault("row 0 of worker 1", 0, "a", "b"))
    assert skipped.count() == 2


def test_a_row_of_two_data_sets_counts_twice_and_those_of_an_earlier_run_can_be_left_out(tmp_path):
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    skipped.add(fault(3), data="train_dataset")
    skipped.add(fault(3), data="eval_dataset")
    assert [line["data"] for line in written(skipped.path)] == ["train_dataset", "eval_dataset"]
    assert skipped.begun == 0 and skipped.count(skipped.begun) == skipped.count() == 2
    later = SkippedRows(skipped.path)
    assert later.count(later.begun) == 0
    later.add(fault(3), data="train_dataset")
    assert (later.count(later.begun), later.count()) == (1, 2)


def append_many(path: str, first: int, barrier) -> None:
    skipped = SkippedRows(path)
    barrier.wait()
    for i in range(first, first + 300):
        skipped.add(fault(i, "long " * 2000))


def test_processes_that_append_at_once_leave_whole_lines(tmp_path):
    path = str(tmp_path / "skipped_rows.jsonl")
    processes = multiprocessing.get_context("spawn")
    barrier = processes.Barrier(2)
    # rows 200 to 299 are skipped by both
    workers = [processes.Process(target=append_many, args=(path, first, barrier)) for first in (0, 200)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    lines = written(path)
    assert len(lines) == 600
    assert all(len(line["problem"]) == 10000 for line in lines)
    assert SkippedRows(path).count() == 500


def test_a_copy_in_a_worker_writes_to_the_same_file(tmp_path):
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    skipped.add(fault(0))
    copy = pickle.loads(pickle.dumps(skipped))
    copy.add(fault(0), fault(1))
    assert skipped.count() == 2
    assert len(written(skipped.path)) == 2


def test_a_full_disk_is_told():
    with pytest.raises(OSError, match="No space left"):
        SkippedRows("/dev/full").add(fault())
