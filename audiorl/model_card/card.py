"""The facts on a card, as plain values, and the files made from them.

The page that a person reads, section by section, the YAML block that the Hub reads, and the files of `.eval_results/`.
Whoever trained the model gathers the facts.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from audiorl.evaluation import Comparison, Errors, bootstrap_interval
from audiorl.model_card.papers import Method, Paper
from audiorl.text.tasks import WRONG_LABELS as WRONG_LABELS

# Whisper's codes that are not those of ISO 639.
ISO_CODES = {"jw": "jv"}
# A data set that has no id on the Hub still needs a type there.
LOCAL_DATA = "local"


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
        trained_on: how many of the clips were trained on too.
    """

    rates: Mapping[str, Comparison]
    source: DataSource
    decoding: Mapping[str, Any]
    trained_on: int = 0

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
        clips_per_step: clips in an optimizer step, over processes and micro-batches; a mean under max_batch_seconds.
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


# ---- the card ----


def card_data(facts: CardFacts) -> ModelCardData:
    """The metadata; what is not known is left out, except the licence, which then is "unknown"."""
    base = facts.base_model if facts.base_on_hub else None
    if base is None and facts.init_on_hub and facts.adapter is None:
        base = facts.init_from
    fields: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": base and ("adapter" if facts.adapter else "finetune"),
        "datasets": [facts.data.name] if facts.data.on_hub else None,
        "language": facts.languages or None,
        "library_name": "peft" if facts.adapter else "transformers",
        "license": facts.license,
        "pipeline_tag": facts.pipeline_tag,
        "tags": _tags(facts),
    }
    if facts.license_link is not None:
        fields |= {"license_name": "of-the-base-model", "license_link": facts.license_link}
    if facts.measurement is not None:
        fields |= {
            "metrics": [_metric(name, rate)[0] for name, rate in facts.measurement.rates.items()],
            "model_name": facts.model_name,
            "eval_results": _eval_results(facts.measurement, facts.pipeline_tag),
        }
    return ModelCardData(**{name: value for name, value in fields.items() if value is not None})


def eval_results_yaml(measurement: BeforeAndAfter) -> str | None:
    """The results as the Hub's `.eval_results/*.yaml` has them; None where the clips are of no benchmark there.

    The Hub refuses a file whose task the data set's eval.yaml does not list, so nothing is written on a guess.
    """
    source = measurement.source
    if not source.on_hub or source.task_id is None:
        return None
    dataset = {"id": source.name, "task_id": source.task_id}
    if source.revision is not None:
        dataset["revision"] = source.revision
    _, value, note = _metric(*measurement.main)
    entry = {
        "dataset": dataset,
        "value": value,
        "date": datetime.date.today().isoformat(),
        "notes": note,
    }
    return yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)


def iso_code(language: str) -> str:
    """ISO 639 code of a language's code or English name, as rows and configs spell them."""
    # it takes seconds to import
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    name = language.strip("<|> ").lower()
    code = TO_LANGUAGE_CODE.get(name, name)
    return ISO_CODES.get(code, code).partition("-")[0]


def _metric(name: str, rate: Comparison) -> tuple[str, float, str]:
    """A rate as the Hub has it: the metric's id there, its value in percent, what the value is."""
    if name == WRONG_LABELS:
        return "accuracy", _percentage(1 - rate.after.wer), "Accuracy in percent"
    return name.lower(), _percentage(rate.after.wer), f"{name} in percent, normaliser {rate.after.normaliser}"


def _percentage(rate: float) -> float:
    return round(100 * rate, 2)


def _eval_results(measurement: BeforeAndAfter, task: str) -> list[EvalResult]:
    source = measurement.source
    found = []
    for metric, value, note in (_metric(name, rate) for name, rate in measurement.rates.items()):
        found.append(
            EvalResult(
                task_type=task,
                task_name=task.replace("-", " ").title(),
                dataset_type=str(source.name) if source.on_hub else LOCAL_DATA,
                dataset_name=str(source),
                dataset_config=source.config,
                dataset_split=source.split,
                dataset_revision=source.revision,
                metric_type=metric,
                metric_name=note,
                metric_value=value,
            )
        )
    return found


def _tags(facts: CardFacts) -> list[str]:
    adapter = [facts.adapter.kind.lower()] if facts.adapter else []
    method = [facts.method.tag] if facts.method else []
    return list(dict.fromkeys(["audiorl", "speech", facts.model_type, *method, *adapter, *facts.tags]))


