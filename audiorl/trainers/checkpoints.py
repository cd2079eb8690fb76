"""Checkpoints that are whole or absent, and are checked before a run resumes from them.

1. `Trainer` writes a checkpoint file by file into its final place. Here it is written into
   `<output_dir>/.incomplete/`, with a list of its files, their sizes and checksums (`audiorl_checkpoint.json`). It is
   renamed when every process has written its part. A run killed at any moment leaves only whole `checkpoint-N` folders.
2. A run resumes only from a checkpoint whose files all match the list. If one is damaged, the error says how, before
   anything is spent, and names the next older whole checkpoint.
3. The list also describes the run (`fingerprint.py`), so that a different run does not resume from it by mistake.
4. `save_total_limit` goes by step numbers. The last written, the best and the newest checkpoints stay.
5. If the checkpoint has reached the last step, nothing is trained.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from torch import nn
from torch.distributed.fsdp import StateDictType
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from audiorl.files import LIST_FILE, file_fault, is_full, lock_folder, sweep_folder
from audiorl.models import base_model
from audiorl.terminal import wrapped
from audiorl.trainers.fingerprint import RunFingerprint, changes, check_same_run, settings_of

logger = logging.get_logger(__name__)

STAGING = ".incomplete"
STATE_FILE = "trainer_state.json"
LIST_VERSION = 1
# People edit these after a run, so they are not in the list.
NOT_LISTED = (LIST_FILE, "README.md")
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model_fsdp_0",
)


def saved_names(checkpoint: str) -> set[str]:
    """Names of the weights in a checkpoint of whole weights; empty for an adapter's or a sharded one."""
    found: set[str] = set()
    for path in Path(checkpoint).glob("model*.safetensors"):
        with safe_open(path, "pt") as weights:
            found.update(weights.keys())
    return found


class Checkpoints:
    """The checkpoints of one run's folder: written aside, listed, published, rotated, found again.

    Args:
        folder: `output_dir`.
        limit: `save_total_limit`; None or 0 keeps all.

    Attributes:
        staging: where a checkpoint is being written now; None while none is.
    """

    def __init__(self, folder: str, limit: int | None):
        self.folder = folder
        self.limit = limit
        self.staging: str | None = None
        self._lock: Any = None

    def claim(self) -> None:
        """Keep other processes out of the folder from now on, and remove what killed processes left unfinished.

        Raises:
            ValueError: another process trains there.
        """
        if self._lock is None:
            self._lock = lock_folder(self.folder)
        self.discard_staging()
        sweep_folder(self.folder)

    def discard_staging(self) -> None:
        shutil.rmtree(staging_dir(self.folder), ignore_errors=True)

    def last(self) -> str:
        """A sentence on the last whole checkpoint, for the messages of a run that ends early."""
        found = last_whole_checkpoint(self.folder)
        if found is None:
            return f"No checkpoint had been written to {self.folder} yet; --save_steps says how often one is."
        return f"The last checkpoint, {found}, is whole: go on from it with --resume_from_checkpoint {found}."

    def publish(self, name: str, run: dict[str, Any], best: str | None) -> str:
        """List the files in the staging folder, move it to its place under that name, and delete old checkpoints.

        Args:
            run: what it was trained as.
            best: the best checkpoint, which stays.

        Returns:
            Its place.
        """
        staged, final = os.path.join(staging_dir(self.folder), name), os.path.join(self.folder, name)
        write_list(staged, run)
        publish(staged, final)
        self._rotate(final, best)
        self.discard_staging()
        return final

    def _rotate(self, written: str, best: str | None) -> None:
        """Remove the checkpoints of the lowest steps beyond `limit`, each in one rename.

        Those of later steps than the one just written are from a run that was given up, and go first.
        """
        if not self.limit or self.limit < 0:
            return
        kept = {os.path.realpath(path) for path in (written, best) if path is not None}
        known = step_folders(self.folder)
        now = _step(written)
        order = sorted(known, key=lambda path: (_step(path) <= now, _step(path)))
        surplus = len(known) - max(self.limit, len(kept))
        for path in [path for path in order if os.path.realpath(path) not in kept][: max(surplus, 0)]:
            aside = os.path.join(staging_dir(self.folder), f"{os.path.basename(path)}.removed")
            os.makedirs(os.path.dirname(aside), exist_ok=True)
            os.replace(path, aside)
            shutil.rmtree(aside, ignore_errors=True)

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """If a file cannot be written in this block, say which, why, and from which checkpoint to resume.

        Raises:
            UnwritableError: in place of whatever torch, safetensors or the system said of a file in this block.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, UnwritableError) or (reason := file_fault(error)) is None:
                raise
            raise self._unwritable(what, reason, full=is_full(error, self.folder)) from error

    @contextlib.contextmanager
    def with_room(self) -> Iterator[None]:
        """If the disk is full, say so and name the checkpoint to resume from. Covers logs and reports too.

        Raises:
            UnwritableError: the disk is full.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, UnwritableError) or not is_full(error, self.folder):
                raise
            raise self._unwritable("a file of the run", file_fault(error) or str(error), full=True) from error

    def _unwritable(self, what: str, reason: str, *, full: bool) -> UnwritableError:
        self.discard_staging()
        if not full:
            return UnwritableError(f"Writing {what} to {self.folder} failed ({reason}). {self.last()} Mend that first.")
        return UnwritableError(
            f"The disk is full: {what} could not be written to {self.folder} ({reason}). {self.last()} Make room "
            "first; --save_total_limit keeps fewer checkpoints."
        )


