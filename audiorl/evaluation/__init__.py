"""Measuring: transcripts of a data set, error counts, error rates, and how sure they are.

Names are loaded on first use: counting errors loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

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
    "RowsWithHistory": "history",
    "add_history": "history",
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

if TYPE_CHECKING:
    from audiorl.evaluation.document import read_document as read_document
    from audiorl.evaluation.endpoint import Endpoint as Endpoint
    from audiorl.evaluation.endpoint import EndpointError as EndpointError
    from audiorl.evaluation.history import RowsWithHistory as RowsWithHistory
    from audiorl.evaluation.history import add_history as add_history
    from audiorl.evaluation.measurement import EvaluationResult as EvaluationResult
    from audiorl.evaluation.measurement import Measurement as Measurement
    from audiorl.evaluation.measurement import format_result as format_result
    from audiorl.evaluation.measurement import measure as measure
    from audiorl.evaluation.run import Evaluation as Evaluation
    from audiorl.evaluation.run import NamedRows as NamedRows
    from audiorl.evaluation.run import evaluate as evaluate
    from audiorl.evaluation.run import evaluate_model as evaluate_model
    from audiorl.evaluation.settings import EvaluationSettings as EvaluationSettings
    from audiorl.evaluation.significance import Comparison as Comparison
    from audiorl.evaluation.significance import Decoded as Decoded
    from audiorl.evaluation.significance import PairedResult as PairedResult
    from audiorl.evaluation.significance import bootstrap_interval as bootstrap_interval
    from audiorl.evaluation.significance import compare as compare
    from audiorl.evaluation.significance import paired_bootstrap as paired_bootstrap
    from audiorl.evaluation.systems import LocalModel as LocalModel
    from audiorl.evaluation.transcription import transcribe as transcribe
    from audiorl.text.error_rates import ErrorCounts as ErrorCounts
    from audiorl.text.error_rates import Errors as Errors
    from audiorl.text.error_rates import count_errors as count_errors
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _HOMES)
