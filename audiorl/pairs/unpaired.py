"""From pairs of transcripts to transcripts that are judged alone, and back."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, concatenate_datasets

from audiorl.audio import row_segment
from audiorl.datasets import speech_rows
from audiorl.datasets.rows import iterate_batches
from audiorl.datasets.storage import OURS

SIDES = {"chosen": True, "rejected": False}


def unpaired_rows(source: Any) -> Dataset:
    """Two rows of each pair: its chosen transcript, desirable, and its rejected one, not.

    Args:
        source: rows with `chosen` and `rejected`, in any form that `speech_rows` takes; no stream.

    Returns:
        Rows with `completion` and `label`, first all that are desirable, then all others. Columns named after a side
        (`chosen_reward`) lose that name (`reward`); the others stay. No audio is copied.

    Raises:
        ValueError: the rows are no pairs, a stream, or have a column of that name already.
    """
    rows = _listed(source, ("chosen", "rejected"))
    ours = [name for name in OURS if name in rows.column_names]
    return speech_rows(concatenate_datasets([_side(rows.remove_columns(ours), side) for side in SIDES]))


def _side(rows: Dataset, side: str) -> Dataset:
    (other,) = SIDES.keys() - {side}
    lost = [name for name in rows.column_names if name == other or name.startswith(f"{other}_")]
    own = {name: name.removeprefix(f"{side}_") for name in rows.column_names if name.startswith(f"{side}_")}
    renamed = {side: "completion", **own}
    kept = set(rows.column_names) - {*lost, *renamed}
    if clash := sorted(kept & {"label", *renamed.values()}):
        raise ValueError(
            f"Pairs become rows with {', '.join(sorted({'label', *renamed.values()}))}, and these rows have a column "
            f"{clash[0]!r} already. Rename or remove it."
        )
    rows = rows.remove_columns(lost).rename_columns(renamed)
    return rows.add_column("label", [SIDES[side]] * len(rows))


def paired_rows(source: Any) -> list[dict[str, Any]]:
    """Pairs of the clips that have transcripts of both kinds: the first desirable one with the first that is not, ...

    What has no counterpart is left out. A clip is known by its audio, whatever the rows are called.

    Args:
        source: rows with `completion` and `label`, in any form that `speech_rows` takes; no stream.

    Returns:
        Rows with `chosen` and `rejected`, in the order of their desirable rows. Other columns are kept: one that both
        rows share in both values as it is, one that differs as `chosen_NAME` and `rejected_NAME`.

    Raises:
        ValueError: the rows have no completions and labels, or are a stream.
    """
    rows = _listed(source, ("completion", "label"))
    kinds: dict[bytes, tuple[list[dict], list[dict]]] = defaultdict(lambda: ([], []))
    for some in iterate_batches(rows, 256):
        for row in some:
            plain = {name: value for name, value in row.items() if name not in OURS}
            kinds[_clip(row)][not row["label"]].append(plain)
    return [_pair(*both) for clip in kinds.values() for both in zip(*clip, strict=False)]


def _listed(source: Any, columns: Sequence[str]) -> Dataset:
    rows = speech_rows(source)
    if not isinstance(rows, Dataset):
        raise ValueError("Rows are read more than once here, which a stream cannot offer. Load them as a Dataset.")
    if missing := [name for name in columns if name not in rows.column_names]:
        raise ValueError(
            f"These rows have no column {missing[0]!r}; their columns are {rows.column_names}. Name the right ones "
            "with speech_rows(rows, columns=...), or pass other rows."
        )
    return rows


def _clip(row: Mapping[str, Any]) -> bytes:
    """What tells a clip from others: its file, or its bytes, and which channel and segment of them."""
    audio = row["audio"] or {}
    held = audio.get("bytes")
    known = hashlib.sha256(held).hexdigest() if held else audio.get("path")
    return repr((known, row.get("channel"), row_segment(row))).encode()


def _pair(desirable: Mapping[str, Any], undesirable: Mapping[str, Any]) -> dict[str, Any]:
    pair = {"chosen": desirable["completion"], "rejected": undesirable["completion"]}
    for name in desirable.keys() - {"completion", "label"}:
        if desirable[name] == undesirable[name]:
            pair[name] = desirable[name]
        else:
            pair |= {f"chosen_{name}": desirable[name], f"rejected_{name}": undesirable[name]}
    return pair
