"""`audiorl evaluate`: error rates of models on data sets, for a person and as JSON.

    audiorl evaluate --model_name_or_path openai/whisper-small ./tuned --dataset_name held_out.jsonl --output out.json
    audiorl evaluate --endpoint http://127.0.0.1:8000 --endpoint_model my-org/whisper --dataset_name held_out.jsonl

Without a model and a data set it measures the demo's checkpoint on the demo's held-out voices.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from audiorl.evaluation.settings import CountingArguments, DataArguments, ModelArguments

if TYPE_CHECKING:
    from audiorl.evaluation import EvaluationSettings
    from audiorl.evaluation.run import NamedRows
    from audiorl.evaluation.systems import LocalModel, System


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; see the flags.

    Raises:
        ValueError, OSError: what the user can mend, in three parts.
    """
    from audiorl.datasets import register_corpus
    from audiorl.demo import CHECKPOINT, DemoSpeech
    from audiorl.flags import parse

    demo = ["--model_name_or_path", str(CHECKPOINT), "--dataset_name", "demo"]
    register_corpus(DemoSpeech(), replace=True)
    models, data, counting = parse((ModelArguments, DataArguments, CountingArguments), demo, argv)
    # 1. Everything that can be refused is, before anything is decoded
    _check(models, data, counting)
    settings = counted(data, counting)
    systems = [*local_models(models), *served_models(models)]
    settings = with_spelling(settings, counting.normaliser, systems)
    rows = [named_rows(name, data, settings) for name in data.dataset_name]

    # 2. Decode, count, compare
    from audiorl.evaluation.run import evaluate

    found = evaluate(systems, rows, settings, probe_seconds=counting.probe_seconds)

    # 3. Written first: whoever reads what is printed may stop reading, as `head` does. Printed though the disk is full
    try:
        if counting.output is not None:
            found.write(counting.output)
    finally:
        found.show()
    if counting.output is not None:
        print(f"\nEvery number and clip is in {counting.output}")


def _check(models: ModelArguments, data: DataArguments, counting: CountingArguments) -> None:
    from audiorl.evaluation.document import check_output

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "audiorl evaluate runs in one process, and several were started. Start it without torchrun; "
            "--device chooses the GPU."
        )
    if (models.endpoint is None) != (not models.endpoint_model):
        raise ValueError(
            "A served model has an address and a name: --endpoint and --endpoint_model go together. Pass both, or "
            "neither."
        )
    if models.long_form is None and (models.chunk_seconds, models.overlap_seconds) != (None, None):
        raise ValueError(
            "--chunk_seconds and --overlap_seconds say how --long_form cuts clips, which is not given. Pass "
            "--long_form auto."
        )
    if models.long_form is not None and not models.model_name_or_path:
        raise ValueError(
            "--long_form is for models of --model_name_or_path: a server gets clips whole. Leave it out, or name a "
            "model."
        )
    if models.endpoint is None and models.api_key_variable is not None:
        raise ValueError(
            "--api_key_variable is for --endpoint, which is not given. Pass it, or leave the variable out."
        )
    if models.history_source != "transcript" and not models.model_name_or_path:
        raise ValueError(
            f"--history_source {models.history_source} is for models of --model_name_or_path; a served model gets the "
            "audio alone. Leave it out."
        )
    if data.label_column is not None and data.text_column != "text":
        raise ValueError(
            "Rows are compared with --label_column or with --text_column, not with both. Leave one of them out."
        )
    if counting.output is not None:
        check_output(counting.output, overwrite=counting.overwrite)


def counted(data: DataArguments, counting: CountingArguments) -> EvaluationSettings:
    """The settings that flags ask for; files that they name are read now."""
    from audiorl.evaluation.settings import LABELS, TRANSCRIPTION, EvaluationSettings
    from audiorl.text.keywords import read_keywords

    return EvaluationSettings(
        task=TRANSCRIPTION if data.label_column is None else LABELS,
        text_column=data.label_column or data.text_column,
        normalise=counting.normaliser,
        unit=counting.unit,
        group_column=counting.group_column,
        resamples=counting.resamples,
        seed=counting.seed,
        keywords=None if counting.keywords is None else read_keywords(counting.keywords),
        duration_edges=counting.duration_edges,
        speaker_column=data.speaker_column,
        language_column=data.language_column,
        aliases={} if counting.aliases is None else read_aliases(counting.aliases),
        label_similarity=counting.label_similarity,
    )