# Task of the Hub -> how its pipeline is called, and what of the answer is printed.
PIPELINE_CALLS = {
    "automatic-speech-recognition": ("transcribe", '["text"]'),
    "audio-classification": ("classify", ""),
}


def card_text(facts: CardFacts) -> str:
    """The Markdown below the metadata."""
    sections = [
        f"# {plain(facts.model_name)}\n\n{_opening(facts)}",
        f"## Error rates\n\n{_error_rates(facts)}",
        f"## How to use\n\n{_how_to_use(facts)}",
        f"## Training\n\n{_training(facts)}",
        f"## Limits\n\n{_limits(facts)}",
        f"## Citation\n\n{_citation(facts)}",
    ]
    return "\n\n".join(sections) + "\n"


def snippet(facts: CardFacts) -> str:
    """Python that loads the model and puts a file through it."""
    if not facts.runs_in_pipeline or (facts.adapter and facts.adapter.tokens):
        return _snippet_without_pipeline(facts)
    name, answer = PIPELINE_CALLS.get(facts.pipeline_tag, ("run", ""))
    call = '{"raw": audio, "sampling_rate": rate}'
    if facts.call_settings:
        call += f", generate_kwargs={json.dumps(dict(facts.call_settings))}"
    return "\n".join(
        [
            "import librosa",
            "from transformers import pipeline",
            "",
            f'audio, rate = librosa.load("clip.wav", sr={facts.sampling_rate})',
            f"{name} = pipeline({json.dumps(facts.pipeline_tag)}, model={json.dumps(facts.load_name)})",
            f"print({name}({call}){answer})",
        ]
    )


def _snippet_without_pipeline(facts: CardFacts) -> str:
    folder, row = json.dumps(facts.load_name), json.dumps({"audio": "clip.wav", **facts.row_settings})
    imports = [f"from transformers import AutoProcessor, {facts.model_class}", "", "from audiorl import transcribe", ""]
    loading = [f"name = {folder}", f"model = {facts.model_class}.from_pretrained(name)"]
    if facts.adapter:
        # not by the adapter's own folder: it has no config.json, by which AutoProcessor knows whose it is, and some
        # classes of models mean adapters of another kind by it
        imports.insert(0, "from peft import PeftConfig, PeftModel")
        loading = [
            f"adapter = {folder}",
            "name = PeftConfig.from_pretrained(adapter).base_model_name_or_path",
            f"model = PeftModel.from_pretrained({facts.model_class}.from_pretrained(name), adapter)",
        ]
    if facts.adapter and facts.adapter.tokens:
        loading[2:] = [
            f"model = {facts.model_class}.from_pretrained(name)",
            f"model.resize_token_embeddings({facts.adapter.tokens})",
            "model = PeftModel.from_pretrained(model, adapter)",
        ]
    # tokens that were added are in the adapter's own processor
    source = "adapter" if facts.adapter and facts.adapter.tokens else "name"
    return "\n".join(
        [
            *imports,
            *loading,
            f"processor = AutoProcessor.from_pretrained({source})",
            f"print(transcribe(model, processor, [{row}], progress=False)[0])",
        ]
    )


def plain(value: Any) -> str:
    """A value as text that Markdown neither formats nor takes for the end of a table's cell."""
    text = " ".join(str(value).split())
    for sign in "\\`*_|[]<":
        text = text.replace(sign, "&lt;" if sign == "<" else f"\\{sign}")
    return text


def _hub_linked(name: str, on_hub: bool) -> str:
    return _linked(name, f"https://huggingface.co/{name}" if on_hub else None)


# ---- sections ----


def _opening(facts: CardFacts) -> str:
    base = _hub_linked(facts.base_model, facts.base_on_hub)
    if facts.init_from:
        base += f", which came from {_hub_linked(facts.init_from, facts.init_on_hub)}"
    how = f" with {facts.method.name}" if facts.method else ""
    what = "An adapter for" if facts.adapter else "A version of"
    merged = " The adapter that was trained has been merged into the weights." if facts.merged else ""
    return f"{what} {base}, tuned{how} on {_data(facts.data)} by audiorl (`{facts.trainer}`).{merged}"


