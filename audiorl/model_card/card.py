"""From facts to the files of a card."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import ModelCard

from audiorl.model_card.facts import CardFacts
from audiorl.model_card.metadata import card_data, eval_results_yaml
from audiorl.model_card.text import card_text

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
