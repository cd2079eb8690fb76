"""`audiorl report RUN`: one HTML file of a run or an evaluation, and the run's checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from audiorl.command_line import with_first_word
from audiorl.flags import parse
from audiorl.report import AUDIO_MEGABYTES


@dataclass
class ReportArguments:
    """`audiorl report RUN [flags]`."""

    run: str = field(
        metadata={
            "help": "A run's output_dir, or a file that `audiorl evaluate --output` wrote. It can also be the "
            "first word, without --run."
        }
    )
    output: str | None = field(
        default=None, metadata={"help": "The HTML file. Unset: report.html in the run's folder, or beside the file."}
    )
    audio_megabytes: float = field(
        default=AUDIO_MEGABYTES,
        metadata={"help": "How much of the file may be audio, in MB, >= 0; clips beyond it are linked."},
    )
    title: str | None = field(default=None, metadata={"help": "Title of the page. Unset: the run's name."})


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse((ReportArguments,), (), with_first_word("report", sys.argv[1:] if argv is None else argv))

    from pathlib import Path

    from audiorl.report import checkpoint_table, read_run, write_report

    page = write_report(args.run, args.output, audio_megabytes=args.audio_megabytes, title=args.title)
    if checkpoints := read_run(Path(args.run)).checkpoints:
        print(checkpoint_table(checkpoints))
    print(f"The report lies in {page}")
