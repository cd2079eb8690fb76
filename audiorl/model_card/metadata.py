"""The part of a card that the Hub reads: its YAML block, and the files of `.eval_results/`."""

from __future__ import annotations

import datetime
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from audiorl.evaluation import Comparison
from audiorl.model_card.facts import WRONG_LABELS, BeforeAndAfter, CardFacts

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
        return "accuracy", _percent(1 - rate.after.wer), "Accuracy in percent"
    return name.lower(), _percent(rate.after.wer), f"{name} in percent, normaliser {rate.after.normaliser}"


def _percent(rate: float) -> float:
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
