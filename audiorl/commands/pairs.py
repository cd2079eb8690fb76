"""`audiorl pairs`: from transcribed audio to preference pairs.

    audiorl pairs --model_name_or_path openai/whisper-small --dataset_name train.jsonl --output_dir pairs

The same command goes on after a kill. Several processes share the work:

    torchrun --nproc_per_node=8 -m audiorl pairs ...

Without a model, for a cold start:

    audiorl pairs --source synthetic --language en --dataset_name train.jsonl --output_dir pairs
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

from audiorl.pairs.settings import MiningConfig
from audiorl.terminal import wrapped

if TYPE_CHECKING:
    from torch import nn

    from audiorl.models import SpeechFamily
    from audiorl.pairs.folder import MiningFolder


@dataclass
class PairsArguments:
    """Where rows and model come from and where pairs go."""

    output_dir: str = field(
        metadata={"help": "Folder for pairs.jsonl, hypotheses.jsonl (all of each clip, with rewards) and summary.json."}
    )
    dataset_name: str = field(metadata={"help": "File or folder of any form, Hub name or corpus with audio and text."})
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a Hub data set, or a corpus's language."}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split of a Hub data set to mine."})
    dataset_streaming: bool = field(
        default=False, metadata={"help": "Read a Hub data set as a stream. Every process then reads all of it."}
    )
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns with other names than ours, as ours=theirs: audio=audio_filepath text=sentence."},
    )
    limit: int | None = field(
        default=None, metadata={"help": "Mine at most this many rows, the first ones; at least 1."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "The checkpoint that you are going to tune: a folder, a Hub name or an adapter's folder."},
    )
    family: str | None = field(
        default=None,
        metadata={"help": "A family of your own for the model, by its dotted path: my_module.MyFamily."},
    )
    model_revision: str = field(default="main", metadata={"help": "Revision of a model on the Hub."})
    dtype: str = field(default="float32", metadata={"help": "Type of the weights: float32, bfloat16, float16, auto."})
    history_source: str = field(
        default="transcript",
        metadata={
            "help": "What was said before a clip: transcript reads the column history, hypothesis the column "
            "history_hypothesis, none neither.",
            "choices": ["transcript", "hypothesis", "none"],
        },
    )
    encoder_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the encoder's states of all clips, which are computed first. Trainers and evaluations "
            "with the same encoder read it too."
        },
    )
    encoder_cache_dtype: str = field(
        default="bfloat16",
        metadata={
            "help": "How states are kept: bfloat16, half the room and rounded; or model, exactly.",
            "choices": ["bfloat16", "model"],
        },
    )
    on_bad_rows: str = field(
        default="error",
        metadata={
            "help": "error: refuse rows that cannot be used, all at once. skip: leave them out and write them to "
            "skipped_rows.jsonl.",
            "choices": ["error", "skip"],
        },
    )
    save_dataset: bool = field(
        default=False,
        metadata={"help": "Also write folders pairs/ and hypotheses/ for load_from_disk, with the audio inside."},
    )
    push_to_hub: bool = field(
        default=False, metadata={"help": "Push the pairs to the Hub as a data set, with the audio inside."}
    )
    hub_dataset_id: str | None = field(default=None, metadata={"help": "Name on the Hub, needed to push."})
    hub_private: bool = field(default=True, metadata={"help": "Make the data set private if it is new."})


@dataclass
class PairsConfig(MiningConfig):
    """How the command mines: with the WER before tuning, where there is a model."""

    measure_wer: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Also decode every clip with the generation config, for the WER before tuning. Unset: on if "
            "there is a model."
        },
    )

    def __post_init__(self) -> None:
        if self.measure_wer is None:
            self.measure_wer = self.source != "synthetic" and not self.pseudo_labels
        super().__post_init__()


def main(argv: Sequence[str] | None = None) -> None:
    """Mine pairs as the flags say; see the module."""
    from audiorl.datasets import register_corpus
    from audiorl.demo import DemoSpeech
    from audiorl.exits import interruptible
    from audiorl.flags import parse

    register_corpus(DemoSpeech(), replace=True)
    arguments, config = parse((PairsArguments, PairsConfig), (), argv)
    _check(arguments, config)

    from audiorl.datasets import SkippedRows
    from audiorl.flags import train_rows
    from audiorl.pairs.folder import LABELS, MiningFolder
    from audiorl.pairs.mining import mine_into

    skipped = SkippedRows(os.path.join(arguments.output_dir, "skipped_rows.jsonl"))
    with MiningFolder(arguments.output_dir, _settings(arguments, config)) as folder:
        told_before = folder.summary is not None
        model, processor, family = None, None, None
        rows: Any = None
        if folder.summary is None:
            rows = train_rows(cast(Any, arguments), columns=arguments.columns)
            if config.source != "synthetic":
                model, processor = _load(arguments)
                family = _family(model, processor, arguments)
        with interruptible("the same command goes on from here"):
            summary = mine_into(
                folder,
                model,
                processor,
                rows,
                config=config,
                progress=folder.rank == 0,
                family=family,
                skipped=skipped if arguments.on_bad_rows == "skip" else None,
            )
        if summary is None or (told_before and folder.rank != 0):
            return  # one process tells and publishes: the last to end, or of a finished run the first
        # written and sent before anything is printed: whoever reads the output may stop reading
        told = [f"{folder.path} was finished before, and nothing is mined again."] if told_before else []
        told += [str(summary), *(str(reward) for reward in config.rewards or () if hasattr(reward, "figures"))]
        try:
            if summary.labels:
                told.append(f"The pseudo-labels lie in {os.path.join(folder.path, LABELS)}")
            if summary.pairs or not summary.labels:
                told.append(_publish(arguments, folder, summary.pairs))
        finally:
            print(wrapped("\n".join(told)))


def _check(arguments: PairsArguments, config: MiningConfig) -> None:
    """What contradicts itself, before anything is loaded."""
    if (arguments.model_name_or_path is None) != (config.source == "synthetic"):
        raise ValueError(
            f"--source {config.source} with --model_name_or_path {arguments.model_name_or_path}: samples and beams "
            "need a model, synthetic negatives take none. Name a model, or pass --source synthetic without one."
        )
    if arguments.push_to_hub and not arguments.hub_dataset_id:
        raise ValueError("--push_to_hub needs the name of the data set. Pass --hub_dataset_id my-org/my-pairs.")
    if arguments.encoder_cache is not None and config.source == "synthetic":
        raise ValueError(
            "--encoder_cache keeps what an encoder says of clips, and synthetic negatives ask no model. Leave it out."
        )


def _settings(arguments: PairsArguments, config: MiningConfig) -> dict[str, Any]:
    """What the pairs depend on; of models and rows in files what is in them, too."""
    from audiorl.files import content_digest
    from audiorl.pairs.folder import CONTENT

    names = ("dataset_name", "dataset_config", "dataset_train_split", "limit", "model_name_or_path", "model_revision")
    more: dict[str, Any] = {} if arguments.columns is None else {"columns": arguments.columns}
    if arguments.history_source != "transcript":
        more["history_source"] = arguments.history_source
    if arguments.encoder_cache is not None:  # rounded states give other hypotheses
        more["encoder_cache_dtype"] = arguments.encoder_cache_dtype
    for path in (arguments.model_name_or_path, arguments.dataset_name):
        if path is not None and (content := content_digest(path)) is not None:
            more[f"{CONTENT}{path}"] = content
    return {**{name: getattr(arguments, name) for name in names}, "dtype": arguments.dtype, **more, **asdict(config)}


def _load(arguments: PairsArguments) -> tuple[nn.Module, Any]:
    """Model, on this process's GPU where there is one, and processor."""
    from types import SimpleNamespace

    import torch

    from audiorl.models import use_family
    from audiorl.trainers.loading import load_model, load_processor

    if arguments.family is not None:
        use_family(arguments.family)
    options = {"dtype": arguments.dtype, "revision": arguments.model_revision}
    # of a trainer's config, loading reads nothing else
    model = load_model(cast(str, arguments.model_name_or_path), cast(Any, SimpleNamespace(model_init_kwargs=options)))
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    return model.to(device), load_processor(None, model)


