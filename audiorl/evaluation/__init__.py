"""Measuring: transcripts of a data set, error counts, error rates, and how sure they are.

Names are loaded on first use: counting errors loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

if TYPE_CHECKING:
    from audiorl.evaluation.document import read_document
    from audiorl.evaluation.endpoint import Endpoint, EndpointError
    from audiorl.evaluation.measurement import EvaluationResult, Measurement, format_result, measure
    from audiorl.evaluation.run import Evaluation, NamedRows, evaluate, evaluate_model
    from audiorl.evaluation.settings import EvaluationSettings
    from audiorl.evaluation.significance import (
        Comparison,
        Decoded,
        PairedResult,
        bootstrap_interval,
        compare,
        paired_bootstrap,
    )
    from audiorl.evaluation.systems import LocalModel
    from audiorl.evaluation.transcription import transcribe
    from audiorl.text.error_rates import ErrorCounts, Errors, count_errors

# public name -> module
_HOMES = {
    "Comparison": "significance",
    "Decoded": "significance",
    "Endpoint": "endpoint",
    "EndpointError": "endpoint",
    "ErrorCounts": "audiorl.text.error_rates",
    "Errors": "audiorl.text.error_rates",
    "Evaluation": "run",
    "EvaluationResult": "measurement",
    "EvaluationSettings": "settings",
    "LocalModel": "systems",
    "Measurement": "measurement",
    "NamedRows": "run",
    "PairedResult": "significance",
    "bootstrap_interval": "significance",
    "compare": "significance",
    "count_errors": "audiorl.text.error_rates",
    "evaluate": "run",
    "evaluate_model": "run",
    "format_result": "measurement",
    "measure": "measurement",
    "paired_bootstrap": "significance",
    "read_document": "document",
    "transcribe": "transcription",
}

__all__ = [
    "Comparison",
    "Decoded",
    "Endpoint",
    "EndpointError",
    "ErrorCounts",
    "Errors",
    "Evaluation",
    "EvaluationResult",
    "EvaluationSettings",
    "LocalModel",
    "Measurement",
    "NamedRows",
    "PairedResult",
    "bootstrap_interval",
    "compare",
    "count_errors",
    "evaluate",
    "evaluate_model",
    "format_result",
    "measure",
    "paired_bootstrap",
    "read_document",
    "transcribe",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
