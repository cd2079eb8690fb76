"""What every benchmark here needs: a fresh process for each thing measured, peak memory, a table, a record.

A measured thing is a *task*: `prepare(*args)` builds it inside a process of its own, `run()` is timed,
`finish()` is not and gives everything back. Of the processes alive only the one that was told to go computes:
they take turns, and what disturbs the machine disturbs all of them alike.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil
import torch

GIB = 2**30
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
SAMPLING_SECONDS = 0.002
PRELOADED = [
    "audiorl.models.whisper",
    "transformers.models.whisper.modeling_whisper",
    "safetensors.torch",
]


class Task(Protocol):
    """What a worker process measures."""

    def run(self) -> None:
        """The work that is timed."""

    def finish(self) -> Any:
        """Untimed: what the parent wants to know, picklable; frees what `run` left behind."""


class Step(NamedTuple):
    """One timed `run`."""

    seconds: float  # wall clock
    cpu_seconds: float  # of all threads of the process; other users of the machine disturb it less
    peak_bytes: int  # above the idle process
    value: Any  # what `finish` returned


class PeakMemory:
    """Peak memory of a `with` block in bytes, to be compared with `held_bytes` before it.

    CUDA: what tensors hold. Linux: the kernel's high-water mark of the resident set, reset before the block,
    less the pages of files. Elsewhere, or where the reset is forbidden: a thread that looks every 2 ms.
    """

    def __init__(self, device: str):
        self.cuda, self.bytes = device == "cuda", 0
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        elif not _reset_high_water_mark():
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated()
        elif self._sampler is None:
            status = _memory_status()
            self.bytes = status["VmHWM"] - status["RssFile"] - status["RssShmem"]
        else:
            self._stop.set()
            self._sampler.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLING_SECONDS):
            self.bytes = max(self.bytes, held_bytes("cpu"))


def held_bytes(device: str) -> int:
    """Memory the process holds now: tensors on a CUDA device, the resident set elsewhere.

    On Linux without the pages of files: the kernel drops and reloads those of libraries as it sees fit.
    """
    if device == "cuda":
        return torch.cuda.memory_allocated()
    return _memory_status()["RssAnon"] if STATUS.exists() else psutil.Process().memory_info().rss


def _reset_high_water_mark() -> bool:
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _memory_status() -> dict[str, int]:
    """Bytes by the kernel's names."""
    rows = (line.split() for line in STATUS.read_text().splitlines())
    return {row[0].rstrip(":"): 1024 * int(row[1]) for row in rows if row[-1] == "kB"}


def settle() -> None:
    """Give free memory back, so that it cannot hide what is taken next; only glibc can be asked on a CPU."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class Worker:
    """One task in a process of its own, waiting to be told to go.

    Args:
        name: what errors call it.
        prepare: importable function that builds the task inside the new process.
        arguments: for `prepare`, picklable.
        device: "cpu" or "cuda"; whose memory is measured.
        threads: of torch, on the CPU.
    """

    def __init__(self, name: str, prepare: Callable[..., Task], arguments: Sequence[Any], *, device: str, threads: int):
        self.name = name
        # before the process starts, because OpenMP reads it when torch is loaded
        os.environ["OMP_NUM_THREADS"] = str(threads)
        context = _process_context(device)
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(far_end, prepare, tuple(arguments), device, threads), daemon=True
        )
        self._process.start()
        far_end.close()
        self.idle_bytes: int = self._receive()

    def go(self) -> Step:
        self._pipe.send("go")
        return self._receive()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self._pipe.send(None)
        self._process.join()
        self._pipe.close()

    def _receive(self) -> Any:
        try:
            failed, answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"The process that measured {self.name!r} died with exit code {self._process.exitcode}; "
                "-9 usually means that memory ran out. Measure fewer clips or hypotheses, or a smaller shape."
            ) from None
        if failed:
            raise RuntimeError(f"The process that measured {self.name!r} failed, its own report follows.\n{answer}")
        return answer


def _process_context(device: str) -> SpawnContext | ForkServerContext:
    """How fresh processes start: forked from a server that has only imported modules, where that is possible.

    Importing takes longer than most things measured here. CUDA, which an import may touch, survives no fork.
    """
    if device == "cuda" or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _serve(
    pipe: Connection, prepare: Callable[..., Task], arguments: tuple[Any, ...], device: str, threads: int
) -> None:
    try:
        torch.set_num_threads(threads)
        task = prepare(*arguments)
        settle()
        idle = held_bytes(device)
        pipe.send((False, idle))
        while pipe.recv() is not None:
            pipe.send((False, _measure(task, idle, device)))
    except (EOFError, BrokenPipeError):
        return  # the parent has ended, nobody waits for an answer
    except Exception:
        pipe.send((True, traceback.format_exc()))


def _measure(task: Task, idle: int, device: str) -> Step:
    gc.collect()
    if device == "cuda":
        # a turn ends with the allocator's cache given back, to leave others room; this refills it
        task.run()
        task.finish()
    with PeakMemory(device) as peak:
        wall, cpu = time.perf_counter(), time.process_time()
        task.run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    value = task.finish()
    if device == "cuda":
        torch.cuda.empty_cache()
    return Step(seconds, cpu_seconds, max(0, peak.bytes - idle), value)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned for a terminal, and a table in Markdown too."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    cells = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([cells[0], rule, *cells[1:]])


def environment(device: str, threads: int) -> dict[str, Any]:
    """When, where and with what a benchmark ran."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl")},
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
        "allocator": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }


def hardware_line(environment: dict[str, Any]) -> str:
    """One line that says where a table comes from."""
    return (
        "{date}, commit {commit}, {device}, {cpu} ({cpus} CPUs, {threads} threads, load {load_average[0]}), "
        "torch {torch}, transformers {transformers}, trl {trl}"
    ).format(**environment)


def _commit() -> str:
    """The checkout's commit, marked where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if found.returncode:
        return "none"
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout.strip()
    return found.stdout.strip() + ("+changes" if changed else "")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def report(result: dict[str, Any], out: Path | None) -> None:
    """Print `result` as the last line, and write it to a file where one is named."""
    line = json.dumps(result)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(line + "\n")
    print(line, flush=True)
