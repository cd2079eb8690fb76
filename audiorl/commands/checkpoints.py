"""`audiorl checkpoints RUN`: a run's checkpoints with step, loss and WER; copy the best one out, or push it.

    audiorl checkpoints out
    audiorl checkpoints out --pick wer --copy_to served
    audiorl checkpoints out --pick wer --push_to_hub --hub_model_id my-org/whisper-tuned

The model alone is copied or pushed: weights or adapter, processor, generation config and card, without optimizer and
random state.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from audiorl.command_line import with_first_word
from audiorl.flags import parse


@dataclass
class CheckpointsArguments:
    """`audiorl checkpoints RUN [flags]`."""

    run: str = field(metadata={"help": "A run's output_dir. It can also be the first word, without --run."})
    pick: str | None = field(
        default=None,
        metadata={
            "help": "Which checkpoint: wer (the lowest, or a classifier's highest accuracy), eval_loss, last, or a "
            "step."
        },
    )
    copy_to: str | None = field(
        default=None,
        metadata={"help": "A new folder for the model of the picked checkpoint; from_pretrained loads it."},
    )
    merge_adapter: bool = field(
        default=False,
        metadata={"help": "Merge the picked adapter into its base before copying. Servers can load the result."},
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Push the model of the picked checkpoint."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Name on the Hub, such as my-org/my-model."})
    hub_private_repo: bool = field(default=True, metadata={"help": "Make the repository private if it is new."})
    hub_revision: str | None = field(default=None, metadata={"help": "Branch to push to; default main."})
    hub_token: str | None = field(
        default=None, metadata={"help": "Access token. Unset: the one that `hf auth login` stored."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse((CheckpointsArguments,), (), with_first_word("checkpoints", sys.argv[1:] if argv is None else argv))
    _check(args)

    from audiorl.report import checkpoint_table, pick_checkpoint, run_checkpoints

    found = run_checkpoints(args.run)
    if not found:
        raise ValueError(
            f"{args.run} holds no checkpoint-N folder. Name the output_dir of a run; --save_steps says how often "
            "one is written."
        )
    told = [checkpoint_table(found)]
    if args.pick is not None:
        picked = pick_checkpoint(found, args.pick)
        folder = os.path.join(args.run, picked.name)
        told.append(f"Picked by {args.pick}: {folder}")
        if args.copy_to is not None:
            copy = merge_model if args.merge_adapter else copy_model
            told.append(f"Its model lies in {copy(folder, args.copy_to)}")
        if args.push_to_hub:
            told.append(f"Its model was pushed: {push_model(folder, args)}")
    print("\n".join(told))


def _check(args: CheckpointsArguments) -> None:
    """What contradicts itself, before anything is read."""
    wanted = "--push_to_hub" if args.push_to_hub else "--copy_to" if args.copy_to is not None else None
    if wanted and args.pick is None:
        raise ValueError(f"{wanted} takes one checkpoint, and none is picked. Add --pick wer, last or a step.")
    if args.push_to_hub and not args.hub_model_id:
        raise ValueError("--push_to_hub needs a name on the Hub. Pass --hub_model_id my-org/my-model.")
    if args.merge_adapter and args.copy_to is None:
        raise ValueError(
            "--merge_adapter changes what --copy_to writes, and nothing is copied. Add --copy_to FOLDER; hf upload "
            "pushes it from there."
        )
    if args.copy_to is not None and os.path.exists(args.copy_to):
        raise ValueError(f"--copy_to {args.copy_to}: it exists already. Name a new folder; nothing is overwritten.")


def copy_model(checkpoint: str, target: str) -> str:
    """Copy the files of a checkpoint's model into a new folder, which appears when it is complete.

    Returns:
        The folder.

    Raises:
        ValueError: the checkpoint is damaged, or keeps its weights in shards of processes.
    """
    from audiorl.trainers.hub import copy_files

    copy_files(checkpoint, _model_of(checkpoint), target)
    return target


def merge_model(checkpoint: str, target: str) -> str:
    """Write the adapter of a checkpoint merged into its base into a new folder, in full precision, with its processor.

    Returns:
        The folder.

    Raises:
        ValueError: the checkpoint is damaged, or holds no adapter.
    """
    from audiorl.trainers.hub import appearing
    from audiorl.trainers.loading import export_merged, load_model, load_processor

    _model_of(checkpoint)
    if not os.path.isfile(os.path.join(checkpoint, "adapter_config.json")):
        raise ValueError(f"{checkpoint} holds a whole model and no adapter. Leave --merge_adapter out.")
    # of a trainer's config, loading reads nothing else
    loaded = load_model(checkpoint, cast(Any, SimpleNamespace(model_init_kwargs=None)))
    with appearing(target) as staged:
        export_merged(checkpoint, staged, load_processor(None, loaded))
    return target


def push_model(checkpoint: str, args: CheckpointsArguments) -> str:
    """Push the model of a checkpoint.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the checkpoint is damaged, or keeps its weights in shards of processes.
        PushError: the Hub refused it, or cannot be reached; the message has the line that pushes it by hand.
    """
    from huggingface_hub import HfApi, get_token

    from audiorl._version import __version__
    from audiorl.trainers.hub import Parcel, PushError, advice, push_line, reason

    parcel = Parcel(checkpoint, _model_of(checkpoint))
    repo, like_a_config = cast(str, args.hub_model_id), cast(Any, args)
    api = HfApi(library_name="audiorl", library_version=__version__, token=args.hub_token)
    try:
        made = api.create_repo(repo, private=args.hub_private_repo, exist_ok=True)
        step = os.path.basename(checkpoint.rstrip(os.sep))
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=checkpoint,
            allow_patterns=parcel.patterns,
            commit_message=f"The model of {step}",
            revision=args.hub_revision,
        )
    except Exception as error:  # whatever the Hub's client raises
        raise PushError(
            f"{checkpoint} was not pushed to {repo}: {reason(error, (args.hub_token, get_token()))}. Nothing is lost. "
            f"{advice(error, like_a_config)} Then push it again:\n  {push_line(parcel, repo, like_a_config)}"
        ) from error
    return commit.commit_url


def _model_of(checkpoint: str) -> tuple[str, ...]:
    """Names of the files of a whole checkpoint's model."""
    from audiorl.trainers.checkpoints import faults
    from audiorl.trainers.hub import model_files

    if found := faults(checkpoint):
        raise ValueError(f"{checkpoint} is not whole: {', '.join(found)}. Pick another step.")
    names = model_files(checkpoint, os.listdir(checkpoint))
    if not any(Path(checkpoint).rglob("*.safetensors")):
        raise ValueError(
            f"{checkpoint} keeps its weights in one shard for each process, which from_pretrained does not load. The "
            "whole model lies in the run's own folder when the run has ended."
        )
    return names
