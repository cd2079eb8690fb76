"""Tune a Whisper with rewards (GRPO) and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/grpo_whisper.py

On your own data: rows with `audio` and `text`, and the columns that your rewards read.

    torchrun --nproc_per_node=8 examples/grpo_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name my-org/transcribed --reward_funcs one_minus_wer keyword_score my_module.my_reward \\
        --reward_weights 1.0 0.5 0.5 --freeze_encoder true --output_dir out --push_to_hub

The run itself is `tune_on_rewards`, twenty lines to read or to copy; a subclass of GRPOTrainer takes its place below.
`audiorl grpo` does the same without this file.
"""

from audiorl import GRPOConfig, GRPOTrainer
from audiorl.demo.settings import DEMO_ARGUMENTS
from audiorl.exits import run
from audiorl.tuning import tune_on_rewards


def main() -> None:
    tune_on_rewards(GRPOTrainer, GRPOConfig, demo_arguments=DEMO_ARGUMENTS["grpo"])


if __name__ == "__main__":
    run(main)