def _error_rates(facts: CardFacts) -> str:
    if facts.measurement is None:
        logged = ", ".join(f"{name} {_percent(rate)}" for name, rate in facts.run.logged.items())
        if not logged:
            return "Not measured: this checkpoint was written before the first evaluation."
        return f"The last evaluation during training, up to step {facts.run.last_step}, logged {logged}."
    found = facts.measurement
    rows = [_rate_row(name, rate) for name, rate in found.rates.items()]
    name, rate = found.main
    normaliser = "" if name == WRONG_LABELS else f"Normalizer: `{rate.after.normaliser}`. "
    decoding = ", ".join(f"{name} {plain(value)}" for name, value in found.decoding.items())
    answers = facts.pipeline_tag == "audio-text-to-text"
    return "\n\n".join(
        [
            _table(("", "before", "after", "difference", "p"), rows),
            f"On {len(rate.after):,} clips of {_data(found.source)}; before: the model that training began "
            "with. In parentheses 95 % bootstrap intervals over clips; differences and p by the paired bootstrap.",
            *([f"**{found.trained_on:,} of these clips were trained on too.**"] if found.trained_on else []),
            *(["Each answer is compared with the text of its row."] if answers else []),
            f"{normaliser}Decoding: {decoding}.",
        ]
    )


def _how_to_use(facts: CardFacts) -> str:
    notes = []
    if not facts.runs_in_pipeline or (facts.adapter and facts.adapter.tokens):
        notes.append(
            "A pipeline of transformers would not run it as it was trained; `audiorl` does (`pip install audiorl`)."
        )
    if facts.runs_in_pipeline and "num_beams" in facts.call_settings:
        notes.append(
            "Without `num_beams` the pipeline uses a number of beams of its own, not the one of the rates above."
        )
    if facts.adapter:
        notes.append("Loading it loads the base by its name in `adapter_config.json` and puts the adapter on it.")
    return "\n\n".join([f"```python\n{snippet(facts)}\n```", *([" ".join(notes)] if notes else [])])


def _training(facts: CardFacts) -> str:
    method = facts.method
    learns = f"It learns from {method.learns_from}." if method else "The loss is one of the user's own."
    rows = "" if facts.data.rows is None else f", {facts.data.rows:,} rows"
    run = facts.run
    many = f"{run.last_step:,} step{'' if run.last_step == 1 else 's'}"
    steps = f"steps {run.first_step:,} to {run.last_step:,}" if run.first_step else many
    share = facts.trained_parameters / max(facts.parameters, 1)
    about = "about " if "max_batch_seconds" in facts.settings else ""
    lines = [
        f"* Method: {method.name if method else facts.trainer}. {learns}",
        *([f"* Papers: {'; '.join(_linked(p.title, p.url) for p in facts.papers)}."] if facts.papers else []),
        *([f"* Losses: {_weighted(facts.losses)}."] if facts.losses else []),
        *([f"* Rewards: {_weighted(facts.rewards)}."] if facts.rewards else []),
        f"* Data: {_data(facts.data)}{rows}.{f' {plain(facts.data.pairs)}' if facts.data.pairs else ''}",
        f"* Trained: {facts.trained_parameters:,} of {facts.parameters:,} parameters ({share:.2%}).",
        *_adapter(facts),
        f"* Duration: {_duration(run.seconds)} for {steps}, {about}{facts.clips_per_step} clips each.",
        f"* Hardware: {plain(run.hardware)}.",
        f"* Versions: {', '.join(f'{name} {version}' for name, version in run.versions.items())}.",
    ]
    changed = [(f"`{name}`", _code(value), _code(default)) for name, (value, default) in facts.settings.items()]
    settings = (
        f"Settings that differ from the defaults of the trainer's config:\n\n"
        f"{_table(('setting', 'value', 'default'), changed)}"
        if changed
        else "All settings are the defaults of the trainer's config."
    )
    return "\n".join(lines) + f"\n\n{settings}"


def _adapter(facts: CardFacts) -> list[str]:
    adapter = facts.adapter
    if adapter is None:
        return []
    settings = ", ".join(f"{name} {_code(value)}" for name, value in adapter.settings.items())
    base = "; the base was quantised while it trained" if adapter.quantised_base else ""
    return [f"* Adapter: {adapter.kind}, {settings}{base}."]


