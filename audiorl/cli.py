"""The command line: `audiorl NAME ...` or `python -m audiorl NAME ...`, also behind `torchrun -m audiorl`.

Each command is a function of a module of `audiorl.commands`, imported when it is asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from audiorl import elsewhere
from audiorl._version import __version__
from audiorl.command_line import (
    CLASSES,
    HELP,
    HELP_ALL,
    UnreadableSource,
    WrongFlag,
    check_flags,
    flags_in_source,
    help_page,
    renamed,
    with_first_word,
    with_spaces,
)
from audiorl.exits import MISTYPED, run, stop

TRAINING = ("sft", "dpo", "orpo", "kto", "grpo", "raft")
# whose flags `estimate` takes beside those of the method that it is about
ESTIMATE = "audiorl.commands.estimate.EstimateArguments"
# name -> what it does
COMMANDS = {
    "sft": "tune on transcribed audio",
    "dpo": "tune on preference pairs, mined where rows have transcripts only",
    "orpo": "tune on preference pairs without a frozen policy",
    "kto": "tune on transcripts that were judged one by one",
    "grpo": "tune with rewards on sampled hypotheses",
    "raft": "tune on the best of sampled hypotheses, in cycles",
    "tune": "run a recipe: several methods, one after another",
    "pairs": "mine preference pairs from transcribed audio, or without a model",
    "history": "add what was said before each clip, transcribed and as heard",
    "estimate": "what a run will take in memory and time, from the config alone",
    "evaluate": "measure models, here or served: error rates, intervals, errors",
    "checkpoints": "list a run's checkpoints with loss and WER; copy or push one",
    "datasets": "list the corpora known by name, show one, or export its rows",
    "export": "write rows in another form: NeMo, Kaldi, lhotse, Parquet, ...",
    "segment": "cut long recordings with transcripts into rows, by alignment",
    "report": "make a page: curves, clips to listen to, coloured differences",
}
USAGE = """usage: audiorl COMMAND [flags]

{commands}

audiorl COMMAND --help shows the flags most runs need, --help-all every one;
--config FILE.yaml reads them from a file.
Several processes: torchrun --nproc_per_node=8 -m audiorl COMMAND ...
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; ends the program with its exit code (see `audiorl.exits`)."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h", "help"):
        print(usage(), end="")
        return
    if name == "--version":
        print(__version__)
        return
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        stop(f"unknown command {name}; {elsewhere.COMMANDS.get(name, guess)}", MISTYPED)
    sys.argv[0] = f"audiorl {name}"  # how messages name the program
    if not answered(name, rest):
        run(lambda: command(name)(rest))


def answered(name: str, argv: Sequence[str]) -> bool:
    """Whether help was all that was asked for. Help and wrong flags are answered before torch is imported."""
    program, paths = f"audiorl {name}", CLASSES.get(name, ())
    if name == "estimate" and argv and argv[0] in TRAINING:
        program, paths = f"{program} {argv[0]}", (ESTIMATE, *CLASSES[argv[0]])
        argv = argv[1:]
    if not paths:
        return False
    try:
        flags, former = flags_in_source(paths)
    except (UnreadableSource, OSError, SyntaxError):  # other versions of trl or transformers: the parser answers
        return False
    if asked := {*HELP, HELP_ALL} & set(argv):
        print(help_page(program, flags, COMMANDS[name], everything=HELP_ALL in asked), end="")
        return True
    try:
        refused = elsewhere.ORPO_REFUSED if name == "orpo" else None
        check_flags(renamed(with_spaces(with_first_word(name, argv)), former), flags, former, refused)
    except WrongFlag as error:
        stop(str(error), MISTYPED)
    return False


def command(name: str) -> Callable[[Sequence[str]], None]:
    """The function of a command: `audiorl.commands.train.<name>` for those that train, else a module's `main`."""
    if name in TRAINING:
        return getattr(importlib.import_module("audiorl.commands.train"), name)
    if name == "export":
        return importlib.import_module("audiorl.commands.datasets").export
    return importlib.import_module(f"audiorl.commands.{name}").main


def usage() -> str:
    width = max(map(len, COMMANDS))
    return USAGE.format(commands="\n".join(f"  {name:<{width}}  {does}" for name, does in COMMANDS.items()))
