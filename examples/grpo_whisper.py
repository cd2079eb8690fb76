"""Tune a Whisper with rewards (GRPO) and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/grpo_whisper.py

On your own data: rows with `audio` and `text`, and the columns that your rewards read.

    torchrun --nproc_per_node=8 examples/grpo_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name my-org/transcribed --reward_funcs one_minus_wer keyword_score my_module.my_reward \\
        --reward_weights 1.0 0.5 0.5 --freeze_encoder true --output_dir out --push_to_hub
"""

from audiorl import GRPOConfig, GRPOTrainer
from audiorl.adapters import SpeechModelConfig
from audiorl.demo import CHECKPOINT
from audiorl.evaluation import compare
from audiorl.rewards import RewardSet
from audiorl.script import RewardScriptArguments, load_from_flags, parse, run, save_merged, test_rows, train_rows

DEMO_ARGUMENTS = [
    *("--model_name_or_path", str(CHECKPOINT), "--dataset_name", "demo", "--output_dir", "demo-grpo"),
    *("--reward_funcs", "one_minus_wer", "--num_generations", "8", "--max_completion_length", "40"),
    *("--sft_weight", "0.3", "--learning_rate", "1e-4", "--num_train_epochs", "2", "--warmup_steps", "5"),
    *("--per_device_train_batch_size", "16", "--per_device_eval_batch_size", "16", "--save_strategy", "no"),
]


def main() -> None:
    # 1. Flags: every field of the three classes; rewards are found before anything is loaded
    script, args, model_args = parse((RewardScriptArguments, GRPOConfig, SpeechModelConfig), DEMO_ARGUMENTS)
    RewardSet(script.reward_funcs, args.reward_weights)

    # 2. Model and rows
    model, processor, adapter = load_from_flags(model_args, args)
    held_out = test_rows(script, args)

    # 3. Tune, with WER before and after
    trainer = GRPOTrainer(
        model,
        script.reward_funcs,
        args=args,
        train_dataset=train_rows(script, args),
        processing_class=processor,
        peft_config=adapter,
    )
    before = trainer.decode(held_out) if held_out is not None else None
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()

    # 4. Say what came of it
    if held_out is not None:
        result = compare(before, trainer.decode(held_out), normalise=args.wer_normaliser)
        if args.process_index == 0:
            print(result)
    if args.process_index == 0:
        print(f"The tuned checkpoint lies in {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub()
    if model_args.merge_adapter:
        save_merged(args, processor)


if __name__ == "__main__":
    run(main)
