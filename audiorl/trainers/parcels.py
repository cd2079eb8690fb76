"""What is pushed to the Hub together, and what is said where that fails."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable
from typing import NamedTuple

from huggingface_hub import get_token
from transformers import TrainingArguments

from audiorl.model_card import RESULTS_FOLDER
from audiorl.model_card.card import without
from audiorl.reference import REFERENCE_ADAPTER
from audiorl.trainers.checkpoints import LIST_FILE, STATE_FILE

# Ends of the names of a model's files; a checkpoint's others are the trainer's.
MODEL_FILES = (".safetensors", ".json", ".txt", ".jinja", ".model", ".md")
# What the Hub answers to who may not write.
NO_RIGHTS = (401, 403)


class PushError(OSError):
    """A push failed; the model is on disk, and the message says where, and which line pushes it again."""


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
        """As `upload_folder` and `hf upload` take them."""
        found = [f"{name}/*" if os.path.isdir(os.path.join(self.folder, name)) else name for name in self.files]
        return found or None


def model_files(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    """Those of a folder's files that make up the model: weights, configurations, processor, card and results."""
    return tuple(sorted(name for name in names if _is_of_model(folder, name)))


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
    """What the Hub's client says, on one line, without access tokens."""
    said = [error, error.__cause__] if isinstance(error, RuntimeError) else [error]  # which wraps what went wrong
    parts = [" ".join(str(part).split()).rstrip(".") or type(part).__name__ for part in said if part is not None]
    return without(": ".join(parts), secrets)


def advice(error: BaseException, args: TrainingArguments) -> str:
    """What to do about it."""
    if isinstance(error, ValueError):  # a name, or a card, that the Hub does not take
        return "Mend that."
    if getattr(getattr(error, "response", None), "status_code", None) not in NO_RIGHTS:
        return "Check the connection."
    if args.hub_token is None and get_token() is None:
        return "Log in with `hf auth login`, or set HF_TOKEN."
    return "Use a token that may write to this repository (`hf auth login`)."


def link(source: str, target: str) -> None:
    """Another name for a file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
