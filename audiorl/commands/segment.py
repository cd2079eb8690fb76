"""`audiorl segment`: long recordings with transcripts to rows of segments, by forced alignment with a CTC model.

    audiorl segment --model_name_or_path facebook/wav2vec2-base-960h --dataset_name talks.jsonl --output rows.jsonl

Rows of `talks.jsonl` have `audio` and `text`, the whole transcript. Of several lines each becomes a segment; one line
is cut at its pauses. What is written is rows as every command reads them: `audio`, `start`, `end`, `text`, `confidence`
and the other columns of the recording's row. Segments that are left out lie beside them in `NAME.left_out.jsonl`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audiorl.terminal import progress_bar

if TYPE_CHECKING:
    from datasets import Dataset

    from audiorl.models.ctc import CTCFamily

# Columns of a recording's row that its segments do not share
_OF_THE_RECORDING = ("audio", "text", "start", "end", "offset", "duration", "where", "row_id", "row_faults")


@dataclass
class SegmentArguments:
    """`audiorl segment --model_name_or_path CTC_MODEL --dataset_name ROWS --output FILE`."""

    model_name_or_path: str = field(metadata={"help": "A CTC model: Wav2Vec2, HuBERT, WavLM, Parakeet-CTC, ..."})
    dataset_name: str = field(metadata={"help": "Rows of long recordings, in any form: audio and text."})
    output: str = field(metadata={"help": "JSON lines to write, a row for each segment."})
    overwrite: bool = field(default=False, metadata={"help": "Allow --output to replace a file."})
    dataset_split: str | None = field(default=None, metadata={"help": "Split, for data sets given by name."})
    columns: list[str] | None = field(
        default=None, metadata={"help": "Columns with other names than ours, as ours=theirs: text=transcript."}
    )
    min_confidence: float = field(
        default=0.1,
        metadata={
            "help": "Leave out segments below this confidence, from 0 to 1: the mean probability of a frame in their "
            "worst second. 0 keeps all."
        },
    )
    max_segment_seconds: float = field(
        default=20.0, metadata={"help": "Longest segment in seconds, above 1; longer ones are cut at pauses."}
    )
    chunk_seconds: float = field(
        default=30.0, metadata={"help": "Seconds that the model hears at once, at least two overlaps."}
    )
    overlap_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Seconds, > 0, that neighboring chunks share. Unset: 4, or a quarter of a chunk that is shorter "
            "than 16."
        },
    )
    device: str | None = field(
        default=None,
        metadata={"help": "Where the model runs, for example cuda:1. Unset: the first GPU, or else the CPU."},
    )


class Cut(NamedTuple):
    """What became of a recording."""

    kept: list[dict[str, Any]]
    left_out: list[dict[str, Any]]  # with why
    seconds: float


def main(argv: Sequence[str] | None = None) -> None:
    """Align, cut and write; see the flags.

    Raises:
        ValueError: what the user can mend, in three parts.
        BadRowsError: recordings that cannot be aligned, all that shows before.
    """
    from audiorl.flags import parse

    (args,) = parse((SegmentArguments,), (), argv)
    _check(args)

    from audiorl.datasets import BadRowsError, check_rows, speech_rows
    from audiorl.datasets.checks import UNLIMITED

    rows = speech_rows(args.dataset_name, split=args.dataset_split, columns=args.columns)
    if faults := recording_faults(rows):
        raise BadRowsError(faults)
    model, family = _loaded(args)
    lengths = {**UNLIMITED, "least_seconds": family.least_seconds}
    if faults := check_rows(rows, **lengths, text_columns=("text",), distinct=False, setting_columns=(), progress=True):
        raise BadRowsError(faults)
    left_out = left_out_file(args.output)
    counts, kept_seconds, heard_seconds, begun = [0, 0], 0.0, 0.0, time.perf_counter()
    from audiorl.files import whole_file

    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(args.output) as good, whole_file(left_out) as bad:
        for cut in cut_recordings(model, family, rows, args):
            for file, found in ((good, cut.kept), (bad, cut.left_out)):
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
            counts = [counts[0] + len(cut.kept), counts[1] + len(cut.left_out)]
            kept_seconds += sum(row["end"] - row["start"] for row in cut.kept)
            heard_seconds += cut.seconds
    if not counts[1]:
        os.remove(left_out)
    spent = time.perf_counter() - begun
    print(
        f"{counts[0]:,} segments, {kept_seconds / 60:.1f} of {heard_seconds / 60:.1f} minutes, lie in {args.output} "
        f"(RTFx {heard_seconds / spent:.1f})"
    )
    if counts[1]:
        print(f"{counts[1]:,} were left out; {left_out} says which and why")


def left_out_file(output: str) -> str:
    path = Path(output)
    return str(path.with_name(f"{path.stem}.left_out.jsonl"))


def _check(args: SegmentArguments) -> None:
    from audiorl.evaluation.document import check_output
    from audiorl.models import LongForm

    for path in (args.output, left_out_file(args.output)):
        check_output(path, overwrite=args.overwrite)
    LongForm("chunks", args.chunk_seconds, args.overlap_seconds)
    if not 0 <= args.min_confidence <= 1:
        raise ValueError(
            f"A confidence lies between 0 and 1; got min_confidence={args.min_confidence!r}. Set --min_confidence 0.1, "
            "or 0 to keep all segments."
        )
    if not args.max_segment_seconds > 1:
        raise ValueError(
            f"A segment is longer than a second; got max_segment_seconds={args.max_segment_seconds!r}. Raise "
            "--max_segment_seconds."
        )


def recording_faults(rows: Any) -> list[Any]:
    """Why rows cannot be segmented; told before the model is loaded.

    Raises:
        ValueError: the rows are a stream.
    """
    from datasets import Dataset

    from audiorl.audio.sources import AudioFault
    from audiorl.datasets import RowFault, check_rows
    from audiorl.datasets.checks import UNLIMITED

    if not isinstance(rows, Dataset):
        raise ValueError(
            "Segments are cut from recordings that lie on disk, and these rows are a stream. Write them with audiorl "
            "export first."
        )
    faults = check_rows(rows, **UNLIMITED, text_columns=("text",), distinct=False, progress=True)
    known = {fault.row_id for fault in faults}
    for row in rows if "audio" in rows.column_names else ():
        if row["row_id"] in known:
            continue
        try:
            _path_of(row)
        except AudioFault as fault:
            faults.append(RowFault(row["where"], row["row_id"], fault.problem, fault.remedy))
    return faults


def _path_of(row: Mapping[str, Any]) -> str:
    """The recording's file, as segments name it.

    Raises:
        AudioFault: the row holds its audio itself.
    """
    from audiorl.audio.sources import AudioFault

    if row["audio"].get("bytes") is not None:
        raise AudioFault(
            "the row holds its audio itself, and segments name a file", "Write the rows with audiorl export first."
        )
    path = row["audio"]["path"]
    return path if "://" in path else os.path.abspath(path)


def _loaded(args: SegmentArguments) -> tuple[Any, CTCFamily]:
    import torch

    from audiorl.models import CTCFamily, disable_dropout, speech_family
    from audiorl.trainers.loading import load_checkpoint, load_processor

    model = load_checkpoint(args.model_name_or_path, {"dtype": "float32"})
    family = speech_family(model, load_processor(None, model))
    if not isinstance(family, CTCFamily):
        raise ValueError(
            f"{args.model_name_or_path} is no CTC model, whose frames a transcript could be laid over. Pass one, for "
            "example --model_name_or_path facebook/wav2vec2-base-960h."
        )
    disable_dropout(model)
    return model.eval().to(args.device or ("cuda" if torch.cuda.is_available() else "cpu")), family


def cut_recordings(model: Any, family: CTCFamily, rows: Dataset, args: SegmentArguments) -> Iterator[Cut]:
    """The segments of each recording.

    Raises:
        ValueError: a transcript that cannot be aligned; the message names the row.
    """

    from audiorl.audio import AudioFault, load_row_audio, row_segment
    from audiorl.models.ctc_alignment import align, segments_of

    for row in progress_bar(rows, desc="Aligning", unit="recording"):
        try:
            clip = load_row_audio(row, family.sampling_rate)
            aligned = align(
                family,
                model,
                clip,
                row["text"],
                chunk_seconds=args.chunk_seconds,
                overlap_seconds=args.overlap_seconds,
            )
        except AudioFault as fault:
            raise AudioFault(f"{row['where']}: {fault.problem}", fault.remedy) from fault
        except ValueError as error:
            raise ValueError(f"{row['where']}: {error}.") from error
        part = row_segment(row)
        offset = 0.0 if part is None else part.start
        cut = Cut([], [], len(clip) / family.sampling_rate)
        shared = {name: value for name, value in row.items() if name not in _OF_THE_RECORDING and value is not None}
        for number, segment in enumerate(segments_of(aligned, max_seconds=args.max_segment_seconds)):
            found = {
                **shared,
                **({"id": f"{row['id']}-{number:04d}"} if row.get("id") is not None else {}),
                "audio": _path_of(row),
                "start": round(offset + segment.start, 3),
                "end": round(offset + segment.end, 3),
                "text": segment.text,
                "confidence": round(segment.confidence, 4),
            }
            why = _why_left_out(segment, args)
            if why is None:
                cut.kept.append(found)
            else:
                cut.left_out.append({**found, "left_out": why})
        yield cut


def _why_left_out(segment: Any, args: SegmentArguments) -> str | None:
    if segment.confidence < args.min_confidence:
        return f"confidence {segment.confidence:.4f}, below {args.min_confidence:g}"
    if segment.end - segment.start > args.max_segment_seconds:
        return f"{segment.end - segment.start:.1f} s between two words, longer than {args.max_segment_seconds:g} s"
    return None
