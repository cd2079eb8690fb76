"""Pushing to the Hub: the end once, each checkpoint if asked, and nothing lost where it fails.

1. The repository is made when the trainer is built. Where that fails, the run goes on and says so: token, rights or
   connection can be mended before the end, and training is not worth losing.
2. A checkpoint is pushed in the background, from hard links, so that rotation does not take it away half way. What
   fails is told at once; the next push, or the one at the end, makes up for it.
3. `push_to_hub` saves, pushes what it saved and nothing else that lies in `output_dir`, and raises `PushError` with
   the line that pushes it again.

Deviations from `transformers.Trainer`:
1. `save_model` does not push, so that WER after training is on the card that goes out.
2. Only the model's files go to the root of the repository: no logs, no reports (they hold clips), no pickled arguments.
3. `all_checkpoints` leaves out none, also where one is written before the last is out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.utils import is_peft_model
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from audiorl._version import __version__
from audiorl.trainers.config import without_tokens
from audiorl.trainers.describing import DescribedTrainer
from audiorl.trainers.loading import export_merged, save_spelling
from audiorl.trainers.parcels import Parcel, PushError, advice, link, model_files, push_line, reason

logger = logging.get_logger(__name__)

# Where checkpoints wait until they are pushed; never looked at when a run resumes.
OUTBOX = ".outbox"
LAST_CHECKPOINT = "last-checkpoint"


class Sending(NamedTuple):
    """A push in the background."""

    parcel: Parcel
    checkpoint: str  # folder of the outbox that it came from
    job: Future


class PublishingTrainer(DescribedTrainer):
    """A trainer that pushes to the Hub as `hub_strategy` says."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._sending: list[Sending] = []
        # checkpoints whose push failed, by their folder in the repository
        self._unsent: dict[str, Parcel] = {}
        # its thread takes one push in the background after the other
        self._hub = HfApi(library_name="audiorl", library_version=__version__)
        super().__init__(*args, **kwargs)
        if self.args.hub_merge_adapter and not is_peft_model(self.model):
            raise ValueError(
                "hub_merge_adapter merges an adapter into its base before it is pushed, and this model has none. Pass "
                "peft_config (--use_peft), or leave it out."
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.should_save and not self._unsent:
            shutil.rmtree(self._outbox(), ignore_errors=True)
        return super().train(*args, **kwargs)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository if it is not there. What can be mended before the end is told, and tried again then.

        Raises:
            ValueError: `hub_model_id` can never be the name of a repository.
        """
        error = self._make_repo(token, private)
        if isinstance(error, HFValidationError):
            raise ValueError(
                f"hub_model_id names a repository of the Hub, as in my-org/my-model; got {self.hub_name()!r}: {error} "
                "Rename it."
            ) from error
        if error is not None:
            logger.warning(
                f"{self.hub_name()} could not be made on the Hub: {self._reason(error)}. {advice(error, self.args)} "
                f"Training goes on; the model will lie in {self.args.output_dir}, and pushing is tried again then."
            )

    def _make_repo(self, token: str | None, private: bool | None) -> Exception | None:
        """Make the repository; what stood in the way."""
        if not self.is_world_process_zero():
            return None
        private = self.args.hub_private_repo if private is None else private
        try:
            made = self._hub.create_repo(
                self.hub_name(), token=token or self.args.hub_token, private=private, exist_ok=True
            )
        except Exception as error:  # whatever the Hub's client raises: a run of days is not lost for it
            return error
        self.hub_model_id = made.repo_id
        return None

    # ---- at the end ----

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model into `output_dir` and push it: weights or adapter, processor, generation config and card.

        With `hub_merge_adapter` the base with the adapter merged in is written to "<output_dir>-merged" and pushed.

        Args:
            commit_message, blocking, token, revision, private: as in `transformers.Trainer`.
            kwargs: those of `create_model_card`.

        Returns:
            The commit; a future of it if not `blocking`; None in all processes but the first.

        Raises:
            PushError: the model is on disk; the message has the line that pushes it.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._note(**kwargs)
        error = self._make_repo(token, private) if self.hub_model_id is None else None
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        parcel = self._model_parcel(self.args.output_dir, self.saved_files)
        self._finish_current_push()
        token, revision = token or self.args.hub_token, revision or self.args.hub_revision
        try:
            if error is not None:
                raise error
            for failed in list(self._unsent.values()):
                self._upload(failed, f"{failed.place}, pushed again", token, revision)
                del self._unsent[failed.place]
            if not blocking:
                return self._hub.run_as_future(self._upload, parcel, commit_message, token, revision)
            return self._upload(parcel, commit_message, token, revision)
        except Exception as failure:  # whatever the Hub's client raises
            raise PushError(self._failure(parcel, failure)) from failure

    def _model_parcel(self, folder: str, files: tuple[str, ...]) -> Parcel:
        """What makes up the model in a folder, or the merged copy that is written beside it."""
        if not self.args.hub_merge_adapter:
            return Parcel(folder, model_files(folder, files))
        merged = self._merge(folder)
        return Parcel(merged, model_files(merged, os.listdir(merged)))

    def save_merged(self) -> str | None:
        """Write the adapter that lies in `output_dir` merged into its base, in full precision, beside it.

        Returns:
            "<output_dir>-merged": weights, processor, generation config and card. None in all processes but the first.
        """
        return self._merge(self.args.output_dir) if self.is_world_process_zero() else None

    def _merge(self, folder: str) -> str:
        merged = f"{folder.rstrip('/')}-merged"
        export_merged(folder, merged, self.processing_class)
        self._write_card(merged, merged, merged=True)
        return merged

    def _upload(self, parcel: Parcel, message: str | None, token: str | None, revision: str | None) -> Any:
        return self._hub.upload_folder(
            repo_id=self.hub_name(),
            folder_path=parcel.folder,
            path_in_repo=parcel.place or None,
            allow_patterns=parcel.patterns,
            commit_message=message,
            token=token,
            revision=revision,
        )

    def _failure(self, parcel: Parcel, error: BaseException) -> str:
        lines = "\n".join(
            f"  {push_line(part, self.hub_name(), self.args)}" for part in (parcel, *self._unsent.values())
        )
        return (
            f"The tuned model was not pushed to {self.hub_name()}: {self._reason(error)}. Nothing is lost: it lies "
            f"whole in {parcel.folder}. {advice(error, self.args)} Then push it again:\n{lines}"
        )

    def _reason(self, error: BaseException) -> str:
        return reason(error, (self.args.hub_token, get_token()))

    # ---- each checkpoint ----

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the model of a checkpoint, and all of it where `hub_strategy` says so, in the background."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        self._collect(wait=False)
        all_of_them = strategy == HubStrategy.ALL_CHECKPOINTS
        if self._sending and not all_of_them and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
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
        message = f"Training in progress, step {self.state.global_step}"
        token, revision = self.args.hub_token, self.args.hub_revision
        for parcel in parcels:
            job = self._hub.run_as_future(self._upload, parcel, message, token, revision)
            self._sending.append(Sending(parcel, kept, job))

    def _finish_current_push(self) -> None:
        self._collect(wait=True)
        with contextlib.suppress(OSError):  # it was never needed, or holds what failed
            os.rmdir(self._outbox())

    def _collect(self, *, wait: bool) -> None:
        """Hear from the pushes that are done, or from all; what has gone out leaves the outbox."""
        done = [sending for sending in self._sending if wait or sending.job.done()]
        self._sending = [sending for sending in self._sending if sending not in done]
        for parcel, _, job in done:
            if (error := job.exception()) is None:
                self._unsent.pop(parcel.place, None)
                continue
            if parcel.place:  # what is meant for the root goes out at the end in any case
                self._unsent[parcel.place] = parcel
            logger.warning(
                f"{parcel.place or 'The model'}, step {self.state.global_step} or before, was not pushed to "
                f"{self.hub_name()}: {self._reason(error)}. Training goes on, and pushing is tried again."
            )
        needed = {sending.checkpoint for sending in self._sending} | {p.folder for p in self._unsent.values()}
        for folder in {sending.checkpoint for sending in done} - needed:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(f"{folder}-merged", ignore_errors=True)

    def _outbox(self) -> str:
        return os.path.join(self.args.output_dir, OUTBOX)

    # ---- files ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """`Trainer` pickles its arguments beside the weights; access tokens are left out of them."""
        kept = self.args.hub_token, self.args.model_init_kwargs
        self.args.hub_token, self.args.model_init_kwargs = None, without_tokens(self.args.model_init_kwargs)
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token, self.args.model_init_kwargs = kept
        if self.args.should_save:
            save_spelling(self.processing_class, output_dir or self.args.output_dir)
