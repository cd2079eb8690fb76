"""Preference-tune a Whisper with ORPO, without a frozen policy, and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/orpo_whisper.py

On your own data: rows with `audio`, `chosen`, `rejected`, or with `audio` and `text`, from which pairs are mined first.
examples/README.md has the flags of another project's ORPO command line beside those of this one.

    torchrun --nproc_per_node=8 examples/orpo_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name train.jsonl --eval_dataset_name test.jsonl --use_peft --output_dir out

The run itself is `tune_on_pairs`, twenty lines to read or to copy; a subclass of ORPOTrainer takes its place below.
`audiorl orpo` does the same without this file.
"""

from audiorl import ORPOConfig, ORPOTrainer
from audiorl.commands.orpo import REFUSED
from audiorl.demo.settings import DEMO_ARGUMENTS
from audiorl.exits import run
from audiorl.tuning import tune_on_pairs


def main() -> None:
    tune_on_pairs(ORPOTrainer, ORPOConfig, demo_arguments=DEMO_ARGUMENTS["orpo"], refused=REFUSED)


if __name__ == "__main__":
    run(main)
