"""Files that are written whole, locked folders, full disks, and JSON without NaN.

A file is written beside its place, as `NAME.PID.part`, and moved there in one rename. Leftovers of a killed
process are removed when the file is written again, or when a run that holds the folder's lock begins.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

# Files of a run's folder; `audiorl.report.run_folder` says what is in them
METRICS_FILE = "metrics.jsonl"
STATE_FILE = "trainer_state.json"
EVALUATION_FILE = "evaluation.json"
EARLIER_EVALUATION = "evaluation.earlier.json"
LIST_FILE = "audiorl_checkpoint.json"  # of a checkpoint: its files, and what it was trained as
RECIPE_FILE = "recipe.json"
LEFT_FOLDER = "report"
AUDIO_FOLDER = "audio"
RUN_FILE, PAIRS_FILE, GROUPS_FILE = "run.json", "pairs.jsonl", "groups.jsonl"

LOCK_FILE = ".run.lock"
# Seconds to wait for a lock. A run that starts anew at once finds that the system still clears the killed one away.
LOCK_WAIT = 5.0
# No room, a quota, or a limit of the shell: what all of them need is room.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The same as torch and safetensors say it, which raise no OSError.
_SAID_OF_FILES = ("PytorchStreamWriter", "inline_container", "iostream error", "IoError", "I/O error", "os error")
_PART = re.compile(r"\.(\d+)\.part$")


@contextmanager
def whole_file(path: str | os.PathLike[str], mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file that appears at its place when the block ends, whole or not at all.

    Args:
        path: its place; what is there already stays until the block has ended.
        mode: "w" or "wb".
        options: further ones of `open`; text is UTF-8 unless they say otherwise.

    Raises:
        OSError: it cannot be written; what was at `path` stays.
    """
    name = os.fspath(path)
    sweep_parts(name)
    beside = f"{name}.{os.getpid()}.part"
    if "b" not in mode:
        options = {"encoding": "utf-8", **options}
    try:
        with open(beside, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, name)
    finally:
        with suppress(OSError):
            os.remove(beside)


def sweep_parts(name: str) -> None:
    """Remove the parts of a file that killed processes of this machine left; those of running ones stay."""
    folder, base = os.path.split(os.path.abspath(name))
    for path in Path(folder).glob(f"{_escaped(base)}.*.part"):
        found = _PART.search(path.name)
        if found and path.name == f"{base}{found[0]}" and not process_lives(int(found[1])):
            path.unlink(missing_ok=True)


def sweep_folder(folder: str | os.PathLike[str]) -> None:
    """Remove all parts of files of a folder, not of its subfolders. Call it only with the folder's lock."""
    for path in Path(folder).glob("*.part"):
        if _PART.search(path.name):
            path.unlink(missing_ok=True)


def lock_folder(folder: str | os.PathLike[str], *, wait: float | None = None) -> FileLock:
    """Keep other processes from writing to a folder until the lock is released or this process ends.

    Trainers of one process share its lock: one that comes later gets it at once.

    Args:
        folder: made if it is not there.
        wait: seconds; default `LOCK_WAIT`.

    Raises:
        ValueError: another process has it.
    """
    os.makedirs(folder, exist_ok=True)
    lock = FileLock(os.path.join(os.path.realpath(folder), LOCK_FILE), is_singleton=True, thread_local=False)
    try:
        lock.acquire(timeout=LOCK_WAIT if wait is None else wait)
    except Timeout as error:
        raise ValueError(
            f"Another run is writing to {os.fspath(folder)}. Wait until it ends, or choose another folder "
            "(--output_dir)."
        ) from error
    return lock


def file_fault(error: BaseException) -> str | None:
    """Why a file could not be written, in a few words; None if the error is about something else.

    torch and safetensors raise a RuntimeError and an error of their own, so their texts are read.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    said = str(error)
    if isinstance(error, RuntimeError) or type(error).__module__.startswith("safetensors"):
        if any(words in said for words in _SAID_OF_FILES):
            return " ".join(said.split(" Exception raised from")[0].split())
    return None


def is_full(error: BaseException, folder: str | os.PathLike[str]) -> bool:
    """Whether a file could not be written because the disk is full."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    if file_fault(error) is None or isinstance(error, OSError):
        return False
    if any(f"code: {number}" in str(error) or f"os error {number}" in str(error) for number in NO_ROOM):
        return True
    try:  # torch does not say why a write failed
        room = os.statvfs(folder)
    except (OSError, AttributeError):
        return False
    return room.f_bavail * room.f_frsize < 64 * 2**20


# ---- JSON ----


def strict_json(value: Any, **options: Any) -> str:
    """Standard JSON: NaN and infinity become null. Python's own writer would write words that parsers refuse.

    Args:
        options: of `json.dumps`.
    """
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file, [] if there is no file. A last line that a killed run cut off is skipped."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}). Correct it, or remove the file to report without it."
            ) from error
    return found


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def process_lives(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_folder(path: str, told: str) -> None:
    """Refuse a folder that cannot be made, or not written to, before anything is spent; none is left behind.

    Of several processes the first one looks.

    Args:
        told: how the message names the setting, as "--output_dir".

    Raises:
        ValueError: with the reason.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        return
    made: list[Path] = []
    folder = Path(path).expanduser()
    try:
        for part in [*reversed(folder.parents), folder]:
            if not part.is_dir():
                part.mkdir()
                made.append(part)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(f"{told} {path}: no folder can be written there ({error.strerror}). Name another.") from error
    finally:
        for part in reversed(made):
            with suppress(OSError):  # somebody writes there by now
                part.rmdir()


# ---- content ----

_WHOLE_BYTES = 2**24  # of a larger file, as of weights, some blocks are read
_BLOCKS, _BLOCK_BYTES = 64, 4096
# Files of a folder that say what its clips are; there may be thousands of clips.
_TELLING = {".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet"}
# What decides what a model says; beside it may lie logs and reports.
_OF_A_MODEL = ("config.json", "adapter_config.json", "generation_config.json", "*.safetensors", "*.bin")


def content_digest(path: str | os.PathLike[str]) -> str | None:
    """A short digest of a file, of a model's folder or of one with clips; None where there is no such path.

    Files above 16 MiB are known by size and 64 blocks of 4 KiB, clips in a folder by their names and sizes.
    """
    found = Path(path)
    if not found.exists():
        return None
    is_model = any((found / name).is_file() for name in _OF_A_MODEL[:2])
    files = [found]
    if found.is_dir():
        named = [found.glob(name) for name in _OF_A_MODEL] if is_model else [found.rglob("*")]
        files = sorted(file for group in named for file in group if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        name = "" if file == found else file.relative_to(found).as_posix()
        digest.update(f"{name} {size}\n".encode("utf-8", "surrogateescape"))
        if file == found or is_model or file.suffix.lower() in _TELLING:
            _read_some(file, size, digest)
    return digest.hexdigest()[:16]


def _read_some(path: Path, size: int, digest: Any) -> None:
    with open(path, "rb") as file:
        if size <= _WHOLE_BYTES:
            digest.update(file.read())
            return
        for block in range(_BLOCKS):
            file.seek(block * (size - _BLOCK_BYTES) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
