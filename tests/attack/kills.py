"""Kill runs at random moments, start them again, and compare what they end with: `python kills.py --kills 200`.

1. Each case (a method, one or two processes, an end at or off an epoch's end) is run once undisturbed. That run is the
   reference, and it lists the file operations that it did in its folder.
2. A trial runs the case again and ends it with SIGKILL: before one of these operations; in the middle of it, with half
   of the file written; or after a random time. Each sort of operation of all cases is hit at least once, as far as the
   number of kills goes. The other process of the run is ended too, as a launcher would do.
3. The run is started again, as a user would: from the last whole checkpoint if there is one. It must end with the
   reference's weights and losses, to the last bit, its folder without strays and its checkpoints whole.

Runs are forks of a process that has imported everything and trained nothing, so a trial takes about two seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

import safetensors.torch
import torch
import transformers.modeling_utils

from audiorl.evaluation.document import write_document
from audiorl.pairs import MiningConfig, MiningFolder, mine_into
from audiorl.trainers.checkpoints import is_whole, step_folders
from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer
from tests.pairs.mining_rows import rows_on_disk
from tests.tiny_models import tiny_whisper
from tests.trainers import grpo_rows, pair_rows, raft_rows, text_rows

SAVING = {"save_strategy": "steps", "save_steps": 1}
PAIRS = ("pairs.jsonl", "hypotheses.jsonl", "summary.json")
LONGEST = 180.0  # seconds of one run on a busy machine


def _orpo(folder: str, **settings: Any) -> Any:
    model, processor = tiny_whisper()
    args = ORPOConfig(**{**pair_rows.settings(folder), **settings})
    return ORPOTrainer(model, args=args, train_dataset=pair_rows.pair_rows(), processing_class=processor)


def _clips() -> list[dict[str, Any]]:
    """Two steps of rows, whatever the number of processes."""
    return grpo_rows.rows(4 * int(os.environ.get("WORLD_SIZE", "1")))


MAKE: dict[str, Callable[..., Any]] = {
    "sft": text_rows.sft,
    "kto": text_rows.kto,
    "distillation": text_rows.distillation,
    "dpo": pair_rows.trainer,
    "orpo": _orpo,
    "grpo": lambda folder, **settings: grpo_rows.trainer(folder, _clips(), num_iterations=2, **settings),
    "raft": lambda folder, **settings: raft_rows.trainer(folder, _clips(), **settings),
}


@dataclass(frozen=True)
class Case:
    """A run. An epoch has four steps, in two processes two, of GRPO four; a cycle of RAFT has two."""

    method: str
    processes: int = 1
    max_steps: int = 0  # of `pairs`, which has none

    def __str__(self) -> str:
        steps = f", {self.max_steps} steps" if self.max_steps else ""
        return f"{self.method}, {self.processes} process{'es' if self.processes > 1 else ''}{steps}"


CASES = (
    *(
        Case(method, 1, steps)
        for method in ("sft", "kto", "distillation", "dpo", "orpo", "grpo", "raft")
        for steps in (4, 3)
    ),
    *(Case(method, 2, steps) for method in ("sft", "kto", "dpo", "orpo") for steps in (2, 3)),
    *(Case(method, 2, steps) for method in ("grpo", "raft") for steps in (4, 3)),
    Case("pairs", 1),
    Case("pairs", 2),
)
QUICK = (Case("dpo", 1, 3), Case("grpo", 1, 3), Case("raft", 1, 3), Case("pairs", 2))


class Operation(NamedTuple):
    """A file operation of a process; `torn` says whether half of it can have been done."""

    what: str
    name: str
    torn: bool

    @property
    def sort(self) -> tuple[str, str]:
        return self.what, re.sub(r"\d+", "N", self.name)


class Kill(NamedTuple):
    """Where a run ends: the `place`-th operation of process `rank`, half done or not; or after some seconds."""

    rank: int
    place: int = -1
    torn: bool = False
    seconds: float = 0.0


@dataclass
class Files:
    """Watches the file operations of this process below a folder, and ends the process at one of them."""

    folder: str
    kill: Kill | None
    done: list[Operation] = field(default_factory=list)

    def watch(self) -> None:
        sys.addaudithook(self._audit)
        write, sync, save = os.write, os.fsync, torch.save

        def written(file: int, data: bytes) -> int:
            name = os.path.realpath(f"/proc/self/fd/{file}")
            if self._inside(name):
                self._operation("write", name, lambda: write(file, bytes(data)[: len(data) // 2]))
            return write(file, data)

        def synced(file: int) -> None:
            name = os.path.realpath(f"/proc/self/fd/{file}")
            if self._inside(name):
                self._operation("sync", name)
            sync(file)

        def whole(writer: Callable[..., Any], place: int) -> Callable[..., Any]:
            def watched(*args: Any, **kwargs: Any) -> Any:
                path = os.fspath(args[place]) if isinstance(args[place], str | os.PathLike) else ""
                if self._inside(path):
                    self._operation("save", path, lambda: self._half(writer, path, *args, **kwargs))
                return writer(*args, **kwargs)

            return watched

        os.write, os.fsync, torch.save = written, synced, whole(save, 1)
        tensors = whole(safetensors.torch.save_file, 1)
        safetensors.torch.save_file = transformers.modeling_utils.safe_save_file = tensors

    @staticmethod
    def _half(writer: Callable[..., Any], path: str, *args: Any, **kwargs: Any) -> None:
        writer(*args, **kwargs)
        os.truncate(path, os.path.getsize(path) // 2)

    def _inside(self, path: Any) -> bool:
        return isinstance(path, str) and os.path.abspath(path).startswith(self.folder + os.sep)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path, flags = args[0], args[2]
            if isinstance(path, os.PathLike):
                path = os.fspath(path)
            if self._inside(path):
                self._operation("open", path, lambda: self._opened(path, flags))
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"):
            path = os.fspath(args[0]) if isinstance(args[0], str | os.PathLike) else ""
            # shutil.rmtree removes by names within an open folder
            if self._inside(path) or (path and not os.path.isabs(path) and isinstance(args[-1], int) and args[-1] > 0):
                self._operation(event, path)

    def _opened(self, path: str, flags: int) -> None:
        """The file as a process leaves it that dies before it has written all."""
        os.close(os.open(path, (flags & ~(os.O_EXCL | os.O_NOFOLLOW)) | os.O_CREAT, 0o644))
        if flags & os.O_APPEND and not path.endswith(".lock"):
            with open(path, "ab", buffering=0) as file:
                file.write(b'{"ba')

    def _operation(self, what: str, path: str, half: Callable[[], Any] | None = None) -> None:
        inside = self._inside(path)
        name = os.path.relpath(path, self.folder) if inside else path
        place = len(self.done)
        self.done.append(Operation(what, name, half is not None))
        if self.kill is None or self.kill.place != place:
            return
        kill, self.kill = self.kill, None
        if kill.torn and half is not None:
            half()
        os.kill(os.getpid(), signal.SIGKILL)


# ---- one run ----


def run_case(case: Case, folder: Path, source: str, rank: int, out: Path, resume: bool) -> None:
    """What a program does: train and save, or mine; process 0 leaves the result in `out`."""
    if case.method == "pairs":
        config = MiningConfig(num_generations=3, batch_size=2, strategy="transcript_vs_each", measure_wer=True)
        settings = {"settings": "of all trials"}
        model, processor = tiny_whisper()
        with MiningFolder(folder, settings, rank=rank, world=case.processes) as opened:
            mine_into(opened, model, processor, source, config=config, progress=False)
        return
    made = MAKE[case.method](str(folder), max_steps=case.max_steps, **SAVING)
    made.train(resume_from_checkpoint=resume or None)
    made.save_model()
    if rank == 0:
        write_document({"format": "of all trials"}, folder / "evaluation.json")
        losses = [log["loss"] for log in made.state.log_history if "loss" in log]
        hashed = hashlib.sha256()
        for name, values in sorted(made.model.state_dict().items()):
            hashed.update(name.encode() + values.detach().contiguous().numpy().tobytes())
        out.write_text(json.dumps({"weights": hashed.hexdigest(), "losses": losses}))


def start(case: Case, folder: Path, source: str, kill: Kill | None, out: Path) -> list[int]:
    """Fork the processes of a run; what they say goes into `out`.log."""
    resume = case.method != "pairs" and any(map(is_whole, step_folders(str(folder))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(case.processes):
        process = os.fork()
        if process:
            processes.append(process)
            continue
        code = 1
        try:
            said = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 1)
            os.dup2(said, 2)
            if case.processes > 1 and case.method != "pairs":
                group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": case.processes}
                place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in {**group, **place}.items()})
            torch.set_num_threads(1)
            files = Files(os.path.abspath(folder), kill if kill is not None and kill.rank == rank else None)
            files.watch()
            run_case(case, folder, source, rank, out, resume)
            Path(f"{out}.{rank}.operations").write_text(json.dumps(files.done))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return processes


def wait(processes: list[int], kill: Kill | None = None) -> list[int]:
    """Exit codes of a run's processes; when one has died of a signal the others are ended. -1000: all took too long."""
    began = time.monotonic()
    codes: dict[int, int] = {}
    while len(codes) < len(processes):
        for process in processes:
            if process in codes:
                continue
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                codes[process] = os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - began
        timed = kill is not None and kill.place < 0 and passed > kill.seconds
        lost = any(code for code in codes.values()) or timed or passed > LONGEST
        for process in processes if lost else ():
            if process not in codes:
                os.kill(process, signal.SIGKILL)
                codes[process] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if passed > LONGEST:
            return [-1000]
        time.sleep(0.005)
    return [codes[process] for process in processes]


