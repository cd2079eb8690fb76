"""What a card is made of: plain values, gathered by whoever trained the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from audiorl.evaluation import Comparison
from audiorl.model_card.papers import Method, Paper
from audiorl.text.tasks import WRONG_LABELS as WRONG_LABELS


@dataclass(frozen=True)
class DataSource:
    """Where rows came from.

    Attributes:
        name: id on the Hub, a file's name, or what the user calls it; None where it is not known.
        on_hub: whether `name` is the id of a Hub data set; only then the card's metadata name it.
        config, split, revision: as `datasets.load_dataset` takes them.
        rows: how many were read; None for a stream.
        task_id: of the task in the data set's own eval.yaml, where the Hub lists it as a benchmark. Results then also
            go to `.eval_results/`, which the Hub shows on the benchmark's board.
        pairs: how chosen and rejected were made, one sentence, where the rows brought none.
    """

    name: str | None = None
    on_hub: bool = False
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    rows: int | None = None
    task_id: str | None = None
    pairs: str | None = None

    def __str__(self) -> str:
        parts = [part for part in (self.config, self.split) if part]
        return (self.name or "rows without a name") + (f" ({', '.join(parts)})" if parts else "")


@dataclass(frozen=True)
class BeforeAndAfter:
    """Error rates of the base and of the tuned model on the same clips.

    Attributes:
        rates: error counts by the rate's name: WER, CER, or WRONG_LABELS; the one that counts first.
        source: of the clips.
        decoding: settings of the search that were in force, and the batch size.
    """

    rates: Mapping[str, Comparison]
    source: DataSource
    decoding: Mapping[str, Any]

    @property
    def main(self) -> tuple[str, Comparison]:
        """The rate that counts, with its name."""
        return next(iter(self.rates.items()))


@dataclass(frozen=True)
class Adapter:
    """An adapter, and what its base is made of."""

    kind: str  # LORA, DORA, RSLORA, ADALORA or another of PEFT's types
    settings: Mapping[str, Any]
    quantised_base: bool = False
    tokens: int | None = None  # of the vocabulary, where it was enlarged before the adapter


@dataclass(frozen=True)
class Run:
    """One training run, as it was when the card was written.

    Attributes:
        seconds: of training in this process, evaluations and checkpoints included.
        first_step, last_step: optimizer steps between which these seconds passed; the first is not 0 where the run was
            resumed.
        hardware: devices and processes, in words.
        versions: of Python and libraries, by name.
        logged: rates that the last evaluation during training logged, fractions; with its step.
    """

    seconds: float
    first_step: int
    last_step: int
    hardware: str
    versions: Mapping[str, str]
    logged: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CardFacts:
    """All that a card says.

    Attributes:
        model_name: of the tuned model, without its owner.
        load_name: what `from_pretrained` takes: an id on the Hub, or a folder.
        base_model: id on the Hub, or a folder's name.
        base_on_hub: whether `base_model` is an id on the Hub.
        init_from: the checkpoint that the base came from, where it was told; an id if `init_on_hub`.
        model_type: of the architecture, e.g. "whisper".
        trainer: its class.
        losses: names of the losses, with weights where there are several.
        settings: fields of the config that differ from the class's defaults: name -> (value, default).
        clips_per_step: clips in an optimizer step, over processes and micro-batches.
        trained_parameters, parameters: counts.
        rewards: name -> weight.
        languages: ISO 639 codes.
        license: an identifier the Hub knows.
        license_link: where the licence is to be read, if `license` is "other".
        sampling_rate: of the audio the model hears, in Hz.
        window: longest clip in seconds, or None.
        model_class: class in transformers.
        runs_in_pipeline: whether a pipeline of transformers runs the model; else `audiorl.transcribe` does.
        call_settings: keywords of a call of the pipeline.
        row_settings: columns of a row for `transcribe`, beside its audio.
        adapter: None where the weights themselves were trained, or where it has been merged into them.
        merged: whether an adapter has been merged in.
    """

    model_name: str
    load_name: str
    base_model: str
    base_on_hub: bool
    model_type: str
    model_class: str
    pipeline_tag: str
    trainer: str
    method: Method | None
    papers: list[Paper]
    losses: Mapping[str, float]
    settings: Mapping[str, tuple[Any, Any]]
    clips_per_step: int
    trained_parameters: int
    parameters: int
    data: DataSource
    rewards: Mapping[str, float]
    languages: list[str]
    license: str
    license_link: str | None
    sampling_rate: int
    window: float | None
    run: Run
    runs_in_pipeline: bool = True
    call_settings: Mapping[str, Any] = field(default_factory=dict)
    row_settings: Mapping[str, Any] = field(default_factory=dict)
    adapter: Adapter | None = None
    merged: bool = False
    measurement: BeforeAndAfter | None = None
    tags: tuple[str, ...] = ()
    init_from: str | None = None
    init_on_hub: bool = False
