"""Tune Qwen3-ASR with rewards (GRPO, 1 - WER) by an adapter on its language model; WER before and after.

Without arguments it takes Qwen3-ASR 1.7B from the Hub and 2,000 clips of LibriSpeech; it needs a GPU and the network:

    torchrun --nproc_per_node=1 examples/grpo_qwen3_asr.py

On your own model and data, several GPUs, any flag changed:

    torchrun --nproc_per_node=8 examples/grpo_qwen3_asr.py --model_name_or_path Qwen/Qwen3-ASR-1.7B-hf \\
        --dataset_name train.jsonl --eval_dataset_name test.jsonl --use_peft --bf16 true --language english \\
        --reward_funcs one_minus_wer keyword_score --output_dir out

Each clip goes through the audio tower once and its prompt through the language model once; the K hypotheses are
continuations of it. The tower has no adapter and stays as it is. A row's `prompt` is its context: names, hot words. The
same holds for other audio language models by `--model_name_or_path` alone; the run itself is `audiorl.tuning`.
"""

from audiorl import GRPOConfig, GRPOTrainer
from audiorl.exits import run
from audiorl.tuning import tune_on_rewards

ARGUMENTS = [
    *("--model_name_or_path", "Qwen/Qwen3-ASR-1.7B-hf", "--language", "english", "--use_peft", "--bf16", "true"),
    *("--dataset_name", "librispeech", "--limit", "2000", "--output_dir", "qwen3-asr-grpo"),
    *("--reward_funcs", "one_minus_wer", "--num_generations", "8", "--max_completion_length", "160"),
    *("--sft_weight", "0.1", "--learning_rate", "1e-5", "--num_train_epochs", "1"),
    *("--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "8"),
]


def main() -> None:
    tune_on_rewards(GRPOTrainer, GRPOConfig, demo_arguments=ARGUMENTS)


if __name__ == "__main__":
    run(main)
