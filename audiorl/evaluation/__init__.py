"""Measuring: transcripts of a data set, error counts, error rates, and how sure they are."""

from audiorl.evaluation.comparison import Comparison, Decoded, compare
from audiorl.evaluation.error_rates import ErrorCounts, Errors, count_errors
from audiorl.evaluation.results import EvaluationResult, evaluate_model, format_result
from audiorl.evaluation.significance import PairedResult, bootstrap_interval, paired_bootstrap
from audiorl.evaluation.transcription import transcribe

__all__ = [
    "Comparison",
    "Decoded",
    "ErrorCounts",
    "Errors",
    "EvaluationResult",
    "PairedResult",
    "bootstrap_interval",
    "compare",
    "count_errors",
    "evaluate_model",
    "format_result",
    "paired_bootstrap",
    "transcribe",
]