class UnwritableError(OSError):
    """A file of a run could not be written. The message names the last whole checkpoint."""


class CheckpointSaver:
    """Saves a trainer's model and checkpoints whole, and finds the checkpoint to resume from.

    Args:
        trainer: a `SpeechTrainer`, built but for this.

    Attributes:
        folder: the checkpoints of `output_dir`.
        fingerprint: what this run is made of.
        saved_files: names of what `save_model` put into its folder last, in the process that saves.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.folder = Checkpoints(trainer.args.output_dir, trainer.args.save_total_limit)
        self.fingerprint = RunFingerprint(trainer)
        self.saved_files: tuple[str, ...] = ()
        trainer.add_callback(self.fingerprint)

    # ---- going on ----

    def way_on(self) -> str:
        """How to go on with the run as it is now, a clause."""
        own = [
            path
            for path in step_folders(self.folder.folder)
            if (run_of(path) or {}).get("id") == self.fingerprint.run_id
        ]
        if own:
            return f"go on from step {_step(own[-1])} with --resume_from_checkpoint True"
        return "it had written no checkpoint yet (--save_steps says how often)"

    def begin(self, resume_from_checkpoint: str | bool | None) -> str | None:
        """Claim `output_dir` and find the checkpoint to resume from, before anything is spent. Every process calls
        this.

        Returns:
            The checkpoint's folder; None for a new run.

        Raises:
            ValueError: another run writes there, the checkpoint is not whole, or it is another run's. All processes
                raise what the first one found.
        """
        found = self._in_first_process(lambda: self._begin(resume_from_checkpoint))
        if found is not None:
            state = TrainerState.load_from_json(os.path.join(found, STATE_FILE))
            self.fingerprint.resumes(state.max_steps, (run_of(found) or {}).get("id"))
        return found

    def _begin(self, asked: str | bool | None) -> str | None:
        self.folder.claim()
        args = self.trainer.args
        found = checkpoint_to_resume(asked, args.output_dir, allow_unlisted=args.allow_changed_resume)
        if found is not None and (run := run_of(found)) is not None:
            check_same_run(found, self.fingerprint.changes(run), allowed=args.allow_changed_resume)
        if found is None and (steps := [_step(path) for path in step_folders(args.output_dir)]):
            told = (
                f"{args.output_dir} holds checkpoints of an earlier run (steps {', '.join(map(str, steps))}), and this "
                "one begins anew. They stay until save_total_limit or a checkpoint of the same step takes their "
                "place. To go on with them: --resume_from_checkpoint True; to keep them: another --output_dir."
            )
            logger.warning(wrapped(told, sys.stderr))
        return found

    def _in_first_process(self, find: Callable[[], str | None]) -> str | None:
        """Search in one process and give all of them the result. An error is raised in all."""
        if self.trainer.args.world_size == 1:
            return find()
        found: list[Any] = [None, None]
        if self.trainer.args.process_index == 0:
            try:
                found[0] = find()
            except (ValueError, OSError) as error:
                found[1] = error
        value, problem = broadcast_object_list(found)
        if problem is not None:
            raise problem
        return value

    def load_renamed(self, checkpoint: str, model: nn.Module) -> None:
        """Load weights that the checkpoint and the model call by different names, through `from_pretrained`.

        It knows both names. `Trainer` leaves such weights as they are, with no more than a warning.
        """
        base = base_model(model)
        if saved_names(checkpoint) - set(base.state_dict()):
            loaded = type(base).from_pretrained(checkpoint, dtype=base.dtype)
            base.load_state_dict(loaded.state_dict())

    # ---- saving ----

    def save_checkpoint(self, save: Callable[[], None], run_dir: str) -> str:
        """Let `Trainer` write into a staging folder, then publish it and delete old checkpoints.

        Args:
            save: `Trainer`'s own way, without rotation and push.
            run_dir: where the checkpoint is to appear.

        Returns:
            Its folder.
        """
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.trainer.state.global_step}"
        with self.folder.writing(name):
            self._write_checkpoint(save, run_dir, name)
        return os.path.join(run_dir, name)

    def _write_checkpoint(self, save: Callable[[], None], run_dir: str, name: str) -> None:
        trainer, args, folder = self.trainer, self.trainer.args, self.folder
        folder.folder, folder.limit = run_dir, args.save_total_limit
        if args.should_save:
            folder.discard_staging()
        trainer.accelerator.wait_for_everyone()
        limit, push = args.save_total_limit, args.push_to_hub
        folder.staging = staging_dir(run_dir)
        args.save_total_limit, args.push_to_hub = None, False
        staged = os.path.join(folder.staging, name)
        try:
            save()
            for part in trainer.extra_state:
                part.save(staged)
            if args.should_save:
                trainer.describe(staged, os.path.join(run_dir, name))
            self._name_best_checkpoint(run_dir, staged)
        finally:
            folder.staging = None
            args.save_total_limit, args.push_to_hub = limit, push
        trainer.accelerator.wait_for_everyone()
        if args.should_save:
            folder.publish(name, self.fingerprint.run, trainer.state.best_model_checkpoint)
        trainer.accelerator.wait_for_everyone()

    def _name_best_checkpoint(self, run_dir: str, staged: str) -> None:
        """Write the best checkpoint's name as it will be after the rename into the state and its file."""
        state = self.trainer.state
        if not state.best_global_step:
            return
        name = f"checkpoint-{state.best_global_step}"
        if os.path.isdir(os.path.join(run_dir, name)) or os.path.basename(staged) == name:
            state.best_model_checkpoint = os.path.join(run_dir, name)
        if self.trainer.args.should_save:
            state.save_to_json(os.path.join(staged, STATE_FILE))

    def save_model(self, save: Callable[[str], None], final: str) -> None:
        """Save model, processor and card. Each file appears whole, weights last.

        Args:
            save: `Trainer`'s own way to save into a folder.
        """
        if self.folder.staging is not None:  # a part of a checkpoint
            save(final)
            return
        with self.folder.writing("the model"):
            self._save_whole_model(save, final)

    def _save_whole_model(self, save: Callable[[str], None], final: str) -> None:
        staged = os.path.join(staging_dir(final), "model")
        with self._weights_in_one_piece():
            save(staged)
        self.trainer.accelerator.wait_for_everyone()
        if self.trainer.args.should_save:
            try:
                self.trainer.describe(staged, final)
            finally:  # the model appears, whatever keeps its card from being written
                self.saved_files = publish_files(staged, final)
                shutil.rmtree(staging_dir(final), ignore_errors=True)

    @contextlib.contextmanager
    def _weights_in_one_piece(self) -> Iterator[None]:
        """Save a model that `from_pretrained` loads, even if checkpoints are sharded."""
        plugin = getattr(self.trainer.accelerator.state, "fsdp_plugin", None)
        if plugin is None:
            yield
            return
        kept, plugin.state_dict_type = plugin.state_dict_type, StateDictType.FULL_STATE_DICT
        try:
            yield
        finally:
            plugin.state_dict_type = kept


