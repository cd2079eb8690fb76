"""Tune Qwen3-ASR with rewards (GRPO, 1 - WER) by an adapter on its language model; WER before and after.

Without arguments it takes Qwen3-ASR 1.7B from the Hub and 2,000 clips of LibriSpeech; it needs a GPU and the network:

    torchrun --nproc_per_node=1 examples/grpo_qwen3_asr.py

On your own model and data, several GPUs, any flag changed:

    torchrun --nproc_per_node=8 examples/grpo_qwen3_asr.py --model_name_or_path Qwen/Qwen3-ASR-1.7B-hf \\
        --dataset_name train.jsonl --eval_dataset_name test.jsonl --use_peft --bf16 true --language english \\
        --reward_funcs one_minus_wer keywords --output_dir out

Each clip goes through the audio tower once and its prompt through the language model once; the K hypotheses are
continuations of it. The tower has no adapter and stays as it is. A row's `prompt` is its context: names, hot words. The
same holds for other audio language models by `--model_name_or_path` alone.
"""

from audiorl import GRPOConfig, GRPOTrainer, RewardSet, SpeechModelConfig
from audiorl.exits import run
from audiorl.flags import RewardScriptArguments, data_source, load_from_flags, parse, test_rows, train_rows

ARGUMENTS = [
    *("--model_name_or_path", "Qwen/Qwen3-ASR-1.7B-hf", "--language", "english", "--use_peft", "--bf16", "true"),
    *("--dataset_name", "librispeech", "--limit", "2000", "--output_dir", "qwen3-asr-grpo"),
    *("--reward_funcs", "one_minus_wer", "--num_generations", "8", "--max_completion_length", "160"),
    *("--sft_weight", "0.1", "--learning_rate", "1e-5", "--num_train_epochs", "1"),
    *("--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "8"),
]


def main() -> None:
    # 1. Flags: every field of these three; without a model and rows of your own, those above
    kinds = (RewardScriptArguments, GRPOConfig, SpeechModelConfig)
    data, args, model_args = parse(kinds, ARGUMENTS)

    # 2. Rewards, by name or dotted path; a function of the hypotheses and of the rows' columns is one, too
    rewards = list(RewardSet(data.rewards(), args.reward_weights).rewards)

    # 3. Model by the class its config names, processor and, with --use_peft, an adapter
    model, processor, adapter = load_from_flags(model_args, args)

    # 4. Rows to train on, and rows of other speakers to measure on
    rows, held_out = train_rows(data, args), test_rows(data, args)

    # 5. Trainer; it checks all rows before anything is trained
    trainer = GRPOTrainer(
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
