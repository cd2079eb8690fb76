"""The demo: an offline speech synthesiser, sentences to speak, and a small checkpoint to tune."""

from __future__ import annotations

from pathlib import Path

from audiorl.demo.rows import (
    NOISE_KINDS,
    VOCABULARY,
    WINDOW_SECONDS,
    DemoSpeech,
    add_noise,
    demo_rows,
    iterate_demo_rows,
    random_sentence,
    reverberate,
)
from audiorl.demo.synthesiser import (
    SAMPLING_RATE,
    Synthesiser,
    SynthesiserError,
    SynthesiserMissing,
    UnknownVoice,
    Voice,
)

__all__ = [
    "CHECKPOINT",
    "DEMO_ARGUMENTS",
    "NOISE_KINDS",
    "SAMPLING_RATE",
    "VOCABULARY",
    "WINDOW_SECONDS",
    "DemoSpeech",
    "Synthesiser",
    "SynthesiserError",
    "SynthesiserMissing",
    "UnknownVoice",
    "Voice",
    "add_noise",
    "demo_rows",
    "iterate_demo_rows",
    "random_sentence",
    "reverberate",
]

CHECKPOINT = Path(__file__).parent / "checkpoint"

_SHARED = [
    *("--model_name_or_path", str(CHECKPOINT), "--dataset_name", "demo"),
    *("--per_device_train_batch_size", "16", "--per_device_eval_batch_size", "16", "--save_strategy", "no"),
]
# What an example or command does without arguments, as flags; README.md here says how they were chosen
DEMO_ARGUMENTS: dict[str, list[str]] = {
    "sft": [
        *_SHARED,
        *("--output_dir", "demo-sft", "--learning_rate", "1.5e-3", "--num_train_epochs", "5", "--warmup_steps", "10"),
    ],
    "dpo": [
        *_SHARED,
        *("--output_dir", "demo-dpo", "--loss_type", "sigmoid", "sft", "--loss_weights", "0.2", "1.0"),
        *("--beta", "0.1", "--learning_rate", "1.6e-3", "--num_train_epochs", "4", "--warmup_steps", "10"),
    ],
    "orpo": [
        *_SHARED,
        *("--output_dir", "demo-orpo", "--beta", "0.25", "--learning_rate", "1.5e-3"),
        *("--num_train_epochs", "5", "--warmup_steps", "10"),
    ],
    "kto": [
        *_SHARED,
        *("--output_dir", "demo-kto", "--beta", "0.3", "--learning_rate", "1e-4"),
        *("--num_train_epochs", "3", "--warmup_steps", "10"),
    ],
    "distillation": [
        *_SHARED,
        *("--teacher_model_name_or_path", str(CHECKPOINT), "--output_dir", "demo-distillation"),
        *("--student_encoder_layers", "2", "--student_decoder_layers", "1", "--lmbda", "0.3", "--beta", "0.1"),
        *("--max_new_tokens", "40", "--learning_rate", "2e-3", "--num_train_epochs", "5", "--warmup_steps", "10"),
    ],
    "grpo": [
        *_SHARED,
        *("--output_dir", "demo-grpo", "--reward_funcs", "one_minus_wer", "--num_generations", "8"),
        *("--max_completion_length", "40", "--sft_weight", "0.3", "--learning_rate", "1e-4"),
        *("--num_train_epochs", "2", "--warmup_steps", "5"),
    ],
    "raft": [
        *_SHARED,
        *("--output_dir", "demo-raft", "--reward_funcs", "one_minus_wer", "--num_generations", "8"),
        *("--max_completion_length", "40", "--reward_threshold", "0.5", "--learning_rate", "8e-4"),
        *("--num_cycles", "4", "--epochs_per_cycle", "1.2", "--warmup_steps", "5"),
    ],
}
