"""What a user of a released checkpoint does, in a process of its own: `run_released.py CHECKPOINT OUTPUT [LANGUAGE]`.

Measure, mine pairs, tune with and without an adapter and with checkpointing, tune by rewards, save, report, load again:
whatever a library has to say of it reaches the terminal.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from peft import LoraConfig
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from audiorl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, mine_pairs
from audiorl.evaluation import evaluate_model
from tests.tiny_models import SAMPLING_RATE, tiny_clips


def main(checkpoint: str, output: str, language: str | None = None) -> None:
    model = AutoModelForSpeechSeq2Seq.from_pretrained(checkpoint, dtype="float32")
    processor = AutoProcessor.from_pretrained(checkpoint, language=language)
    model.generation_config.max_length = 12
    texts = ["the quick brown fox", "she had your dark suit", "the lazy dog"]
    rows = [
        {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": text}
        for clip, text in zip(tiny_clips(3, 2.0), texts, strict=True)
    ]
    pairs = [{"audio": row["audio"], "chosen": row["text"], "rejected": f"{row['text']} no"} for row in rows]

    evaluate_model(model, processor, rows, normalise="english", max_new_tokens=4, num_beams=2, progress=False)
    mine_pairs(model, processor, rows[:2], num_generations=2)
    shared = {
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "save_steps": 1,
        "eval_wer": True,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "wer_normaliser": "english",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    for name, more, adapter in (
        ("dpo", {"report_html": True}, None),
        ("checkpointed", {"gradient_checkpointing": True}, None),
        (
            "adapter",
            {"gradient_checkpointing": True, "freeze_encoder": True},
            LoraConfig(target_modules="decoder-linear"),
        ),
    ):
        args = DPOConfig(output_dir=f"{output}/{name}", **shared, **more)
        trainer = DPOTrainer(
            model, args=args, train_dataset=pairs, eval_dataset=pairs, processing_class=processor, peft_config=adapter
        )
        trainer.train()
        trainer.save_model()
        if adapter is not None:
            model = trainer.model.unload().requires_grad_(True)
    args = GRPOConfig(output_dir=f"{output}/grpo", max_completion_length=8, num_generations=2, **shared)
    trainer = GRPOTrainer(
        model,
        reward_funcs="one_minus_wer",
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=processor,
    )
    trainer.train()
    again = AutoModelForSpeechSeq2Seq.from_pretrained(f"{output}/dpo", dtype="float32")
    evaluate_model(again, AutoProcessor.from_pretrained(f"{output}/dpo"), rows[:2], max_new_tokens=4, progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
    print("done")
