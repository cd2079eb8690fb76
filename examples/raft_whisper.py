"""Tune a Whisper on the best of its own hypotheses (RAFT) and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/raft_whisper.py

On your own data: rows with `audio` and `text`, and the columns that your rewards read.

    torchrun --nproc_per_node=8 examples/raft_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name my-org/transcribed --reward_funcs one_minus_wer --num_cycles 6 --samples_per_prompt 8 \\
        --reward_threshold 0.7 --clips_per_cycle 10000 --learning_rate 1e-5 --output_dir out --push_to_hub

The run itself is `tune_on_rewards`, twenty lines to read or to copy; a subclass of RAFTTrainer takes its place below.
`audiorl raft` does the same without this file.
"""

from audiorl.demo.settings import DEMO_ARGUMENTS
from audiorl.exits import run
from audiorl.trainers.raft import RAFTConfig, RAFTTrainer
from audiorl.tuning import tune_on_rewards


def main() -> None:
    tune_on_rewards(RAFTTrainer, RAFTConfig, demo_arguments=DEMO_ARGUMENTS["raft"])


if __name__ == "__main__":
    run(main)
