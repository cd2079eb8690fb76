"""Preference-tune a Whisper and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/dpo_whisper.py

On your own data: rows with `audio`, `chosen`, `rejected`, or with `audio` and `text`, from which pairs are mined first.

    torchrun --nproc_per_node=8 examples/dpo_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name my-org/pairs --output_dir out --push_to_hub
"""

from trl import ModelConfig

from audiorl import DPOConfig, DPOTrainer
from audiorl.demo import CHECKPOINT
from audiorl.evaluation import compare
from audiorl.script import (
    SpeechScriptArguments,
    adapter_and_quantization,
    parse,
    run,
    test_rows,
    train_rows,
    with_pairs,
)
from audiorl.trainers.loading import load_model, load_processor

DEMO_ARGUMENTS = [
    *("--model_name_or_path", str(CHECKPOINT), "--dataset_name", "demo", "--output_dir", "demo-dpo"),
    *("--loss_type", "sigmoid", "sft", "--loss_weights", "0.2", "1.0", "--beta", "0.1"),
    *("--learning_rate", "8e-4", "--num_train_epochs", "4", "--warmup_steps", "10"),
    *("--per_device_train_batch_size", "16", "--per_device_eval_batch_size", "16", "--save_strategy", "no"),
]


def main() -> None:
    # 1. Flags: every field of the three classes
    script, args, model_args = parse((SpeechScriptArguments, DPOConfig, ModelConfig), DEMO_ARGUMENTS)

    # 2. Model and rows; transcripts without pairs are paired with the model's own worst hypotheses
    adapter, quantization = adapter_and_quantization(model_args)
    model = load_model(model_args.model_name_or_path, args, quantization)
    processor = load_processor(None, model)
    pairs = with_pairs(model, processor, train_rows(script), script, args)
    held_out = test_rows(script)

    # 3. Tune, with WER before and after
    trainer = DPOTrainer(model, args=args, train_dataset=pairs, processing_class=processor, peft_config=adapter)
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


if __name__ == "__main__":
    run(main)