def _limits(facts: CardFacts) -> str:
    lines = []
    if facts.window is not None:
        lines.append(f"A clip may last {facts.window:g} s; longer ones were neither trained on nor measured.")
    if facts.measurement is None:
        lines.append("How many errors it makes, and whether fewer than its base, has not been measured.")
    else:
        lines += _limits_of_measurement(facts.measurement)
    if facts.adapter and not facts.base_on_hub:
        lines.append(
            f"The adapter names a folder as its base ({plain(facts.base_model)}), not a model on the Hub: it loads "
            "only where that folder is. A merged checkpoint loads anywhere (`hub_merge_adapter`)."
        )
    if facts.adapter and facts.adapter.quantised_base:
        lines.append("It was trained on a quantised base; on the base in full precision its output differs slightly.")
    lines.append("Errors and biases of the base model may remain: tuning used only the rows above.")
    if facts.license == "unknown":
        lines.append("The base model's licence was not found beside it; it holds for this model too.")
    elif facts.license_link is not None:
        lines.append(f"The base model's licence holds for this model too: {facts.license_link}.")
    return "\n".join(f"* {line}" for line in lines)


def _limits_of_measurement(found: BeforeAndAfter) -> Iterable[str]:
    name, rate = found.main
    if rate.paired.low <= 0 <= rate.paired.high:
        yield f"The difference in {name} above cannot be told from zero: its 95 % interval holds both signs."
    elif rate.paired.low > 0:
        yield "On the clips above it makes more errors than the model that training began with."
    yield "The intervals are about new clips of the same speakers and recordings, not about new speakers or rooms."


def _citation(facts: CardFacts) -> str:
    entries = "\n\n".join(paper.bibtex for paper in facts.papers)
    return f"```bibtex\n{entries}\n```" if entries else "There is no paper to cite for this loss."


# ---- pieces ----


def _rate_row(name: str, rate: Comparison) -> tuple[str, ...]:
    paired = rate.paired
    difference = f"{_points(paired.difference)} points ({_points(paired.low)} to {_points(paired.high)})"
    return name, _with_interval(rate, "before"), _with_interval(rate, "after"), difference, f"{paired.p_value:.2g}"


def _with_interval(rate: Comparison, which: str) -> str:
    errors = getattr(rate, which)
    low, high = _interval(errors)
    return f"{_percent(errors.wer)} ({100 * low:.1f} to {100 * high:.1f})"


@functools.lru_cache(maxsize=8)
def _interval(errors: Errors) -> tuple[float, float]:
    """The same for each card of a run."""
    return bootstrap_interval(errors)


def _points(rate: float) -> str:
    return f"{100 * rate:+.1f}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _data(source: DataSource) -> str:
    url = f"https://huggingface.co/datasets/{source.name}" if source.on_hub else None
    return _linked(str(source), url)


def _linked(text: str, url: str | None) -> str:
    return f"[{plain(text)}]({url})" if url else plain(text)


def _weighted(parts: Mapping[str, float]) -> str:
    return ", ".join(f"`{name}` (weight {weight:g})" for name, weight in parts.items())


def _code(value: Any) -> str:
    """A value as code in a table's cell."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`" if text else "empty"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


MODEL_CARD = "README.md"
RESULTS_FOLDER = ".eval_results"


def model_card(facts: CardFacts, secrets: Iterable[str | None] = ()) -> ModelCard:
    """The card as huggingface_hub has it; `str()` of it is the file.

    Args:
        secrets: access tokens. A setting or a file's name may hold one by mistake; none leaves with the card.
    """
    content = without(f"---\n{card_data(facts).to_yaml()}\n---\n\n{card_text(facts)}", secrets)
    return ModelCard(content)


def write_card(facts: CardFacts, folder: str | os.PathLike, secrets: Iterable[str | None] = ()) -> None:
    """Write the card, and the results in the Hub's own form where the clips are of a benchmark there."""
    card = model_card(facts, secrets)
    card.save(Path(folder) / MODEL_CARD)
    results = None if facts.measurement is None else eval_results_yaml(facts.measurement)
    if results is not None and facts.measurement is not None:
        name = str(facts.measurement.source.name).replace("/", "--")
        path = Path(folder) / RESULTS_FOLDER / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(results, encoding="utf-8")


def without(text: str, secrets: Iterable[str | None]) -> str:
    """The text with each secret replaced by "<token>"."""
    for secret in secrets:
        if secret and secret.strip():
            text = text.replace(secret.strip(), "<token>")
    return text
