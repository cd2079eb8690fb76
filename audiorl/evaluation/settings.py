"""What is counted and how, for every model and data set of an evaluation, and the flags that say it."""

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
        text_column: column of the transcript, "" where nothing was said; with "labels" of the label, as text, or of a
            list of answers to the row's question, any of which is right and the first of which stands for all.
        normalise: a name or function that `audiorl.text.normalizers.normalizer` takes.
        unit: see `audiorl.evaluation.count_errors`; not read with "labels".
        group_column: column whose values, usually speakers, the bootstrap draws; None draws clips.
        resamples: of the bootstrap, > 0.
        seed: of the bootstrap.
        keywords: texts for all clips; None takes each row's list from its column `keywords`, where it has one.
        duration_edges: seconds, rising, at which one group of durations ends and the next begins.
        speaker_column, language_column: columns of the breakdown, where rows have them.
        aliases: label -> other spellings that count as it.
        labels: those that a model may say besides the labels of the rows.
        label_similarity: above 0 to 1; below 1 the nearest label is taken where its spelling is so similar.

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
            "help": "Checkpoints or adapters, by folder or Hub name; several are measured one after the other, and "
            "each is compared with the first."
        },
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "Of the weights: float32, float16, bfloat16 or auto, as the checkpoint says."},
    )
    device: str | None = field(
        default=None, metadata={"help": "Where models run, for example cuda:1; default the first GPU, else the CPU."}
    )
    batch_size: int = field(default=16, metadata={"help": "Clips decoded at once, of similar length; above 0."})
    num_beams: int | None = field(
        default=None, metadata={"help": "Beams of the search, 1 is greedy; default what the generation config says."}
    )
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest hypothesis in tokens; default what the generation config says."}
    )
    language: str | None = field(
        default=None, metadata={"help": "Language of rows that name none; default what the model's processor says."}
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Of rows that name none: transcribe; Whisper also translate (into English); Canary also translate "
            "and, for example, translate:de. Local models only."
        },
    )
    endpoint: str | None = field(
        default=None,
        metadata={"help": "Address of a server with POST /v1/audio/transcriptions, http://127.0.0.1:8000 for example."},
    )
    endpoint_model: list[str] = field(
        default_factory=list,
        metadata={"help": "Models to ask that server for; measured behind those of --model_name_or_path."},
    )
    api_key_variable: str | None = field(
        default=None,
        metadata={"help": "Environment variable that holds the server's API key. The key is in no output."},
    )
    requests_in_flight: int = field(default=4, metadata={"help": "Requests that the server gets at a time, above 0."})
    max_retries: int = field(
        default=3, metadata={"help": "Further tries of a request that failed for a reason that may pass, 0 or more."}
    )
    request_timeout: float = field(
        default=300.0, metadata={"help": "Seconds, > 0, after which a request without its whole answer has failed."}
    )


@dataclass
class DataArguments:
    """Which rows are measured."""

    dataset_name: list[str] = field(
        default_factory=list,
        metadata={"help": "JSON lines files, folders or names of data sets; `demo` is synthetic speech."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of data sets by name."})
    dataset_split: str = field(default="test", metadata={"help": "Split of data sets by name."})
    dataset_streaming: bool = field(default=False, metadata={"help": "Read data sets by name as streams."})
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns with other names than ours, as ours=theirs: audio=audio_filepath text=sentence."},
    )
    limit: int | None = field(default=None, metadata={"help": "The first so many rows of each data set; default all."})
    min_audio_seconds: float | None = field(
        default=None, metadata={"help": "Leave out clips shorter than this, and count them."}
    )
    max_audio_seconds: float | None = field(
        default=None, metadata={"help": "Leave out clips longer than this, and count them."}
    )
    text_column: str = field(
        default="text", metadata={"help": "Column of the transcript; an empty one means that nothing was said."}
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the label, for models that answer with one of several labels, or of the answer to the "
            "row's prompt, a text or a list of texts that are all right; accuracy is measured."
        },
    )
    speaker_column: str = field(
        default="speaker", metadata={"help": "Column of the breakdown by speaker, where there is one."}
    )
    language_column: str = field(
        default="language", metadata={"help": "Column of the breakdown by language, where there is one."}
    )


@dataclass
class CountingArguments:
    """What is counted, and where it goes."""

    normaliser: str = field(
        default="basic", metadata={"help": "What is forgiven: none, lower, basic, whisper_basic or english."}
    )
    unit: str = field(
        default="auto",
        metadata={"help": "What is counted: word, character, mixed, or auto by the transcripts' script."},
    )
    keywords: str | None = field(
        default=None,
        metadata={
            "help": "Text file of keywords, one a line; default each row's list in its column `keywords`, where it "
            "has one."
        },
    )
    aliases: str | None = field(
        default=None, metadata={"help": "JSON or YAML file: label -> list of other spellings that count as it."}
    )
    label_similarity: float = field(
        default=1.0,
        metadata={"help": "Above 0 to 1; below 1 a misspelt label counts as the nearest one, if it is so similar."},
    )
    duration_edges: list[float] = field(
        default_factory=lambda: [2.0, 5.0, 10.0, 20.0],
        metadata={"help": "Seconds that divide the breakdown by duration, rising."},
    )
    group_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the speaker: intervals then speak of new speakers; default they speak of new clips."
        },
    )
    resamples: int = field(default=10_000, metadata={"help": "Of the bootstrap, above 0."})
    seed: int = field(default=0, metadata={"help": "Of the bootstrap."})
    probe_seconds: float | None = field(
        default=None,
        metadata={"help": "Also give each model silence and noise of this length, and show what it says; default no."},
    )
    output: str | None = field(
        default=None,
        metadata={"help": "JSON file for every number and clip; audiorl/evaluation/document.py describes it."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Whether --output may exist."})
