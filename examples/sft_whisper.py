"""Tune a Whisper on transcribed speech, and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/sft_whisper.py

On your own data: rows with `audio` and `text`.

    torchrun --nproc_per_node=8 examples/sft_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name train.jsonl --eval_dataset_name test.jsonl --use_peft --output_dir out

`audiorl sft` does the same without this file.
"""

from audiorl import SFTConfig, SFTTrainer, SpeechModelConfig
from audiorl.datasets import register_corpus
from audiorl.demo import DEMO_ARGUMENTS, DemoSpeech
from audiorl.exits import run
from audiorl.flags import RowScriptArguments, data_source, load_from_flags, parse, test_rows, train_rows


def main() -> None:
    # 1. Flags: every field of these three; without a model and rows of your own, the demo's
    register_corpus(DemoSpeech(), replace=True)
    kinds = (RowScriptArguments, SFTConfig, SpeechModelConfig)
    data, args, model_args = parse(kinds, DEMO_ARGUMENTS["sft"])

    # 2. Model by the class its config names, processor and, with --use_peft, an adapter
    model, processor, adapter = load_from_flags(model_args, args)

    # 3. Rows to train on, and rows of other speakers to measure on
    rows, held_out = train_rows(data, args), test_rows(data, args)

    # 4. Trainer; it checks all rows before anything is trained
    trainer = SFTTrainer(
        model,
        args=args,
        train_dataset=rows,
        eval_dataset=held_out if args.eval_strategy != "no" else None,
        processing_class=processor,
        peft_config=adapter,
    )
    trainer.record_data(data_source(data))

    # 5. WER before, on rows that are not trained on
    before = trainer.decode(held_out) if held_out is not None else None

    # 6. Train; a run that was stopped goes on with --resume_from_checkpoint True
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

    # 7. Save the checkpoint: weights or adapter, processor, card, curves
    trainer.save_model()
    if model_args.merge_adapter:
        trainer.accelerator.print(f"Base and adapter merged lie in {trainer.save_merged()}")

    # 8. WER after, on the same clips, with the paired test; it also goes onto the card and into evaluation.json
    if before is not None:
        after = trainer.decode(held_out)
        trainer.record_evaluation(before, after, data_source(data, test=True), rows=held_out)
    trainer.tell()

    # 9. Push to the Hub where --push_to_hub asks for it; everything lies on the disk by now
    if args.push_to_hub:
        trainer.push_to_hub()


if __name__ == "__main__":
    run(main, go_on="go on with --resume_from_checkpoint True if a checkpoint was written")
