"""`audiorl orpo`: what `examples/orpo_whisper.py` does."""

from __future__ import annotations

from collections.abc import Sequence

from audiorl.demo.settings import DEMO_ARGUMENTS
from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer
from audiorl.tuning import tune_on_pairs

# Flags of other ORPO scripts that would change nothing here
REFUSED = {
    "--timestamps": "no flag says so here, each row does: a text that begins with a timestamp such as <|0.00|> is "
    "learnt with its timestamps. Write them into the columns chosen and rejected.",
    "--disable_prompt_loss": "there is no prompt beside an encoder: the audio is no token, and prefix tokens "
    "(language, task, a row's prompt) never count. Leave it out; --nll_weight weights the chosen text's likelihood.",
}


def main(argv: Sequence[str] | None = None) -> None:
    tune_on_pairs(ORPOTrainer, ORPOConfig, argv, demo_arguments=DEMO_ARGUMENTS["orpo"], refused=REFUSED)
