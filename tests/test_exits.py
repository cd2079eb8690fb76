"""How programs end: on Ctrl-C, with a word on how to go on where there is one."""

from __future__ import annotations

import pytest

from audiorl.exits import INTERRUPTED, interruptible, run


def stopped_by(main, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == INTERRUPTED
    return capsys.readouterr().err.strip()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_says_how_to_go_on_only_where_one_can(capsys):
    def resumable() -> None:
        with interruptible("start it again"):
            interrupt()

    assert stopped_by(interrupt, capsys) == "error: interrupted"
    assert stopped_by(resumable, capsys) == "error: interrupted; start it again"


def test_other_errors_pass_through():
    with pytest.raises(ZeroDivisionError), interruptible("start it again"):
        raise ZeroDivisionError
