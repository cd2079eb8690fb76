"""Flags as the source of their dataclasses shows them: the same as the loaded classes, and what is told of mistakes."""

from __future__ import annotations

import pkgutil
from dataclasses import MISSING, dataclass, field, fields
from typing import ClassVar

import pytest
from trl import TrlParser

from audiorl import command_line
from audiorl.command_line import (
    CLASSES,
    CORRECTED,
    ESSENTIAL,
    Flag,
    UnreadableSource,
    WrongFlag,
    check_words,
    flags_in_source,
    flags_of,
    former_flags,
    help_page,
    read_flags,
)
from audiorl.commands.train import METHODS
from audiorl.files import check_folder
from audiorl.flags import parse

CONFIGS = {name: [pkgutil.resolve_name(path) for path in paths] for name, paths in CLASSES.items()}


def test_the_table_of_classes_is_what_the_commands_parse():
    for name, method in METHODS.items():
        assert CONFIGS[name][:2] == [method.flags, method.config]


@pytest.mark.parametrize("name", CLASSES)
def test_flags_read_from_the_source_are_the_fields_of_the_classes(name):
    found, former = flags_in_source(CLASSES[name])
    loaded = flags_of(CONFIGS[name])
    assert found.keys() == loaded.keys() == {one.name for kind in CONFIGS[name] for one in fields(kind) if one.init}
    assert former == former_flags(CONFIGS[name])
    for flag, same in ((found[name], loaded[name]) for name in found):
        assert flag.help == same.help, flag.name
        # defaults that a library works out when it is imported are shown as its source has them
        assert flag.default in (same.default, "default_optim", "logdir"), flag.name
        assert set(flag.choices) <= set(same.choices), flag.name


def test_the_help_of_every_flag_is_shown_once():
    for name in CLASSES:
        flags, _ = flags_in_source(CLASSES[name])
        lines = help_page("audiorl x", flags, everything=True, width=80).splitlines()
        heads = [line.split()[0] for line in lines if line.startswith("  --")]
        assert sorted(heads) == sorted(f"--{flag}" for flag in flags)
        assert max(map(len, lines)) <= 80


def test_short_help_is_a_screen_of_flags_that_exist():
    tuning = {name: flags_in_source(CLASSES[name])[0] for name in METHODS}
    known = {flag for flags in tuning.values() for flag in flags}
    assert {flag for group in ESSENTIAL.values() for flag in group} <= known
    assert CORRECTED.keys() <= known
    for name, flags in tuning.items():
        lines = help_page(f"audiorl {name}", flags, "what it does", width=80).splitlines()
        assert 35 <= len(lines) <= 45 and max(map(len, lines)) <= 80
        assert not any(line.endswith("...") for line in lines)


def test_defaults_are_those_of_the_method():
    pages = {name: help_page("x", flags_in_source(CLASSES[name])[0], width=80) for name in ("sft", "kto")}
    for name, page in pages.items():
        (line,) = (line for line in page.splitlines() if "--learning_rate" in line)
        config = CONFIGS[name][1]
        (rate,) = (one.default for one in fields(config) if one.name == "learning_rate")
        assert line.endswith(f"({rate:g})")
    assert "num_train_epochs" in pages["sft"]


def test_inherited_sentences_that_are_wrong_here_are_replaced():
    flags, _ = flags_in_source(CLASSES["dpo"])
    page = " ".join(help_page("x", flags, everything=True, width=80).split())
    assert "If `datasets` is provided" not in page and "intended for training/evaluation scripts" not in page
    assert CORRECTED["per_device_train_batch_size"] in page


def test_what_the_parser_takes_is_not_refused():
    """Every flag with its own default, written out, passes the check and the parser."""
    flags, _ = flags_in_source(CLASSES["raft"])
    given = {
        one.name: str(one.default)
        for kind in CONFIGS["raft"]
        for one in fields(kind)
        if one.default is not MISSING and isinstance(one.default, int | float | str) and one.default != ""
    }
    argv = [word for name, value in given.items() if not name.startswith("hub_") for word in (f"--{name}", value)]
    check_words(argv, flags)
    TrlParser(CONFIGS["raft"]).parse_known_args(argv)


def flag(kind: str, *choices: str, name: str = "x") -> dict[str, Flag]:
    return {name: Flag(name, kind, "None", "", choices)}


@pytest.mark.parametrize(
    ("flags", "argv"),
    [
        (flag("int"), ["--x", "3"]),
        (flag("int"), ["out-tuned"]),
        (flag("int"), []),
        (flag("float | None"), ["--x=1e-5"]),
        (flag("bool"), ["--x"]),
        (flag("bool"), ["--no_x"]),
        (flag("bool | None"), ["--no-x"]),
        (flag("bool | None"), ["--x", "False"]),
        (flag("list[str]"), ["--x", "a", "b"]),
        (flag("str | None | float"), ["--x", "auto"]),
        (flag("str", name="dataset_name"), ["--dataset_name", "my-org/speech"]),
        (flag("str", name="dataset_name"), ["--dataset_name", "librispeech:test.other"]),
        (flag("str", name="dataset_name"), ["--dataset_name", "hf://datasets/a/b/c.jsonl"]),
    ],
)
def test_good_words_pass(flags, argv):
    check_words(argv, flags)


