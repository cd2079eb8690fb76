"""The part of a card that the Hub reads: its YAML block, and the files of `.eval_results/`."""

from __future__ import annotations

import datetime
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from audiorl.evaluation import Comparison
from audiorl.model_card.facts import CardFacts, Measurement

# Whisper's codes that are not those of ISO 639.
ISO_CODES = {"jw": "jv"}
# A data set that has no id on the Hub still needs a type there.
LOCAL_DATA = "local"


def card_data(facts: CardFacts) -> ModelCardData:
    """The metadata; what is not known is left out, except the licence, which then is "unknown"."""
    fields: dict[str, Any] = {
        "base_model": facts.base_model if facts.base_on_hub else None,
        "base_model_relation": ("adapter" if facts.adapter else "finetune") if facts.base_on_hub else None,
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
            "metrics": [name for name, _ in _rates(facts.measurement)],
            "model_name": facts.model_name,
            "eval_results": _eval_results(facts.measurement, facts.pipeline_tag),
        }
    return ModelCardData(**{name: value for name, value in fields.items() if value is not None})


def eval_results_yaml(measurement: Measurement) -> str | None:
    """The results as the Hub's `.eval_results/*.yaml` has them; None where the clips are of no benchmark there.

    The Hub refuses a file whose task the data set's eval.yaml does not list, so nothing is written on a guess.
    """
    source = measurement.source
    if not source.on_hub or source.task_id is None:
        return None
    dataset = {"id": source.name, "task_id": source.task_id}
    if source.revision is not None:
        dataset["revision"] = source.revision
    entry = {
        "dataset": dataset,
        "value": percent(measurement.words.after.wer),
        "date": datetime.date.today().isoformat(),
        "notes": f"{rate_name(measurement.words)} in percent, normaliser {measurement.normaliser}",
    }
    return yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)


def iso_code(language: str) -> str:
    """ISO 639 code of a language's code or English name, as rows and configs spell them."""
    # it takes seconds to import
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    name = language.strip("<|> ").lower()
    code = TO_LANGUAGE_CODE.get(name, name)
    return ISO_CODES.get(code, code).partition("-")[0]


def rate_name(comparison: Comparison) -> str:
    """WER, or CER where scripts without spaces made characters the unit."""
    return "CER" if comparison.after.unit == "character" else "WER"


def percent(rate: float) -> float:
    """A fraction in percent, to the hundredth, as cards on the Hub have error rates."""
    return round(100 * rate, 2)


def _rates(measurement: Measurement) -> list[tuple[str, Comparison]]:
    """Each rate once, by the name of its metric on the Hub."""
    found = {rate_name(rate).lower(): rate for rate in (measurement.words, measurement.characters)}
    return list(found.items())


def _eval_results(measurement: Measurement, task: str) -> list[EvalResult]:
    source = measurement.source
    return [
        EvalResult(
            task_type=task,
            task_name="Automatic Speech Recognition" if task == "automatic-speech-recognition" else None,
            dataset_type=str(source.name) if source.on_hub else LOCAL_DATA,
            dataset_name=str(source),
            dataset_config=source.config,
            dataset_split=source.split,
            dataset_revision=source.revision,
            metric_type=name,
            metric_name=f"{name.upper()} in percent, normaliser {measurement.normaliser}",
            metric_value=percent(rate.after.wer),
        )
        for name, rate in _rates(measurement)
    ]


def _tags(facts: CardFacts) -> list[str]:
    adapter = [facts.adapter.kind.lower()] if facts.adapter else []
    method = [facts.method.tag] if facts.method else []
    return list(dict.fromkeys(["audiorl", "speech", facts.model_type, *method, *adapter, *facts.tags]))
