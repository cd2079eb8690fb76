"""Tune a Whisper on the best of its own hypotheses (RAFT) and print its WER before and after.

Without arguments, on the synthetic speech and small checkpoint of audiorl itself (minutes on 2 CPU cores):

    torchrun examples/raft_whisper.py

On your own data: rows with `audio` and `text`, and the columns that your rewards read.

    torchrun --nproc_per_node=8 examples/raft_whisper.py --model_name_or_path openai/whisper-small \\
        --dataset_name my-org/transcribed --reward_funcs one_minus_wer --num_cycles 6 --num_generations 8 \\
        --reward_threshold 0.7 --clips_per_cycle 10000 --learning_rate 1e-5 --output_dir out --push_to_hub

`audiorl raft` does the same without this file.
"""

from audiorl import RAFTConfig, RAFTTrainer, RewardSet, SpeechModelConfig
from audiorl.datasets import register_corpus
from audiorl.demo import DEMO_ARGUMENTS, DemoSpeech
from audiorl.exits import run
from audiorl.flags import RewardScriptArguments, data_source, load_from_flags, parse, test_rows, train_rows


def main() -> None:
    # 1. Flags: every field of these three; without a model and rows of your own, the demo's
    register_corpus(DemoSpeech(), replace=True)
    kinds = (RewardScriptArguments, RAFTConfig, SpeechModelConfig)
    data, args, model_args = parse(kinds, DEMO_ARGUMENTS["raft"])

    # 2. Rewards, by name or dotted path; a function of the hypotheses and of the rows' columns is one, too
    rewards = list(RewardSet(data.rewards(), args.reward_weights).rewards)

    # 3. Model by the class its config names, processor and, with --use_peft, an adapter
    model, processor, adapter = load_from_flags(model_args, args)

    # 4. Rows to train on, and rows of other speakers to measure on
    rows, held_out = train_rows(data, args), test_rows(data, args)

    # 5. Trainer; it checks all rows before anything is trained
    trainer = RAFTTrainer(
        model,
        reward_funcs=rewards,
        args=args,
        train_dataset=rows,
        eval_dataset=held_out if args.eval_strategy != "no" else None,
        processing_class=processor,
        peft_config=adapter,
    )
    trainer.record_data(data_source(data))

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
