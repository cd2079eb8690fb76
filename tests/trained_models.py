"""Which models are trained by which method and adapter in the tests: the list that the tests run, as a table too.

    python -m tests.trained_models

A cell counts because its test lowers a loss or raises a reward.
"""

from __future__ import annotations

from typing import NamedTuple


class Trained(NamedTuple):
    """One combination that a test trains."""

    model: str  # a kind of tiny model
    method: str
    adapter: str  # "full" for all weights
    test: str  # module of the test
    slow: bool = False


# What the README calls the tiny models.
NAMES = {
    "wav2vec2": "Wav2Vec2ForCTC (base: group norm)",
    "wav2vec2-large": "Wav2Vec2ForCTC (large: layer norm)",
    "hubert": "HubertForCTC",
    "wavlm": "WavLMForCTC",
    "parakeet": "ParakeetForCTC",
}
# Of the others the tests take minutes: they run before a release.
FAST = {("wav2vec2", method, "full") for method in ("DPO", "ORPO", "GRPO")} | {("parakeet", "DPO", "LoRA")}
COMBINATIONS = [
    Trained(model, method, adapter, "test_ctc_training", slow=(model, method, adapter) not in FAST)
    for model in NAMES
    for method in ("DPO", "ORPO", "GRPO")
    for adapter in ("full", "LoRA")
    # a small adapter below Parakeet's frozen head raised the reward by 0.1 in 100 steps: too little to count
    if (model, method, adapter) != ("parakeet", "GRPO", "LoRA")
]


def table() -> str:
    """Markdown: a line for each model, a column for each method, the adapters that are tested in the cells."""
    methods = list(dict.fromkeys(x.method for x in COMBINATIONS))
    lines = [["model", *methods]]
    for model in dict.fromkeys(x.model for x in COMBINATIONS):
        cells = [", ".join(x.adapter for x in COMBINATIONS if (x.model, x.method) == (model, m)) for m in methods]
        lines.append([NAMES[model], *(cell or "-" for cell in cells)])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    print(table())