def read_aliases(path: str) -> dict[str, list[str]]:
    """Labels with their other spellings from a JSON or YAML file.

    Raises:
        ValueError: no such file, or something else in it.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)  # JSON is YAML
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"Aliases cannot be read from {path!r}: {error}. Give a JSON or YAML file.") from error
    good = isinstance(found, dict) and all(
        isinstance(label, str) and isinstance(spellings, list) and all(isinstance(one, str) for one in spellings)
        for label, spellings in found.items()
    )
    if not good:
        raise ValueError(
            f"Aliases are lists of texts by label; {path!r} holds something else. Write "
            '{"happy": ["happiness", "joy"]}, with yes, no, on and off in quotes.'
        )
    return found


def local_models(models: ModelArguments) -> list[LocalModel]:
    """Every checkpoint loaded, so that a misspelt name or a model nobody knows is told before the first one decodes."""
    import torch

    from audiorl.evaluation.systems import LocalModel
    from audiorl.evaluation.transcription import generation_settings
    from audiorl.models import LongForm, use_family
    from audiorl.trainers.loading import load_checkpoint, load_processor

    if models.family is not None:
        use_family(models.family)
    device = models.device or ("cuda" if torch.cuda.is_available() else "cpu")
    long_form = None
    if models.long_form is not None:
        long_form = LongForm(models.long_form, models.chunk_seconds, models.overlap_seconds)
    found = []
    for name in models.model_name_or_path:
        model = load_checkpoint(name, {"dtype": models.dtype})
        found.append(
            LocalModel(
                name,
                model,
                load_processor(None, model),
                generation=generation_settings(models.max_new_tokens, models.num_beams),
                batch_size=models.batch_size,
                device=device,
                language=models.language,
                task=models.task,
                history_source=models.history_source,
                encoder_cache=models.encoder_cache,
                encoder_cache_dtype=models.encoder_cache_dtype,
                long_form=long_form,
            )
        )
    return found


def served_models(models: ModelArguments) -> list[System]:
    """The models behind the endpoint."""
    from audiorl.evaluation.endpoint import Endpoint

    if models.endpoint is None:
        return []
    key = None
    if models.api_key_variable is not None and not (key := os.environ.get(models.api_key_variable)):
        raise ValueError(
            f"--api_key_variable names {models.api_key_variable}, which is unset or empty. Set it to the server's "
            "key, or leave the flag out if the server wants none."
        )
    return [
        Endpoint(
            models.endpoint,
            name,
            api_key=key,
            language=models.language,
            requests_in_flight=models.requests_in_flight,
            max_retries=models.max_retries,
            timeout=models.request_timeout,
        )
        for name in models.endpoint_model
    ]


def with_spelling(settings: EvaluationSettings, name: str, systems: Sequence[Any]) -> EvaluationSettings:
    """One normaliser for all models: "english" takes the first spelling table that a checkpoint brings."""
    from audiorl.text.normalizers import normalizer

    processors = [system.family.processor for system in systems if hasattr(system, "family")]
    found = [normalizer(name, processor=processor) for processor in processors]
    spelling = next((one for one in found if one.name != settings.normaliser.name), None)
    return settings if spelling is None else replace(settings, normalise=spelling)


def named_rows(name: str, data: DataArguments, settings: EvaluationSettings) -> NamedRows:
    """The rows of a file, folder or name that flags ask for."""
    from audiorl.evaluation.run import chosen_rows
    from audiorl.flags import RowScriptArguments, test_rows

    script = RowScriptArguments(
        dataset_name=name,
        eval_dataset_name=name,
        dataset_config=data.dataset_config,
        dataset_test_split=data.dataset_split,
        dataset_streaming=data.dataset_streaming,
    )
    return chosen_rows(
        name,
        test_rows(script, columns=data.columns),
        settings,
        min_seconds=data.min_audio_seconds,
        max_seconds=data.max_audio_seconds,
        limit=data.limit,
    )