def _family(model: nn.Module, processor: Any, arguments: PairsArguments) -> SpeechFamily:
    """The model's family, with the encoder cache that the flags name."""
    from audiorl.models import EncoderCache, speech_family
    from audiorl.text.history import checked_source

    family = speech_family(model, processor)
    family.history_source = checked_source(arguments.history_source)
    if arguments.encoder_cache is not None:
        family.encoder_cache = EncoderCache(arguments.encoder_cache, family, model, dtype=arguments.encoder_cache_dtype)
    return family


def _publish(arguments: PairsArguments, folder: MiningFolder, pairs: int) -> str:
    """Write or send the pairs as the flags ask, and say where they lie; ValueError where there are none."""
    from audiorl.pairs.folder import HYPOTHESES, PAIRS
    from audiorl.pairs.records import as_dataset, save_dataset

    if pairs == 0:
        raise ValueError(
            f"There are no pairs in {arguments.output_dir}: no two texts of a clip differ as the filters ask. Use "
            "harder clips, a higher --temperature, or a lower --min_margin, and another --output_dir."
        )
    if arguments.save_dataset:
        for name in (PAIRS, HYPOTHESES):
            save_dataset(os.path.join(folder.path, name), os.path.join(folder.path, name.removesuffix(".jsonl")))
    if arguments.push_to_hub:
        rows = as_dataset(os.path.join(folder.path, PAIRS))
        rows.push_to_hub(cast(str, arguments.hub_dataset_id), private=arguments.hub_private)
    return f"The pairs lie in {os.path.join(folder.path, PAIRS)}"