def result(case: Case, folder: Path, out: Path) -> dict[str, Any]:
    """What a finished run is compared by."""
    names = PAIRS if case.method == "pairs" else ("model.safetensors", "evaluation.json")
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return {**found, **({} if case.method == "pairs" else json.loads(out.read_text()))}


def strays(case: Case, folder: Path) -> list[str]:
    """What a finished run may not leave."""
    left = [path for pattern in ("*.part", "*.tmp", ".incomplete") for path in folder.rglob(pattern)]
    broken = [path for path in step_folders(str(folder)) if not is_whole(path)]
    if case.method != "pairs" and len(step_folders(str(folder))) != case.max_steps:
        broken.append(f"{len(step_folders(str(folder)))} checkpoints of {case.max_steps}")
    return [*map(str, left), *broken]


# ---- trials ----


class Reference(NamedTuple):
    result: dict[str, Any]
    operations: list[list[Operation]]  # of each process
    seconds: float


def reference(case: Case, place: Path, source: str) -> Reference:
    folder, out = place / "reference", place / "reference.json"
    began = time.monotonic()
    codes = wait(start(case, folder, source, None, out))
    seconds = time.monotonic() - began
    if any(codes):
        raise RuntimeError(f"{case}: the undisturbed run failed: {Path(f'{out}.log').read_text()[-3000:]}")
    operations = [
        [Operation(*one) for one in json.loads(Path(f"{out}.{rank}.operations").read_text())]
        for rank in range(case.processes)
    ]
    return Reference(result(case, folder, out), operations, seconds)


