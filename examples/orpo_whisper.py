"""Preference-tune a Whisper with ORPO, without a frozen policy, and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/orpo_whisper.py

On your own data: rows with `audio`, `chosen`, `rejected`, or with `audio` and `text`, from which pairs are mined first.
examples/README.md has the flags of another project's ORPO command line beside those of this one.

    torchrun --nproc_per_node=8 examples/orpo_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name train.jsonl --eval_dataset_name test.jsonl --use_peft --output_dir out
"""

from audiorl import ORPOConfig, ORPOTrainer
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
    *("--model_name_or_path", str(CHECKPOINT), "--dataset_name", "demo", "--output_dir", "demo-orpo"),
    *("--beta", "0.25", "--learning_rate", "1.5e-3", "--num_train_epochs", "5", "--warmup_steps", "10"),
    *("--per_device_train_batch_size", "16", "--per_device_eval_batch_size", "16", "--save_strategy", "no"),
]
# Flags of other ORPO scripts that would change nothing here
REFUSED = {
    "--timestamps": "no flag says so here, each row does: a text that begins with a timestamp such as <|0.00|> is "
    "learnt with its timestamps. Write them into the columns chosen and rejected.",
    "--disable_prompt_loss": "there is no prompt beside an encoder: the audio is no token, and prefix tokens "
    "(language, task, a row's prompt) never count. Leave it out; --nll_weight weights the chosen text's likelihood.",
}


def main() -> None:
    # 1. Flags: every field of the three classes
    script, args, model_args = parse(
        (SpeechScriptArguments, ORPOConfig, SpeechModelConfig), DEMO_ARGUMENTS, refused=REFUSED
    )

    # 2. Model and rows; transcripts without pairs are paired with the model's own worst hypotheses
    model, processor, adapter = load_from_flags(model_args, args)
    pairs = with_pairs(model, processor, train_rows(script, args), script, args)
    held_out = test_rows(script, args)
    evaluated = None
    if args.eval_strategy != "no" and held_out is not None:
        evaluated = with_pairs(model, processor, held_out, script, args)

    # 3. Tune, with WER before and after
    trainer = ORPOTrainer(
        model,
        args=args,
        train_dataset=pairs,
        eval_dataset=evaluated,
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
