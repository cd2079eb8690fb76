"""How far does a reader walk? Files that building a GRPO trainer and one of its steps lead through.

    python benchmarks/walks.py

`sys.setprofile` sees every call of a function of audiorl, in this process and its threads:

    files   distinct files of audiorl that were entered
    moves   calls that enter another file than the one audiorl was in last; going back is not counted
    calls   from one file of audiorl straight into another one; a call through torch or transformers is not counted

The model is the demo's small Whisper, the rows are noise. Imports are done before anything is counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from audiorl.trainers.grpo import GRPOConfig, GRPOTrainer

LIBRARY = Path(sys.modules["audiorl"].__file__ or "").parent
CLIPS, SECONDS, RATE = 2, 2.0, 16_000


class Walk:
    """Counts the files of the library that a block goes through."""

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()  # file -> how often it was entered from another one
        self.moves = self.calls = 0
        self._last: str | None = None

    def __enter__(self) -> Walk:
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or (place := file_of(frame)) is None:
            return
        caller = file_of(frame.f_back) if frame.f_back is not None else None
        if caller is not None and caller != place:
            self.calls += 1
        if place != self._last:
            self.moves += 1
            self.files[place] += 1
        self._last = place


def file_of(frame: FrameType) -> str | None:
    """The file of audiorl that a frame runs, relative to the package; None elsewhere."""
    name = frame.f_code.co_filename
    return name[len(str(LIBRARY)) + 1 :] if name.startswith(f"{LIBRARY}/") else None


def counted(work: Callable[[], Any]) -> tuple[Any, Walk]:
    walk = Walk()
    with walk:
        made = work()
    return made, walk


def clips() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((CLIPS, int(SECONDS * RATE))).astype(np.float32)
    return [{"audio": {"array": clip, "sampling_rate": RATE}, "text": "one two three"} for clip in noise]


def trainer(folder: str) -> GRPOTrainer:
    """The library's own way: everything but the rewards at its default, one step of two clips and four hypotheses."""
    args = GRPOConfig(
        output_dir=folder,
        max_steps=1,
        num_generations=4,
        per_device_train_batch_size=CLIPS,
        max_completion_length=16,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        quiet=True,
        disable_tqdm=True,
    )
    return GRPOTrainer(str(LIBRARY / "demo" / "checkpoint"), "one_minus_wer", args, train_dataset=clips())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=12, help="how many files to list for each part")
    options = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        trainer(folder).train()  # imports and caches
    with tempfile.TemporaryDirectory() as folder:
        made, building = counted(lambda: trainer(folder))
        _, step = counted(made.train)

    own = [kind for kind in GRPOTrainer.__mro__ if kind.__module__.startswith("audiorl.")]
    record: dict[str, Any] = {"library_files": len(list(LIBRARY.rglob("*.py"))), "own_classes": len(own)}
    for name, walk in (("building", building), ("step", step)):
        print(f"{name}: {len(walk.files)} files, {walk.moves} moves, {walk.calls} calls from file to file")
        for place, times in walk.files.most_common(options.most):
            print(f"  {times:5d}  {place}")
        record[name] = {"files": len(walk.files), "moves": walk.moves, "calls": walk.calls}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
