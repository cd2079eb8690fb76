"""Pushing to the Hub: the model once at the end, checkpoints if asked. A failed push loses nothing.

1. The repository is made when the trainer is built. If that fails, the run warns and goes on: token, rights or
   connection can be fixed before the end.
2. Checkpoints are pushed in the background, from hard links, so that one can be deleted while it is being pushed. A
   failed push warns at once; a later push includes its files.
3. `push_to_hub` saves the model and pushes only what it saved. If that fails, `PushError` gives the command that pushes
   it again.

Deviations from `transformers.Trainer`:
1. `save_model` does not push, so that the pushed card shows WER after training.
2. Only the model's files go to the root of the repository: no logs, no reports (they hold clips), no pickled arguments.
3. `all_checkpoints` skips none, even if one is written before the previous one has been pushed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.utils import is_peft_model
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from audiorl._version import __version__
from audiorl.files import LIST_FILE
from audiorl.model_card import RESULTS_FOLDER
from audiorl.model_card.card import without
from audiorl.trainers.card import hub_name
from audiorl.trainers.checkpoints import STATE_FILE
from audiorl.trainers.config import without_tokens
from audiorl.trainers.loading import export_merged
from audiorl.trainers.reference import REFERENCE_ADAPTER

logger = logging.get_logger(__name__)

# Where checkpoints wait until they are pushed; never looked at when a run resumes.
OUTBOX = ".outbox"
LAST_CHECKPOINT = "last-checkpoint"
# Ends of the names of a model's files; a checkpoint's others are the trainer's.
MODEL_FILES = (".safetensors", ".json", ".txt", ".jinja", ".model", ".md")
# What the Hub answers to who may not write.
NO_RIGHTS = (401, 403)


class PushError(OSError):
    """A push failed. The model is on disk; the message says where, and gives the command that pushes it again."""


class Parcel(NamedTuple):
    """Files that are pushed together.

    Attributes:
        folder: where they lie.
        files: their names there, or names of folders; none: all.
        place: folder of the repository, "" for its root.
    """

    folder: str
    files: tuple[str, ...] = ()
    place: str = ""

    @property
    def patterns(self) -> list[str] | None:
        """File patterns as `upload_folder` and `hf upload` take them."""
        found = [f"{name}/*" if os.path.isdir(os.path.join(self.folder, name)) else name for name in self.files]
        return found or None


class Sending(NamedTuple):
    """A push in the background."""

    parcel: Parcel
    checkpoint: str  # folder of the outbox that it came from
    job: Future


class HubPusher:
    """Pushes a trainer's model and checkpoints as `hub_strategy` says.

    Args:
        trainer: a `SpeechTrainer`; only its `args` need be there yet.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self._sending: list[Sending] = []
        # checkpoints whose push failed, by their folder in the repository
        self._unsent: dict[str, Parcel] = {}
        # its thread takes one push in the background after the other
        self._api = HfApi(library_name="audiorl", library_version=__version__)

    @property
    def args(self) -> Any:
        return self.trainer.args

    @property
    def repo(self) -> str:
        return hub_name(self.trainer)

    def check(self) -> None:
        """Refuse to merge an adapter that the model does not have, with a ValueError."""
        if self.args.hub_merge_adapter and not is_peft_model(self.trainer.model):
            raise ValueError(
                "hub_merge_adapter merges an adapter into its base before it is pushed, and this model has none. Pass "
                "peft_config (--use_peft), or leave it out."
            )

    def sweep(self) -> None:
        """Remove what an earlier run left waiting to be pushed."""
        if self.args.should_save and not self._unsent:
            shutil.rmtree(self._outbox(), ignore_errors=True)

    def make_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository if it does not exist. Faults that can be fixed later only warn, and it is tried again at
        the end.

        Raises:
            ValueError: `hub_model_id` can never be the name of a repository.
        """
        error = self._make_repo(token, private)
        if isinstance(error, HFValidationError):
            raise ValueError(
                f"hub_model_id names a repository of the Hub, as in my-org/my-model; got {self.repo!r}: {error} "
                "Rename it."
            ) from error
        if error is not None:
            logger.warning(
                f"{self.repo} could not be made on the Hub: {self._reason(error)}. {advice(error, self.args)} "
                f"Training goes on; the model will lie in {self.args.output_dir}, and pushing is tried again then."
            )

    def _make_repo(self, token: str | None, private: bool | None) -> Exception | None:
        """Make the repository. Returns the error that prevented it, if any."""
        if not self.trainer.is_world_process_zero():
            return None
        private = self.args.hub_private_repo if private is None else private
        try:
            made = self._api.create_repo(self.repo, token=token or self.args.hub_token, private=private, exist_ok=True)
        except Exception as error:  # whatever the Hub's client raises: a run of days is not lost for it
            return error
        self.trainer.hub_model_id = made.repo_id
        return None

    # ---- at the end ----

    def push(
        self, commit_message: str | None, blocking: bool, token: str | None, revision: str | None, private: bool | None
    ) -> Any:
        """Save the model and push it; see `SpeechTrainer.push_to_hub`."""
        trainer = self.trainer
        error = self._make_repo(token, private) if trainer.hub_model_id is None else None
        trainer.save_model(_internal_call=True)
        if not trainer.is_world_process_zero():
            return None
        parcel = self._model_parcel(self.args.output_dir, trainer.saver.saved_files)
        self.finish()
        token, revision = token or self.args.hub_token, revision or self.args.hub_revision
        try:
            if error is not None:
                raise error
            for failed in list(self._unsent.values()):
                self._upload(failed, f"{failed.place}, pushed again", token, revision)
                del self._unsent[failed.place]
            if not blocking:
                return self._api.run_as_future(self._upload, parcel, commit_message, token, revision)
            return self._upload(parcel, commit_message, token, revision)
        except Exception as failure:  # whatever the Hub's client raises
            raise PushError(self._failure(parcel, failure)) from failure

    def _model_parcel(self, folder: str, files: tuple[str, ...]) -> Parcel:
        """The files of the model in a folder, or of the merged copy written beside it."""
        if not self.args.hub_merge_adapter:
            return Parcel(folder, model_files(folder, files))
        merged = self.merge(folder)
        return Parcel(merged, model_files(merged, os.listdir(merged)))

    def merge(self, folder: str) -> str:
        """Write the adapter in `folder` merged into its base, with its card, to "<folder>-merged"."""
        merged = f"{folder.rstrip('/')}-merged"
        export_merged(folder, merged, self.trainer.processing_class)
        self.trainer.card.write(merged, merged, merged=True)
        return merged

    def _upload(self, parcel: Parcel, message: str | None, token: str | None, revision: str | None) -> Any:
        return self._api.upload_folder(
            repo_id=self.repo,
            folder_path=parcel.folder,
            path_in_repo=parcel.place or None,
            allow_patterns=parcel.patterns,
            commit_message=message,
            token=token,
            revision=revision,
        )

    def _failure(self, parcel: Parcel, error: BaseException) -> str:
        lines = "\n".join(f"  {push_line(part, self.repo, self.args)}" for part in (parcel, *self._unsent.values()))
        return (
            f"The tuned model was not pushed to {self.repo}: {self._reason(error)}. Nothing is lost: it lies "
            f"whole in {parcel.folder}. {advice(error, self.args)} Then push it again:\n{lines}"
        )

    def _reason(self, error: BaseException) -> str:
        return reason(error, (self.args.hub_token, get_token()))

    # ---- each checkpoint ----

    def push_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint's model in the background, or the whole checkpoint, as `hub_strategy` says."""
        strategy = self.args.hub_strategy
        if not self.trainer.is_world_process_zero() or strategy == HubStrategy.END:
            return
        self._collect(wait=False)
        all_of_them = strategy == HubStrategy.ALL_CHECKPOINTS
        if self._sending and not all_of_them and not self.args.hub_always_push:
            return
        trainer = self.trainer
        trainer.callback_handler.on_push_begin(self.args, trainer.state, trainer.control)
        name = os.path.basename(checkpoint_folder)
        kept = os.path.join(self._outbox(), name)
        shutil.copytree(checkpoint_folder, kept, copy_function=link, dirs_exist_ok=True)
        parcels = []
        if any(Path(kept).rglob("*.safetensors")):
            parcels.append(self._model_parcel(kept, tuple(os.listdir(kept))))
        else:
            logger.warning_once(
                "Checkpoints are kept in shards here, which from_pretrained does not load, so the model is pushed at "
                "the end only."
            )
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            parcels.append(Parcel(kept, place=name if all_of_them else LAST_CHECKPOINT))
        message = f"Training in progress, step {trainer.state.global_step}"
        token, revision = self.args.hub_token, self.args.hub_revision
        for parcel in parcels:
            job = self._api.run_as_future(self._upload, parcel, message, token, revision)
            self._sending.append(Sending(parcel, kept, job))

    def finish(self) -> None:
        """Wait for the pushes in the background."""
        self._collect(wait=True)
        with contextlib.suppress(OSError):  # it was never needed, or holds what failed
            os.rmdir(self._outbox())

    def _collect(self, *, wait: bool) -> None:
        """Check the finished pushes, or wait for all. What was pushed leaves the outbox."""
        done = [sending for sending in self._sending if wait or sending.job.done()]
        self._sending = [sending for sending in self._sending if sending not in done]
        for parcel, _, job in done:
            if (error := job.exception()) is None:
                self._unsent.pop(parcel.place, None)
                continue
            if parcel.place:  # what is meant for the root goes out at the end in any case
                self._unsent[parcel.place] = parcel
            logger.warning(
                f"{parcel.place or 'The model'}, step {self.trainer.state.global_step} or before, was not pushed to "
                f"{self.repo}: {self._reason(error)}. Training goes on, and pushing is tried again."
            )
        needed = {sending.checkpoint for sending in self._sending} | {p.folder for p in self._unsent.values()}
        for folder in {sending.checkpoint for sending in done} - needed:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(f"{folder}-merged", ignore_errors=True)

    def _outbox(self) -> str:
        return os.path.join(self.args.output_dir, OUTBOX)


