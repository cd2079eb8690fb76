"""JSON lines and arrays against `json.loads` of each element and lines counted by hand."""

from __future__ import annotations

import gzip
import json

import pytest

from audiorl.datasets import BadRowsError
from audiorl.datasets.formats import read_json_rows


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    separator = "\u2028"  # a line break to str.splitlines, text to JSON
    path.write_bytes(f'{{"text": "a{separator}b"}}\r\n\n  \n{{"text": "c"}}'.encode())
    rows, places, _ = read_json_rows(path)
    assert rows == [{"text": f"a{separator}b"}, {"text": "c"}]
    assert places == [f"{path}:1", f"{path}:4"]


def test_the_place_names_the_path_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    assert read_json_rows("rows.jsonl").places == ["rows.jsonl:1"]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_an_array_is_known_by_its_content_and_gives_the_same_rows(tmp_path, name, indent):
    expected = [{"text": "a, ] b", "n": [1, 2]}, {"text": "c"}, {"text": ""}]
    path = tmp_path / name
    path.write_text("\n" + json.dumps(expected, indent=indent) + "\n")
    rows, places, _ = read_json_rows(path)
    assert rows == expected
    by_line = [f"{path}:{line}" for line in (3, 10, 13)]
    by_item = [f"{path}: item {number}" for number in (1, 2, 3)]
    assert places == (by_line if indent else by_item)


def test_a_byte_order_mark_is_no_content(tmp_path):
    for name, content in (("a.jsonl", '{"text": "a"}'), ("b.json", '[{"text": "a"}]')):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert read_json_rows(tmp_path / name).rows == [{"text": "a"}]


def test_all_lines_that_are_no_objects_are_named_at_once(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [b'{"a": 1}', b'{"a": 1', b'"text"', b"", b'{"a": "\xff"}', b"[1]", b'{"a": 2}', b"[" * 200000]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(BadRowsError) as caught:
        read_json_rows(path)
    faults = caught.value.faults
    assert [fault.where for fault in faults] == [f"{path}:{line}" for line in (2, 3, 5, 6, 8)]
    assert [fault.row_id for fault in faults] == [1, 2, 3, 4, 6]
    assert "column 8" in faults[0].problem
    assert "str, not an object" in faults[1].problem
    assert "not UTF-8 (byte 0xff)" in faults[2].problem
    assert "list, not an object" in faults[3].problem
    assert "not JSON" in faults[4].problem
    assert all(f"{path}:{line}: " in str(caught.value) for line in (2, 3, 5, 6, 8))


def test_lines_that_cannot_be_read_are_kept_as_such_where_asked(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 1\n\n[5]\n{}\n')
    rows, places, unread = read_json_rows(path, keep_unread=True)
    assert rows == [{"a": 1}, {}, {}, {}]
    assert places == [f"{path}:{line}" for line in (1, 2, 4, 5)]
    assert {number: fault.where for number, fault in unread.items()} == {1: places[1], 2: places[2]}
    path.write_text("not\nJSON\nat all\n")
    with pytest.raises(BadRowsError, match="3 faults in 3 rows"):
        read_json_rows(path, keep_unread=True)


def test_elements_of_an_array_that_are_no_objects_are_named_at_once(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[\n{"a": 1},\n5,\nnull\n]')
    with pytest.raises(BadRowsError) as caught:
        read_json_rows(path)
    assert [fault.where for fault in caught.value.faults] == [f"{path}:3", f"{path}:4"]


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"text": "a", "text": "b"}', "'text' is there twice"),
        ('{"text": "a", "meta": {"k": 1, "k": 1}}', "'k' is there twice"),
        ('{"text": ' + "9" * 5000 + "}", "this is not JSON that can be read"),
        ('{"text": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deep"),
    ],
    ids=["column", "key", "digits", "depth"],
)
def test_what_python_would_read_as_something_else_or_not_at_all_is_refused_with_its_line(tmp_path, row, problem, array):
    path = tmp_path / "rows.json"
    path.write_text(f'[\n{{"a": 1}},\n{row}\n]' if array else f'{{"a": 1}}\n\n{row}\n')
    with pytest.raises(BadRowsError) as caught:
        read_json_rows(path)
    assert caught.value.faults[0].where == f"{path}:3"
    assert problem in caught.value.faults[0].problem


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ['{"text": "ä"}\n{"text": "b"}\n', '[{"text": "ä"},\n{"text": "b"}]'])
def test_a_file_in_another_encoding_has_the_same_rows_and_lines(tmp_path, encoding, text):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.encode(encoding))
    found = read_json_rows(path)
    assert found.rows == [{"text": "ä"}, {"text": "b"}] and found.places == [f"{path}:1", f"{path}:2"]
    path.write_bytes(text.encode(encoding)[:-1])
    with pytest.raises(ValueError, match=r"begins as UTF-(16|32).*, but is not valid .*iconv -c -f utf-"):
        read_json_rows(path)


def test_a_gzip_is_read_and_a_pointer_of_git_lfs_is_called_what_it_is(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n'))
    assert read_json_rows(path).rows == [{"text": "a"}]
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(ValueError, match=r"Git LFS pointer.*git lfs pull"):
        read_json_rows(path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('[\n{"a": 1},\n{"a": 2}', 3),
        ('[\n{"a": 1},\n', 3),
        ('[\n{"a": 1}\n{"a": 2}]', 3),
        ('[\n{"a": 1},\n{"a": }]', 3),
        ('[\n{"a": 1}\n]\n[{"a": 2}]', 3),
        ('[\n{"a": "\udcff"}]', 2),
        ("[", 1),
    ],
    ids=["cut behind an element", "cut behind a comma", "no comma", "no value", "two arrays", "not UTF-8", "only ["],
)
def test_a_damaged_array_is_refused_with_its_line(tmp_path, content, line):
    path = tmp_path / "rows.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadRowsError) as caught:
        read_json_rows(path)
    assert caught.value.faults[0].where == f"{path}:{line}"