def staging_dir(output_dir: str) -> str:
    """Where unfinished checkpoints lie. No run resumes from there."""
    return os.path.join(output_dir, STAGING)


def publish(staged: str, final: str) -> None:
    """Move a finished folder to its place in one rename, and replace an older folder of that name."""
    _flush(Path(staged))
    if os.path.exists(final):
        aside = f"{staged}.replaced"
        os.replace(final, aside)
        os.replace(staged, final)
        shutil.rmtree(aside)
    else:
        os.replace(staged, final)
    _flush_entry(Path(final).parent)


def publish_files(staged: str, final: str) -> tuple[str, ...]:
    """Move a finished folder's files into an existing one, each in one rename, weights last; returns their names."""
    _flush(Path(staged))
    os.makedirs(final, exist_ok=True)
    names = sorted(os.listdir(staged), key=lambda name: (name.endswith((".safetensors", ".bin")), name))
    for name in names:
        target = os.path.join(final, name)
        if os.path.isdir(target):
            shutil.rmtree(target)
        os.replace(os.path.join(staged, name), target)
    os.rmdir(staged)
    _flush_entry(Path(final))
    return tuple(names)


# ---- whole checkpoints ----


def write_list(folder: str, run: dict[str, Any]) -> None:
    """Write the list of a finished checkpoint's files, with sizes and checksums, and a description of its run."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    listed = [(path, name) for path, name in zip(paths, names, strict=True) if name not in NOT_LISTED]
    with ThreadPoolExecutor(4) as threads:
        sums = list(threads.map(_checksum, (path for path, _ in listed)))
    files = {
        name: {"bytes": path.stat().st_size, "sha256": found} for (path, name), found in zip(listed, sums, strict=True)
    }
    told = json.dumps({"version": LIST_VERSION, "files": files, "run": run}, indent=1)
    Path(folder, LIST_FILE).write_text(told + "\n", encoding="utf-8")


def run_of(checkpoint: str | os.PathLike) -> dict[str, Any] | None:
    """The description of a checkpoint's run; None without a list."""
    try:
        return json.loads(Path(checkpoint, LIST_FILE).read_text(encoding="utf-8"))["run"]
    except FileNotFoundError:
        return None


