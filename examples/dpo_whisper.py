"""Preference-tune a Whisper and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/dpo_whisper.py

On your own data: rows with `audio`, `chosen`, `rejected`, or with `audio` and `text`, from which pairs are mined first.

    torchrun --nproc_per_node=8 examples/dpo_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name my-org/pairs --output_dir out --push_to_hub

With an adapter on a quantised base, the encoder left alone; the adapter is written, and the two merged beside it:

    python examples/dpo_whisper.py --model_name_or_path openai/whisper-large-v3 --dataset_name my-org/pairs \\
        --output_dir out --use_peft --lora_decoder_only --load_in_8bit --merge_adapter
"""

from audiorl import DPOConfig, DPOTrainer
from audiorl.adapters import SpeechModelConfig
from audiorl.demo import CHECKPOINT
from audiorl.evaluation import compare
from audiorl.script import (
    SpeechScriptArguments,
    load_from_flags,
    parse,
    run,
    save_merged,
    test_rows,
    train_rows,
    with_pairs,
)

DEMO_ARGUMENTS = [
    *("--model_name_or_path", str(CHECKPOINT), "--dataset_name", "demo", "--output_dir", "demo-dpo"),
    *("--loss_type", "sigmoid", "sft", "--loss_weights", "0.2", "1.0", "--beta", "0.1"),
    *("--learning_rate", "1.6e-3", "--num_train_epochs", "4", "--warmup_steps", "10"),
    *("--per_device_train_batch_size", "16", "--per_device_eval_batch_size", "16", "--save_strategy", "no"),
]


def main() -> None:
    # 1. Flags: every field of the three classes
    script, args, model_args = parse((SpeechScriptArguments, DPOConfig, SpeechModelConfig), DEMO_ARGUMENTS)

    # 2. Model and rows; transcripts without pairs are paired with the model's own worst hypotheses
    model, processor, adapter = load_from_flags(model_args, args)
    pairs = with_pairs(model, processor, train_rows(script, args), script, args)
    held_out = test_rows(script, args)

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
    if model_args.merge_adapter:
        save_merged(args, processor)


if __name__ == "__main__":
    run(main)
