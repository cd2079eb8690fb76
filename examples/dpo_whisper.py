"""Preference-tune a Whisper and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/dpo_whisper.py

On your own data: rows with `audio`, `chosen`, `rejected`, or with `audio` and `text`, from which pairs are mined first.

    torchrun --nproc_per_node=8 examples/dpo_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name my-org/pairs --output_dir out --push_to_hub

With an adapter on a quantised base, the encoder left alone; the adapter is written, and the two merged beside it:

    python examples/dpo_whisper.py --model_name_or_path openai/whisper-large-v3 --dataset_name my-org/pairs \\
        --output_dir out --use_peft --lora_decoder_only --load_in_8bit --merge_adapter

The run itself is `tune_on_pairs`, twenty lines to read or to copy; a subclass of DPOTrainer takes its place below.
`audiorl dpo` does the same without this file.
"""

from audiorl import DPOConfig, DPOTrainer
from audiorl.demo.settings import DEMO_ARGUMENTS
from audiorl.exits import run
from audiorl.tuning import tune_on_pairs


def main() -> None:
    tune_on_pairs(DPOTrainer, DPOConfig, demo_arguments=DEMO_ARGUMENTS["dpo"])


if __name__ == "__main__":
    run(main)
