"""What a person sees in a terminal: lines that fit, colours, and messages that no bar runs into."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from audiorl.evaluation.document import columns as table_lines
from audiorl.pairs import MinedPairs
from audiorl.pairs.records import MiningSummary
from audiorl.terminal import fitted, in_words, painted, progress_bar, wrapped
from audiorl.trainers.logs import log_line
from tests.forks import on_a_screen
from tests.script_runs import arguments, base, data  # noqa: F401 (fixtures)

COLOUR = re.compile(r"\x1b\[[\d;]*m")


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    return Screen()


def test_lines_are_broken_before_a_part_and_text_between_words(screen):
    line = "step 120/1500: loss 0.3466, reward 0.8123, KL 0.0123, learning rate 8.75e-05"
    assert fitted(line, screen) == ("step 120/1500: loss 0.3466, reward 0.8123, KL 0.0123,\n    learning rate 8.75e-05")
    text = "  a/very/long/path/" + "x" * 60 + ": the clip is 14 s long and the model hears 12 s of it, so it is skipped"
    lines = wrapped(text, screen).split("\n")
    assert "x" * 60 in lines[0] and all(len(line) <= 60 for line in lines[1:])
    assert lines[1].startswith("    ") and " ".join(wrapped(text, screen).split()) == " ".join(text.split())


# every metric that a line of the method has, with the longest numbers; costs come from the whole run
METRICS = {
    "sft": {"loss": 123.4567, "learning_rate": 1.23456e-05},
    "dpo": {"loss": 123.4567, "rewards/accuracies": 0.12345, "learning_rate": 1.23456e-05},
    "grpo": {"loss": -0.00012345, "reward": -0.12345, "kl": 0.00012345, "wer": 1.23456, "learning_rate": 1.23456e-05},
}
COSTS = {"audio_seconds_per_second": 12345.6, "tokens_per_second": 98765.4, "memory/peak_gib": 123.456}
SHARES = {"rollout": 0.61, "rewards": 0.06, "scoring": 0.12, "update": 0.13, "other": 0.08}


@pytest.mark.parametrize("method", METRICS)
def test_a_line_of_the_log_takes_two_rows_of_80_columns_at_most(screen, monkeypatch, method):
    monkeypatch.setenv("COLUMNS", "80")
    costs = {**COSTS, **{f"time/{part}": share for part, share in SHARES.items()}}
    last = {"train_loss": 0.123456, **{f"train_{name}": value for name, value in costs.items()}}
    for prefix, logs in (
        ("step 12345/67890: ", {**METRICS[method], **costs}),
        ("step 12345/67890, 12:34:56 left: ", {**METRICS[method], **costs}),
        ("step 12345/67890: ", last),
    ):
        whole = prefix + log_line(logs)
        rows = fitted(whole, screen).split("\n")
        assert len(rows) <= 2 and max(map(len, rows)) <= 80, rows
        assert " ".join(" ".join(rows).split()) == whole  # nothing is cut, no word is broken


def test_a_part_that_is_wider_than_the_terminal_is_broken_between_words(screen):
    part = "a part of many words that is " + "much " * 10 + "wider than this terminal"
    lines = fitted(f"step 1: {part}, loss 1", screen).split("\n")
    assert len(lines) == 3 and max(map(len, lines)) <= 60 and "".join(lines).endswith("terminal,    loss 1")


def test_what_mining_prints_takes_less_than_80_columns():
    rows = [{"chosen_reward": 1.0, "rejected_reward": 0.5}] * 1_234
    mined = MinedPairs(rows, 1_234_567, 0.3456, wer=0.25)
    assert str(mined).startswith("1,234 pairs from 1,234,567 clips (0.00 a clip), mean margin 0.500\nWER of the hyp")
    assert str(mined) == str(MiningSummary(1_234_567, 1_234, 1, 0.3456, 617.0, 25, 100))
    assert max(map(len, str(mined).split("\n"))) < 80


def test_files_get_whole_lines_without_colours(screen):
    line = ", ".join(["a metric 0.5"] * 20)
    assert fitted(line, io.StringIO()) == wrapped(line, io.StringIO()) == line
    assert painted("better", "bold green", io.StringIO()) == "better"


def test_colours_are_the_terminal_s_and_no_color_turns_them_off(screen, monkeypatch):
    assert painted("better", "green", screen) == "\x1b[32mbetter\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("better", "green", screen) == "better"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert painted("better", "green", screen) == "better"


def test_times_are_told_as_people_say_them():
    told = [in_words(seconds) for seconds in (0.24, 48, 60, 200.4, 3600, 7500)]
    assert told == ["0.2 s", "48 s", "1 min", "3 min 20 s", "1 h", "2 h 5 min"]


# ---- whole programs behind a pseudo-terminal ----


def shown(written: str) -> list[str]:
    """The lines that stand on a screen in the end: what is written after a carriage return covers what was there."""
    lines = []
    for line in COLOUR.sub("", written).replace("\r\n", "\n").split("\n"):
        cells = ""
        for part in re.sub(r"\x1b\[[A-Z]", "", line).split("\r"):
            cells = part + cells[len(part) :]
        lines.append(cells.rstrip())
    return lines


def test_what_covers_a_line_is_what_is_shown():
    assert shown("50%\r100%\r\n   \rdone\r\n") == ["100%", "done", ""]


@pytest.fixture
def program(tmp_path) -> Path:
    """`audiorl`, interrupted at a step where the environment names one."""
    path = tmp_path / "program.py"
    path.write_text(
        "import os, signal\nfrom audiorl import cli\nfrom audiorl.trainers.logs import Console\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "told, step = Console.on_log, int(os.environ.get('INTERRUPT_AT', -1))\n"
        "def on_log(self, args, state, control, **kwargs):\n"
        "    told(self, args, state, control, **kwargs)\n"
        "    if state.global_step == step:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "Console.on_log = on_log\ncli.main()\n"
    )
    return path


def tuning(base: Path, data: Path, out: Path, *flags: str) -> list[str]:  # noqa: F811
    return ["sft", *arguments(base, data, out), "--logging_steps", "1", *flags]


def test_a_run_shows_one_bar_at_a_time_and_ends_with_a_verdict(base, data, tmp_path, program):  # noqa: F811
    flags = tuning(base, data, Path("out"), "--eval_dataset_name", str(data))
    code, written = on_a_screen(program, flags, 80, tmp_path)
    lines = shown(written)
    told = "\n".join(lines)
    assert code == 0, told
    commands = ("  push ", "  measure ")  # stay in one piece
    assert max(len(line) for line in lines if not line.startswith(commands)) <= 80, told
    bars = [line.split(":")[0] for line in lines if "%|" in line]
    assert bars == ["Loading weights", "transcribing", "training", "Writing model shards", "transcribing"]
    # the bar of the last step has its loss, and comes below the lines of the steps
    (bar,) = (line for line in lines if line.startswith("training: 100%"))
    assert "loss " in bar and lines.index(bar) > max(i for i, line in enumerate(lines) if line.startswith("step "))
    assert "step 2/2: loss " in told and "WER before" in told and "WER after" in told
    assert re.search(r"^Verdict     (better|worse|cannot tell: the interval includes 0) \(paired bootst", told, re.M)
    assert re.search(r"\x1b\[1;3[123]mVerdict ", written)
    assert re.search(r"^Training took [\d.]+ .*, with up to \d+\.\d\d GiB of memory\.$", told, re.M)
    assert lines[-6:] == [
        *("The tuned checkpoint lies in out", "Next:", "  look    audiorl report out"),
        *(
            "  check   out/README.md, the model card",
            "  push    hf upload my-org/my-model out . --exclude 'checkpoint-*'",
        ),
        "",
    ]


def test_no_color_and_ctrl_c_on_a_line_of_its_own_below_the_bar(base, data, tmp_path, program):  # noqa: F811
    flags = tuning(base, data, Path("out"), "--max_steps", "9")
    code, written = on_a_screen(program, flags, 120, tmp_path, INTERRUPT_AT="3", NO_COLOR="1")
    lines = shown(written)
    assert code == 130
    assert lines[-2:] == [
        "error: interrupted; it had written no checkpoint yet (--save_steps says how often)",
        "",
    ]
    assert lines[-3].startswith("training:  33%") and not COLOUR.search(written)


def test_a_table_that_is_too_wide_goes_on_below_with_its_first_column():
    rows = [["model", "WER %", "95 %", "CER %"], ["small", "26.7", "18.6 to 35.6", "15.2"]]
    assert table_lines(rows) == ["model  WER %          95 %  CER %", "small   26.7  18.6 to 35.6   15.2"]
    assert table_lines(rows, 20) == [
        *("model  WER %", "small   26.7", "", "model          95 %", "small  18.6 to 35.6", "", "model  CER %"),
        "small   15.2",
    ]
    assert table_lines(rows, 5) == table_lines(rows, 1)  # a column at a time, however narrow


# ---- bars in files and pipes ----


def test_a_file_gets_a_line_now_and_then_and_none_of_what_is_done_at_once(capfd, monkeypatch):
    list(progress_bar(range(3), desc="reading", unit="row"))
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("audiorl.terminal.LINE_SECONDS", 0.0)
    list(progress_bar(range(2), desc="reading", unit="row"))
    lines = capfd.readouterr().err.split("\n")
    assert [line.split(" [")[0] for line in lines if line][-1] == "reading: 2/2 row"
    assert not any("\r" in line or "%" in line for line in lines)
    with progress_bar(desc="asking", unit="clip") as bar:
        bar.update(5)
    assert capfd.readouterr().err.splitlines()[-1].startswith("asking: 5 clip [")
    list(progress_bar(range(2), desc="reading", progress=False))
    assert capfd.readouterr().err == ""