def faults(checkpoint: str | os.PathLike, *, checksums: bool = True) -> list[str]:
    """Why a run cannot resume from a folder, a few words for each reason; empty for a whole checkpoint.

    Args:
        checksums: read all files; False compares their sizes only.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return ["there is no such folder"]
    if not (folder / LIST_FILE).is_file():
        found = _missing_parts(folder)
        return found or [f"it has no {LIST_FILE}, the list of its files: another program wrote it, or it was removed"]
    try:
        known = json.loads((folder / LIST_FILE).read_text(encoding="utf-8"))
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in known["files"].items()}
        dict(known["run"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{LIST_FILE} is damaged"]
    found = []
    same_size = []
    for name, (size, expected) in files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != size:
            found.append(f"{name} has {path.stat().st_size:,} bytes and not {size:,}")
        else:
            same_size.append((path, name, expected))
    if checksums:
        with ThreadPoolExecutor(4) as threads:
            sums = threads.map(_checksum, (path for path, _, _ in same_size))
            found += [
                f"{name} is damaged: its checksum differs"
                for (_, name, expected), own in zip(same_size, sums, strict=True)
                if own != expected
            ]
    if not any(name.startswith("rng_state") for name in files):
        found.append("it holds the model alone, no optimizer and no random state (--save_only_model)")
    return found or _missing_parts(folder)


def _missing_parts(folder: Path) -> list[str]:
    """Parts that every checkpoint needs and this one lacks: the trainer's state and a model."""
    found = []
    try:
        TrainerState.load_from_json(str(folder / STATE_FILE))
    except FileNotFoundError:
        found.append(f"{STATE_FILE} is missing")
    except (OSError, ValueError, TypeError):
        found.append(f"{STATE_FILE} is damaged")
    # an adapter that is not called "default" lies in a folder of its own name
    written = (*folder.glob("*.safetensors"), *folder.glob("*/adapter_model.safetensors"))
    if not any(written) and not any((folder / name).exists() for name in WEIGHTS):
        found.append("its weights are missing")
    return found