def trial(case: Case, kill: Kill, known: Reference, place: Path, source: str) -> str | None:
    """Run, kill, run again; what was wrong, None where all is equal, "alive" where the run ended before the kill."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    folder, out = place / "run", place / "result.json"
    codes = wait(start(case, folder, source, kill, out), kill)
    if -signal.SIGKILL not in codes:
        return "alive" if not any(codes) else f"ended with {codes}: {Path(f'{out}.log').read_text()[-3000:]}"
    codes = wait(start(case, folder, source, None, out))
    if any(codes):
        return f"the second run ended with {codes}: {Path(f'{out}.log').read_text()[-3000:]}"
    if left := strays(case, folder):
        return f"left behind: {left}"
    found = result(case, folder, out)
    different = [name for name in known.result if found[name] != known.result[name]]
    return f"not equal: {different}" if different else None


def planned(cases: tuple[Case, ...], known: dict[Case, Reference], kills: int, seed: int) -> list[tuple[Case, Kill]]:
    """Kills over all cases: each sort of operation once, then at random, every fifth after a random time."""
    rng = random.Random(seed)
    sorts: dict[Any, list[tuple[Case, Kill]]] = {}
    for case in cases:
        for rank, operations in enumerate(known[case].operations):
            for number, operation in enumerate(operations):
                for torn in (False, True) if operation.torn else (False,):
                    points = sorts.setdefault((*operation.sort, torn), [])
                    points.append((case, Kill(rank, number, torn)))
    first = [rng.choice(points) for points in sorts.values()]
    rng.shuffle(first)
    plan = first[: kills * 4 // 5]
    while len(plan) < kills:
        case = cases[len(plan) % len(cases)]
        rank = rng.randrange(case.processes)
        if len(plan) % 5 == 0:
            plan.append((case, Kill(rank, seconds=rng.uniform(0.05, 0.9) * known[case].seconds)))
            continue
        number = rng.randrange(len(known[case].operations[rank]))
        plan.append((case, Kill(rank, number, rng.random() < 0.5)))
    rng.shuffle(plan)
    print(
        f"{len(sorts)} sorts of file operations, {min(len(sorts), kills * 4 // 5)} of them hit on purpose", flush=True
    )
    return plan


def at_once(jobs: list[Callable[[], Any]], workers: int) -> list[Any]:
    """Results of jobs that are worked on in so many forks of this process."""
    found: list[Any] = [None] * len(jobs)
    pipes = []
    for worker in range(workers):
        read, write = os.pipe()
        if os.fork():
            os.close(write)
            pipes.append(read)
            continue
        try:
            done = [(number, jobs[number]()) for number in range(worker, len(jobs), workers)]
            with os.fdopen(write, "w") as pipe:
                json.dump(done, pipe)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    for read in pipes:
        with os.fdopen(read) as pipe:
            for number, value in json.loads(pipe.read() or "[]"):
                found[number] = value
    for _ in pipes:
        os.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="four cases only")
    given = parser.parse_args()
    cases = QUICK if given.quick else CASES
    tiny_whisper()  # built once, in the process that all runs are forks of
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        source = str(rows_on_disk(Path(place), 7))

        def whole(case: Case) -> list[Any]:
            folder = Path(place, f"{case.method}-{case.processes}-{case.max_steps}")
            folder.mkdir()
            return list(reference(case, folder, source))  # as JSON has it

        made = at_once([lambda case=case: whole(case) for case in cases], given.workers)
        if None in made:
            sys.exit("an undisturbed run failed")
        known = {
            case: Reference(found[0], [[Operation(*one) for one in some] for some in found[1]], found[2])
            for case, found in zip(cases, made, strict=True)
        }
        plan = planned(cases, known, given.kills, given.seed)

        def tried(number: int) -> str:
            case, kill = plan[number]
            rng = random.Random(given.seed * 1000 + number)
            wrong = trial(case, kill, known[case], Path(place, f"trial-{number}"), source)
            while wrong == "alive":  # it ended before its time: kill it earlier
                earlier = rng.randrange(len(known[case].operations[kill.rank]))
                wrong = trial(case, Kill(kill.rank, earlier), known[case], Path(place, f"trial-{number}"), source)
            shutil.rmtree(Path(place, f"trial-{number}"), ignore_errors=True)
            return wrong or ""

        found = at_once([lambda number=number: tried(number) for number in range(len(plan))], given.workers)
    for (case, kill), wrong in zip(plan, found, strict=True):
        if wrong != "":
            where = f"after {kill.seconds:.2f} s"
            if kill.place >= 0:
                operation = known[case].operations[kill.rank][kill.place]
                where = f"at {operation.what} {operation.name}{', half done' if kill.torn else ''}"
            print(f"{case}, process {kill.rank} killed {where}: {wrong}")
    equal = sum(wrong == "" for wrong in found)
    print(f"{equal} of {len(plan)} equal ({len(cases)} cases, {time.monotonic() - began:.0f} s)")
    sys.exit(equal < len(plan))


if __name__ == "__main__":
    main()
