"""Checkpoints that appear whole or not at all.

`Trainer` writes a checkpoint file by file into the place where the next run looks for it. Here it is written into
`<output_dir>/.incomplete/` and renamed when every process has written its part, so that a run killed at any moment
leaves only whole `checkpoint-N` folders behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from torch.distributed.fsdp import StateDictType
from transformers import Trainer
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from audiorl.models import base_model

STAGING = ".incomplete"
STATE_FILE = "trainer_state.json"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model_fsdp_0",
)


def saved_names(checkpoint: str) -> set[str]:
    """What a checkpoint of whole weights calls them; nothing for an adapter's or a sharded one."""
    found: set[str] = set()
    for path in Path(checkpoint).glob("model*.safetensors"):
        with safe_open(path, "pt") as weights:
            found.update(weights.keys())
    return found


class WholeCheckpoints(Trainer):
    """A `Trainer` whose checkpoints and saved models appear whole, and which resumes from whole ones only."""

    _staging: str | None = None
    # names of what `save_model` put into its folder last, in the process that saves
    saved_files: tuple[str, ...] = ()

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        checkpoint = checkpoint_to_resume(resume_from_checkpoint, self.args.output_dir)
        if self.args.should_save:
            discard_staging(self.args.output_dir)
        return super().train(resume_from_checkpoint=checkpoint, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Weights that a checkpoint calls by other names than the model does are read by `from_pretrained`, which knows
        both; `Trainer` leaves them as they are, with no more than a warning, and would go on from the base."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        base = base_model(self.model if model is None else model)
        if saved_names(resume_from_checkpoint) - set(base.state_dict()):
            loaded = type(base).from_pretrained(resume_from_checkpoint, dtype=base.dtype)
            base.load_state_dict(loaded.state_dict())

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Let `Trainer` write into a staging folder, then rename; rotation and push follow the rename."""
        run_dir = super()._get_output_dir(trial)
        folder = f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            discard_staging(run_dir)
        self.accelerator.wait_for_everyone()
        limit, push = self.args.save_total_limit, self.args.push_to_hub
        self._staging = staging_dir(run_dir)
        self.args.save_total_limit, self.args.push_to_hub = None, False
        try:
            super()._save_checkpoint(model, trial)
            self.save_extra_state(os.path.join(self._staging, folder))
            if self.args.should_save:
                self.describe(os.path.join(self._staging, folder), os.path.join(run_dir, folder))
            self._name_best_checkpoint(run_dir, os.path.join(self._staging, folder))
        finally:
            self._staging = None
            self.args.save_total_limit, self.args.push_to_hub = limit, push
        self.accelerator.wait_for_everyone()
        final = os.path.join(run_dir, folder)
        if self.args.should_save:
            publish(os.path.join(staging_dir(run_dir), folder), final)
            discard_staging(run_dir)
            rotate_checkpoints(
                output_dir=run_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()
        if push:
            self._push_from_checkpoint(final)

    def save_extra_state(self, checkpoint: str) -> None:
        """Write what a subclass needs beyond `Trainer`'s state to resume; called in every process."""

    def describe(self, staged: str, final: str) -> None:
        """Write what tells a person about the model; called in the process that saves, before the files appear.

        Args:
            staged: the folder with the model's files, which becomes, or goes into, `final`.
        """

    def _name_best_checkpoint(self, run_dir: str, staged: str) -> None:
        """The best checkpoint's name as it will be after the rename, in the state and in its file."""
        if not self.state.best_global_step:
            return
        name = f"checkpoint-{self.state.best_global_step}"
        if os.path.isdir(os.path.join(run_dir, name)) or os.path.basename(staged) == name:
            self.state.best_model_checkpoint = os.path.join(run_dir, name)
        if self.args.should_save:
            self.state.save_to_json(os.path.join(staged, "trainer_state.json"))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model, processor and card; files appear one by one, each whole, weights last.

        Unlike `Trainer`'s, it does not push: `push_to_hub()` does, once, when all that the card says is known.
        """
        if self._staging is not None:
            super().save_model(output_dir, _internal_call=True)
            return
        final = output_dir or self.args.output_dir
        staged = os.path.join(staging_dir(final), "model")
        with self._weights_in_one_piece():
            super().save_model(staged, _internal_call=True)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            try:
                self.describe(staged, final)
            finally:  # the model appears, whatever keeps its card from being written
                self.saved_files = publish_files(staged, final)
                shutil.rmtree(staging_dir(final), ignore_errors=True)

    @contextlib.contextmanager
    def _weights_in_one_piece(self) -> Iterator[None]:
        """A saved model is one that `from_pretrained` loads, also where checkpoints are kept in shards."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is None:
            yield
            return
        kept, plugin.state_dict_type = plugin.state_dict_type, StateDictType.FULL_STATE_DICT
        try:
            yield
        finally:
            plugin.state_dict_type = kept


def staging_dir(output_dir: str) -> str:
    """Where unfinished checkpoints lie; never looked at when a run resumes."""
    return os.path.join(output_dir, STAGING)


def discard_staging(output_dir: str) -> None:
    """Remove what a killed run left unfinished."""
    shutil.rmtree(staging_dir(output_dir), ignore_errors=True)


def publish(staged: str, final: str) -> None:
    """Move a finished folder to its place in one rename; an older folder of that name gives way."""
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
    """Move the files of a finished folder into an existing one, each in one rename, weights last; their names."""
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


def checkpoint_to_resume(asked: str | bool | None, output_dir: str) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means.

    Args:
        asked: a folder; True for the last whole checkpoint of `output_dir`; None or False for none. A command line
            can only say the words "True" and "False", so they count as well.

    Raises:
        ValueError: there is no whole checkpoint.
    """
    if str(asked).lower() in ("none", "false", ""):
        return None
    if str(asked).lower() == "true":
        last = last_whole_checkpoint(output_dir)
        if last is None:
            raise ValueError(f"There is no whole checkpoint in {output_dir}. Start without resume_from_checkpoint.")
        return last
    if not is_whole(str(asked)):
        raise ValueError(
            f"{asked} is not a whole checkpoint: trainer state or weights are missing. "
            "Resume from another one, or pass True for the last whole one."
        )
    return str(asked)


def is_whole(checkpoint: str | os.PathLike) -> bool:
    """Whether a folder holds the trainer's state and a model; the state file is the last one that is written."""
    folder = Path(checkpoint)
    try:
        TrainerState.load_from_json(str(folder / STATE_FILE))
    except (OSError, ValueError, TypeError):
        return False
    # an adapter that is not called "default" lies in a folder of its own name
    written = (*folder.glob("*.safetensors"), *folder.glob("*/adapter_model.safetensors"))
    return any(written) or any((folder / name).exists() for name in WEIGHTS)


def last_whole_checkpoint(output_dir: str) -> str | None:
    """The whole checkpoint with the highest step, or None; half-written ones of other programs are passed over."""
    found = []
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdigit() and folder.is_dir() and is_whole(folder):
            found.append((int(step), str(folder)))
    return max(found)[1] if found else None


def _flush(folder: Path) -> None:
    """Make the contents of a folder survive a power cut before the folder is renamed."""
    for path in [*folder.rglob("*"), folder]:
        _flush_entry(path)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
