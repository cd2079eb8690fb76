"""Preference-tune a Whisper and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/dpo_whisper.py

On your own data: rows with `audio`, `chosen`, `rejected`, or with `audio` and `text`, from which pairs are mined first.

    torchrun --nproc_per_node=8 examples/dpo_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name my-org/pairs --output_dir out --push_to_hub

With an adapter on a quantised base add `--use_peft --lora_decoder_only --load_in_8bit --merge_adapter`;
`audiorl dpo` does the same without this file.
"""

from accelerate.utils import gather_object

from audiorl import DPOConfig, DPOTrainer, SpeechModelConfig, mine_pairs, speech_family
from audiorl.datasets import SkippedRows, register_corpus
from audiorl.demo import DEMO_ARGUMENTS, DemoSpeech
from audiorl.exits import run
from audiorl.flags import SpeechScriptArguments, data_source, load_from_flags, parse, place, test_rows, train_rows


def with_pairs(rows, model, processor, data, args):
    """Rows that have pairs as they are; else each transcript against the worst of the hypotheses the model samples."""
    if rows is None or "rejected" in (rows.column_names or ["rejected"]):
        return rows
    family = speech_family(model, processor)
    family.set_defaults(language=args.language, task=args.task)
    skipped = SkippedRows(f"{args.output_dir}/skipped_rows.jsonl") if args.on_bad_rows == "skip" else None
    sampling = {"num_generations": data.num_generations, "temperature": data.mining_temperature, "seed": args.seed}
    reading = {"batch_size": args.per_device_eval_batch_size, "allow_silence": args.allow_silence, "skipped": skipped}
    share = rows.shard(args.world_size, args.process_index)  # of this process
    mined = mine_pairs(place(model, args), processor, share, family=family, **sampling, **reading)
    print(mined)
    return gather_object(mined.rows) if args.world_size > 1 else mined.rows


def main() -> None:
    # 1. Flags: every field of these three; without a model and rows of your own, the demo's
    register_corpus(DemoSpeech(), replace=True)
    kinds = (SpeechScriptArguments, DPOConfig, SpeechModelConfig)
    data, args, model_args = parse(kinds, DEMO_ARGUMENTS["dpo"])

    # 2. Model by the class its config names, processor and, with --use_peft, an adapter
    model, processor, adapter = load_from_flags(model_args, args)

    # 3. Rows to train on, and rows of other speakers to measure on
    rows, held_out = train_rows(data, args), test_rows(data, args)

    # 4. Pairs, mined where the rows bring none
    pairs = with_pairs(rows, model, processor, data, args)

    # 5. Trainer; it checks all rows before anything is trained
    trainer = DPOTrainer(
        model,
        args=args,
        train_dataset=pairs,
        eval_dataset=with_pairs(held_out, model, processor, data, args) if args.eval_strategy != "no" else None,
        processing_class=processor,
        peft_config=adapter,
    )
    trainer.record_data(data_source(data, mined=pairs is not rows))

    # 6. WER before, on rows that are not trained on
    before = trainer.decode(held_out) if held_out is not None else None

    # 7. Train; a run that was stopped goes on with --resume_from_checkpoint True
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

    # 8. Save the checkpoint: weights or adapter, processor, card, curves
    trainer.save_model()
    if model_args.merge_adapter:
        trainer.accelerator.print(f"Base and adapter merged lie in {trainer.save_merged()}")

    # 9. WER after, on the same clips, with the paired test; it also goes onto the card and into evaluation.json
    if before is not None:
        after = trainer.decode(held_out)
        trainer.record_evaluation(before, after, data_source(data, test=True), rows=held_out)
    trainer.tell()

    # 10. Push to the Hub where --push_to_hub asks for it; everything lies on the disk by now
    if args.push_to_hub:
        trainer.push_to_hub()


if __name__ == "__main__":
    run(main, go_on="go on with --resume_from_checkpoint True if a checkpoint was written")