@contextlib.contextmanager
def tokens_left_out(args: Any) -> Iterator[None]:
    """Keep access tokens out of the arguments that `Trainer` pickles beside the weights."""
    kept = args.hub_token, args.model_init_kwargs
    args.hub_token, args.model_init_kwargs = None, without_tokens(args.model_init_kwargs)
    try:
        yield
    finally:
        args.hub_token, args.model_init_kwargs = kept


# ---- what goes out, and what is said where it does not ----


def model_files(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    """The files of a folder that belong to the model: weights, configurations, processor, card and results."""
    return tuple(sorted(name for name in names if _is_of_model(folder, name)))


@contextlib.contextmanager
def appearing(target: str) -> Iterator[str]:
    """A folder to write into, which is renamed to `target` when all of it is there."""
    staged = f"{target.rstrip(os.sep)}.incomplete"
    shutil.rmtree(staged, ignore_errors=True)
    os.makedirs(staged)
    yield staged
    os.replace(staged, target)


def copy_files(folder: str, names: Iterable[str], target: str) -> None:
    """Copy files and folders of a folder into a new one, which appears when it is complete."""
    with appearing(target) as staged:
        for name in names:
            source = os.path.join(folder, name)
            (shutil.copytree if os.path.isdir(source) else shutil.copyfile)(source, os.path.join(staged, name))


def _is_of_model(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    if os.path.isdir(path):  # an adapter that is not called "default" has a folder of its name
        adapter = name != REFERENCE_ADAPTER and os.path.exists(os.path.join(path, "adapter_config.json"))
        return adapter or name == RESULTS_FOLDER
    return name.endswith(MODEL_FILES) and name not in (STATE_FILE, LIST_FILE)


def push_line(parcel: Parcel, repo: str, args: TrainingArguments) -> str:
    """The command line that pushes a parcel."""
    words = ["hf", "upload", repo, parcel.folder, parcel.place or "."]
    words += [word for pattern in parcel.patterns or () for word in ("--include", pattern)]
    words += ["--revision", args.hub_revision] if args.hub_revision else []
    words += ["--private"] if args.hub_private_repo else []
    return shlex.join(words)


def reason(error: BaseException, secrets: Iterable[str | None]) -> str:
    """The Hub client's error on one line, without access tokens."""
    said = [error, error.__cause__] if isinstance(error, RuntimeError) else [error]  # which wraps what went wrong
    parts = [" ".join(str(part).split()).rstrip(".") or type(part).__name__ for part in said if part is not None]
    return without(": ".join(parts), secrets)


def advice(error: BaseException, args: TrainingArguments) -> str:
    """What to do about such an error."""
    if isinstance(error, ValueError):  # a name, or a card, that the Hub does not take
        return "Mend that."
    if getattr(getattr(error, "response", None), "status_code", None) not in NO_RIGHTS:
        return "Check the connection."
    if args.hub_token is None and get_token() is None:
        return "Log in with `hf auth login`, or set HF_TOKEN."
    return "Use a token that may write to this repository (`hf auth login`)."


def link(source: str, target: str) -> None:
    """A hard link to a file, or a copy if the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
