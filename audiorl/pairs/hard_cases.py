"""Hard cases: clips on which other systems agree with each other and this model does not agree with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from audiorl.evaluation import count_errors


def is_hard_case(
    own: str,
    others: Sequence[str | None],
    *,
    max_disagreement: float = 0.05,
    min_disagreement: float = 0.10,
    unit: str = "auto",
    normalise: str | Callable[[str], str] = "basic",
) -> bool:
    """Whether a clip is worth tuning on, as far as transcripts of other systems tell.

        hard = D(a, b) <= max_disagreement   for every two of the others, and
               D(a, own) >= min_disagreement for every one of them
        D(a, b) = max(WER(a; b), WER(b; a))

    Args:
        own: what the model says of the clip.
        others: what other systems say; None where one has no transcript, which is no agreement. One system alone
            agrees with itself.
        max_disagreement: >= 0, a fraction.
        min_disagreement: > 0, a fraction.
        unit, normalise: see `audiorl.evaluation.count_errors`.

    Source: An et al. 2025 (Fun-ASR), arXiv:2509.12508, the hard cases among its data for reinforcement learning: three
        systems that agree within 5 % and differ from the model by 10 % (both figures from memory, the passage could
        not be looked up). That a disagreement is the larger of the two
        error rates is ours: the report does not say which transcript counts as the true one.
    """
    said = [text for text in others if text is not None]
    if not said or len(said) < len(others):
        return False

    def disagreement(first: str, second: str) -> float:
        both = count_errors([first], [second], unit=unit, normalise=normalise)
        swapped = count_errors([second], [first], unit=unit, normalise=normalise)
        return max(both.wer, swapped.wer)

    if any(disagreement(a, b) > max_disagreement for a, b in combinations(said, 2)):
        return False
    return all(disagreement(text, own) >= min_disagreement for text in said)