def is_whole(checkpoint: str | os.PathLike, *, checksums: bool = True) -> bool:
    """Whether a run can resume from a folder: all files of its list are there, unchanged."""
    return not faults(checkpoint, checksums=checksums)


def last_whole_checkpoint(output_dir: str, *, below: int | None = None) -> str | None:
    """The whole checkpoint with the highest step, or None.

    Args:
        below: only those of lower steps.
    """
    known = [path for path in step_folders(output_dir) if below is None or _step(path) < below]
    return next((path for path in reversed(known) if is_whole(path)), None)


def checkpoint_to_resume(
    asked: str | bool | None, output_dir: str, *, allow_unlisted: bool = False, checksums: bool = True
) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means.

    Args:
        asked: a folder; True for the last checkpoint of `output_dir`; "auto" for the last one or, where there is none,
            none; None or False for none. A command line can only say the words "True" and "False", so they count as
            well.
        allow_unlisted: also one without a list of its files, which nothing can be checked of.
        checksums: as in `faults`.

    Raises:
        ValueError: there is no checkpoint, or it is not whole; the next older whole one is named.
    """
    if str(asked).lower() in ("none", "false", ""):
        return None
    folder = str(asked)
    if folder.lower() in ("true", "auto"):
        known = [path for path in step_folders(output_dir) if not _is_foreign(path)]
        if not known and folder.lower() == "auto":
            return None
        if not known:
            raise ValueError(
                f"There is no whole checkpoint in {output_dir}. Start without resume_from_checkpoint, or with auto, "
                "which resumes where there is one."
            )
        folder = known[-1]
    elif allow_unlisted and not Path(folder, LIST_FILE).is_file() and not _missing_parts(Path(folder)):
        logger.warning(f"{folder} has no {LIST_FILE}, so it cannot be checked whether its files are whole.")
        return folder
    if not (found := faults(folder, checksums=checksums)):
        return folder
    there = os.path.isdir(folder)
    parent = os.path.dirname(os.path.abspath(folder)) if there else output_dir
    older = last_whole_checkpoint(parent, below=_step(folder) if there and _step(folder) >= 0 else None)
    if not there and older is not None:
        remedy = f"The last one of {parent} is {older}: pass --resume_from_checkpoint {older}."
    elif older is None:
        remedy = "There is no older whole one: start without resume_from_checkpoint."
    else:
        remedy = f"The next older whole one is {older}: pass --resume_from_checkpoint {older}."
    raise ValueError(f"{folder} is not a whole checkpoint: {'; '.join(found)}. {remedy}")


def check_resume(args: Any) -> str | None:
    """Find the checkpoint that a program's flags name, before models and rows are loaded. The trainer checks it again.

    Args:
        args: a trainer's config.

    Raises:
        ValueError: as `checkpoint_to_resume`; or settings are others than the checkpoint's.
    """
    found = checkpoint_to_resume(
        args.resume_from_checkpoint,
        args.output_dir,
        allow_unlisted=args.allow_changed_resume,
        checksums=args.process_index == 0,
    )
    if found is not None and not args.allow_changed_resume and (run := run_of(found)) is not None:
        check_same_run(found, changes(run, settings_of(args)), allowed=False)
    return found


def step_folders(output_dir: str) -> list[str]:
    """The folders `checkpoint-N` by N, whole or not."""
    found = [str(path) for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    return sorted((path for path in found if _step(path) >= 0), key=_step)


def _is_foreign(checkpoint: str) -> bool:
    """Whether another program began this folder: ours have their list before they appear."""
    folder = Path(checkpoint)
    if (folder / LIST_FILE).exists() or not (missing := _missing_parts(folder)):
        return False
    logger.warning(f"{checkpoint} is skipped: {' and '.join(missing)}.")
    return True


def _step(checkpoint: str) -> int:
    """N of `checkpoint-N`, else -1."""
    number = os.path.basename(os.path.normpath(checkpoint)).removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(number) if number.isascii() and number.isdigit() else -1


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    """Write the contents of a folder to the disk, so that they survive a power cut, before the folder is renamed."""
    for path in [*folder.rglob("*"), folder]:
        _flush_entry(path)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
