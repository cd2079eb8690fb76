"""How an evaluation counts, and its command-line flags."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from audiorl.text.error_rates import resolve_unit
from audiorl.text.normalizers import Normalizer, normalizer
from audiorl.text.tasks import Labels, Transcription

# Of every interval; `paired_bootstrap` knows no other.
LEVEL = 0.95
TRANSCRIPTION, LABELS = Transcription.name, Labels.name


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Which columns are read and how hypotheses are counted.

    Args:
        task: "transcription" counts words or characters; "labels" asks whether a hypothesis is the row's label.
        text_column: column of the transcript, "" if nothing was said. With "labels" the column of the label, as text,
            or of a list of right answers to the row's question; the first one is shown.
        normalise: a name or function that `audiorl.text.normalizers.normalizer` takes.
        unit: see `audiorl.evaluation.count_errors`; ignored with "labels".
        group_column: column whose values, usually speakers, the bootstrap draws; None draws clips.
        resamples: of the bootstrap, > 0.
        seed: of the bootstrap.
        keywords: texts for all clips; None takes the list in each row's column `keywords`, if it has one.
        duration_edges: rising seconds at which one group of durations ends and the next begins.
        speaker_column, language_column: columns for the breakdown, if rows have them.
        aliases: label -> other spellings that count as that label.
        labels: labels that a model may give besides those of the rows.
        label_similarity: above 0 to 1; below 1 a misspelt label counts as the nearest one if it is this similar.

    Raises:
        ValueError: something is out of its range or unknown; aliases without labels.
    """

    task: str = TRANSCRIPTION
    text_column: str = "text"
    normalise: str | Callable[[str], str] = "basic"
    unit: str = "auto"
    group_column: str | None = None
    resamples: int = 10_000
    seed: int = 0
    keywords: Sequence[str] | None = None
    duration_edges: Sequence[float] = (2, 5, 10, 20)
    speaker_column: str = "speaker"
    language_column: str = "language"
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labels: Sequence[str] = ()
    label_similarity: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalise", normalizer(self.normalise))
        resolve_unit(self.unit, ())
        if self.task not in (TRANSCRIPTION, LABELS):
            raise ValueError(
                f"An evaluation's task is {TRANSCRIPTION!r} or {LABELS!r}; got {self.task!r}. Use {LABELS!r} for "
                "models that answer with one of several labels."
            )
        if self.resamples < 1:
            raise ValueError(f"The bootstrap needs at least one resample; got resamples={self.resamples}. Try 10_000.")
        edges = list(self.duration_edges)
        if not edges or not all(math.isfinite(edge) and edge > 0 for edge in edges) or sorted(set(edges)) != edges:
            raise ValueError(
                f"duration_edges are seconds above 0, each larger than the one before; got {edges}. Try 2 5 10 20."
            )
        if self.task != LABELS and (self.aliases or self.labels or self.label_similarity != 1):
            raise ValueError(
                "aliases, labels and label_similarity belong to labels, but transcripts are compared. Say which column "
                "holds the labels (--label_column), or leave them out."
            )

    @property
    def normaliser(self) -> Normalizer:
        """What `normalise` stands for."""
        return normalizer(self.normalise)

    def to_dict(self) -> dict[str, Any]:
        """The settings as an evaluation document has them, see `audiorl.evaluation.document`."""
        return {
            "task": self.task,
            "text_column": self.text_column,
            "normaliser": self.normaliser.name,
            "unit": self.unit,
            "group_column": self.group_column,
            "level": LEVEL,
            "resamples": self.resamples,
            "seed": self.seed,
            "keywords": None if self.keywords is None else list(self.keywords),
            "duration_edges": list(self.duration_edges),
            "aliases": {label: list(spellings) for label, spellings in self.aliases.items()},
            "label_similarity": self.label_similarity,
        }


