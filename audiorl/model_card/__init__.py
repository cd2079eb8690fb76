"""The card of a tuned model: what people need to judge and use it, and the metadata for the Hub."""

from audiorl.model_card.card import (
    MODEL_CARD,
    RESULTS_FOLDER,
    WRONG_LABELS,
    Adapter,
    BeforeAndAfter,
    CardFacts,
    DataSource,
    Run,
    model_card,
    write_card,
)
from audiorl.model_card.papers import METHODS, Method, Paper, method_of, papers

__all__ = [
    "METHODS",
    "MODEL_CARD",
    "RESULTS_FOLDER",
    "WRONG_LABELS",
    "Adapter",
    "BeforeAndAfter",
    "CardFacts",
    "DataSource",
    "Method",
    "Paper",
    "Run",
    "method_of",
    "model_card",
    "papers",
    "write_card",
]