@pytest.mark.parametrize(
    ("flags", "argv", "told"),
    [
        (flag("int"), ["--x", "3.5"], "--x takes a whole number; got '3.5'."),
        (flag("float | None"), ["--x", "1e-5", "2"], "--x takes a number; got '1e-5 2'."),
        (flag("bool"), ["--x", "ture"], "--x takes true or false; got 'ture'."),
        (flag("str", "adam", "sgd"), ["--x", "adm"], "--x is not 'adm'. Did you mean adam? There are adam, sgd."),
        (flag("str"), ["--x"], "--x has no value. Write one behind it."),
        (flag("bool"), ["--no_x", "true"], "unknown flag --no_x; did you mean --x?"),
        (flag("bool"), ["--no_x=false"], "unknown flag --no_x; did you mean --x?"),
        (flag("int"), ["--no_x"], "unknown flag --no_x; did you mean --x?"),
    ],
)
def test_bad_words_are_told(flags, argv, told):
    with pytest.raises(WrongFlag) as refused:
        check_words(argv, flags)
    assert str(refused.value) == told


@dataclass
class Shelf:
    room: str
    books: list[str] = field(default_factory=list)
    heights: list[float] | None = None
    width: float = 1.0
    boards: int | None = None
    locked: bool = False
    painted: bool = True

    former_names: ClassVar[dict[str, str]] = {"planks": "boards"}


SHELF = ["--room", "hall", "--books", "a", "b c", "--heights", "1", "2e-1", "--width=2", "--planks", "3", "--locked"]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (SHELF, None),
        ([*SHELF[:-1], "--locked", "yes"], None),
        (["--room", "hall"], "{books: [a, b c], heights: [1, 2e-1], width: 2, planks: 3, locked: true}"),
        (["--no_painted", "--width", "3"], "{room: 1, painted: true}"),
        (["--room", "hall", "--locked", "False"], None),
        (["--room", "hall", "--no_locked", "--no-painted"], None),
        (["--no_locked"], "{room: hall, locked: true}"),
    ],
)
def test_the_quick_reader_reads_what_the_usual_one_does(argv, text, tmp_path):
    if text is not None:
        (tmp_path / "shelf.yaml").write_text(text)
        argv = [*argv, "--config", str(tmp_path / "shelf.yaml")]
    assert read_flags(Shelf, argv) == parse((Shelf,), (), argv)[0]


@pytest.mark.parametrize(("argv", "told"), [([], "--room is missing"), (["--rom", "x"], "did you mean --room?")])
def test_the_quick_reader_ends_with_the_same_words(argv, told, capsys):
    for read in (lambda: read_flags(Shelf, argv), lambda: parse((Shelf,), (), argv)):
        with pytest.raises(SystemExit) as end:
            read()
        assert end.value.code == 2 and told in capsys.readouterr().err


def test_rows_that_are_not_there_are_told_with_the_nearest_file(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    flags = flag("str", name="dataset_name")
    check_words(["--dataset_name", str(tmp_path / "train.jsonl")], flags)
    with pytest.raises(WrongFlag, match=r"there is no .*/trian.jsonl. Did you mean .*/train.jsonl\?"):
        check_words(["--dataset_name", str(tmp_path / "trian.jsonl")], flags)
    with pytest.raises(WrongFlag, match=r"and no folder .*/data. Check the path."):
        check_words(["--dataset_name", str(tmp_path / "data" / "train.jsonl")], flags)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "argument --optim: invalid choice: 'adamw_torhc' (choose from 'adamw_torch', 'sgd')",
            "--optim is not 'adamw_torhc'. Did you mean adamw_torch? There are adamw_torch, sgd.",
        ),
        ("argument --prices/--pr: invalid float value: 'a'", "--prices takes a number; got 'a'."),
        ("argument --run: expected one argument", "--run: expected one argument"),
        ("the following arguments are required: --run", "the following arguments are required: --run"),
    ],
)
def test_messages_of_argparse_become_one_line(message, told):
    assert command_line.nearest_choice(message) == told


def test_a_class_that_has_moved_is_unreadable_and_not_a_wrong_answer():
    with pytest.raises(UnreadableSource, match=r"does not say what Gone is"):
        flags_in_source(["audiorl.trainers.sft.Gone"])
    with pytest.raises(UnreadableSource, match=r"no file of the module audiorl.gone"):
        flags_in_source(["audiorl.gone.Config"])


def test_a_folder_that_cannot_be_written_to_is_refused_with_its_flag_and_none_is_left(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text("{}")
    for folder in (tmp_path / "rows.jsonl", tmp_path / "rows.jsonl" / "out"):
        with pytest.raises(ValueError, match=rf"--output_dir {folder}: no folder can be written there \(File exists\)"):
            check_folder(str(folder), "--output_dir")
    check_folder(str(tmp_path / "a" / "b"), "--output_dir")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    monkeypatch.setenv("RANK", "1")
    check_folder(str(tmp_path / "rows.jsonl"), "--output_dir")