@dataclass
class ModelArguments:
    """What is measured, and how it decodes."""

    model_name_or_path: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Checkpoints or adapters, by folder or Hub name. Several are measured one after another, and each"
            " is compared with the first."
        },
    )
    family: str | None = field(
        default=None,
        metadata={"help": "A family of your own for the models, by its dotted path: my_module.MyFamily."},
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "Type of the weights: float32, float16, bfloat16, or auto for the checkpoint's own."},
    )
    encoder_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the encoders' states of all clips, read by later runs and by models with the same "
            "encoder. Seconds of decoding are then without the encoder."
        },
    )
    encoder_cache_dtype: str = field(
        default="bfloat16",
        metadata={
            "help": "How states are kept: bfloat16, half the room and rounded; or model, exactly.",
            "choices": ["bfloat16", "model"],
        },
    )
    device: str | None = field(
        default=None, metadata={"help": "Where models run, for example cuda:1. Unset: the first GPU, or else the CPU."}
    )
    batch_size: int = field(default=16, metadata={"help": "Clips of similar length decoded at once, above 0."})
    num_beams: int | None = field(
        default=None, metadata={"help": "Beams of the search; 1 is greedy. Unset: as in the generation config."}
    )
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest hypothesis in tokens. Unset: as in the generation config."}
    )
    language: str | None = field(
        default=None, metadata={"help": "Language of rows that name none. Unset: the processor's."}
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Task of rows that name none: transcribe; for Whisper also translate (into English); for Canary "
            "also translate and, for example, translate:de. Only for local models."
        },
    )
    long_form: str | None = field(
        default=None,
        metadata={
            "help": "Transcribe clips beyond a model's window in parts: auto, by timestamps for Whisper and by chunks "
            "that overlap for others, or chunks for all. Unset: such clips are refused. Only for local models."
        },
    )
    chunk_seconds: float | None = field(
        default=None,
        metadata={
            "help": "With long_form: seconds of a chunk, at least two overlaps. Unset: the model's window; a model "
            "without one hears clips whole."
        },
    )
    overlap_seconds: float | None = field(
        default=None,
        metadata={
            "help": "With long_form: seconds, > 0, that neighboring chunks share. Unset: 4, or a quarter of a chunk "
            "that is shorter than 16."
        },
    )
    history_source: str = field(
        default="transcript",
        metadata={
            "help": "What was said before a clip: transcript reads the column history, hypothesis the column "
            "history_hypothesis, none neither. Only for local models.",
            "choices": ["transcript", "hypothesis", "none"],
        },
    )
    endpoint: str | None = field(
        default=None,
        metadata={"help": "Address of a server with POST /v1/audio/transcriptions, for example http://127.0.0.1:8000."},
    )
    endpoint_model: list[str] = field(
        default_factory=list,
        metadata={"help": "Models to ask that server for. They are measured after those of --model_name_or_path."},
    )
    api_key_variable: str | None = field(
        default=None,
        metadata={"help": "Environment variable that holds the server's API key. No output contains the key."},
    )
    requests_in_flight: int = field(
        default=4, metadata={"help": "Requests sent to the server at the same time, above 0."}
    )
    max_retries: int = field(
        default=3, metadata={"help": "How often a request that failed for a passing reason is sent again, 0 or more."}
    )
    request_timeout: float = field(
        default=300.0, metadata={"help": "Seconds, > 0, after which a request without a complete answer has failed."}
    )


@dataclass
class DataArguments:
    """Which rows are measured."""

    dataset_name: list[str] = field(
        default_factory=list,
        metadata={"help": "Files or folders of any form, or names of data sets; `demo` is synthetic speech."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration, for data sets given by name."})
    dataset_split: str = field(default="test", metadata={"help": "Split, for data sets given by name."})
    dataset_streaming: bool = field(default=False, metadata={"help": "Stream data sets given by name."})
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns with other names than ours, as ours=theirs: audio=audio_filepath text=sentence."},
    )
    limit: int | None = field(
        default=None, metadata={"help": "Measure only this many rows of each data set, the first ones. Unset: all."}
    )
    min_audio_seconds: float | None = field(default=None, metadata={"help": "Skip and count clips shorter than this."})
    max_audio_seconds: float | None = field(default=None, metadata={"help": "Skip and count clips longer than this."})
    text_column: str = field(
        default="text", metadata={"help": "Column of the transcript. An empty transcript means that nothing was said."}
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "For accuracy instead of error rates: the column of the label, or of the answer to the row's "
            "prompt, which may be a list of texts that are all right."
        },
    )
    speaker_column: str = field(
        default="speaker", metadata={"help": "Column for the breakdown by speaker, if there is one."}
    )
    language_column: str = field(
        default="language", metadata={"help": "Column for the breakdown by language, if there is one."}
    )


@dataclass
class CountingArguments:
    """What is counted, and where it goes."""

    normaliser: str = field(
        default="basic",
        metadata={
            "help": "How texts are normalized before they are compared: none, lower, basic, whisper_basic or english."
        },
    )
    unit: str = field(
        default="auto",
        metadata={
            "help": "What is counted: word, character, mixed, or auto, which depends on the script of the transcripts."
        },
    )
    keywords: str | None = field(
        default=None,
        metadata={
            "help": "Text file of keywords, one a line. Unset: each row's list in its column `keywords`, if it has one."
        },
    )
    aliases: str | None = field(
        default=None, metadata={"help": "JSON or YAML file: label -> list of other spellings that count as that label."}
    )
    label_similarity: float = field(
        default=1.0,
        metadata={
            "help": "Above 0 to 1. Below 1, a misspelt label counts as the nearest label if it is at least this "
            "similar."
        },
    )
    duration_edges: list[float] = field(
        default_factory=lambda: [2.0, 5.0, 10.0, 20.0],
        metadata={"help": "Rising seconds at which the breakdown by duration is divided."},
    )
    group_column: str | None = field(
        default=None,
        metadata={"help": "Column of the speaker. Intervals then hold for new speakers; unset: for new clips."},
    )
    resamples: int = field(default=10_000, metadata={"help": "Resamples of the bootstrap, above 0."})
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap."})
    probe_seconds: float | None = field(
        default=None,
        metadata={"help": "Also give each model silence and noise of this length, and show what it writes. Unset: no."},
    )
    output: str | None = field(
        default=None,
        metadata={"help": "JSON file for all numbers and clips; audiorl/evaluation/document.py describes it."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Allow --output to replace a file."})
