"""Training: a family's models learn from pairs, their checkpoints are resumed and load without this library."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from audiorl.models import speech_family
from audiorl.testing.case import FamilyCase, whole_batch
from audiorl.trainers.dpo import DPOConfig, DPOTrainer

STEPS = 6


def pairs_of(case: FamilyCase, sampling_rate: int) -> list[dict[str, Any]]:
    """A row for each clip with its first two texts that say something."""
    rows = []
    for i, (clip, texts) in enumerate(zip(case.clips, case.texts, strict=True)):
        chosen, rejected = [text for text in texts if text][:2]
        audio = {"array": clip, "sampling_rate": sampling_rate}
        rows.append({"audio": audio, "chosen": chosen, "rejected": rejected, **case.row(i)})
    return rows


def trained(case: FamilyCase, folder: str, resume_from: Path | None = None) -> DPOTrainer:
    """The trainer after `STEPS` steps on all pairs at once, a checkpoint written half way and at the end."""
    model, processor = case.build()
    args = DPOConfig(
        output_dir=folder,
        learning_rate=1e-3,
        per_device_train_batch_size=len(case.clips),
        max_steps=STEPS,
        save_steps=STEPS // 2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = pairs_of(case, speech_family(model, processor).sampling_rate)
    trainer = DPOTrainer(model, args=args, processing_class=processor, train_dataset=rows)
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    return trainer


def a_trainer_lowers_its_loss_resumes_and_leaves_a_plain_checkpoint(case: FamilyCase) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = trained(case, folder)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert len(losses) == STEPS and all(map(math.isfinite, losses)) and losses[-1] < losses[0] - 1e-3
        loaded = type(trainer.model).from_pretrained(Path(folder) / f"checkpoint-{STEPS}").eval()
        batch = whole_batch(case, trainer.family)
        with torch.no_grad():
            outputs = zip(case.ordinary(loaded, batch), case.ordinary(trainer.model.eval(), batch), strict=True)
            for found, expected in outputs:
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        final = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        resumed = trained(case, folder, Path(folder) / f"checkpoint-{STEPS // 2}")
        for name, weight in resumed.model.state_dict().items():
            torch.testing.assert_close(weight, final[name], rtol=1e-6, atol=1e-6)


TRAINING_CHECKS = (a_trainer_lowers_its_loss_resumes_and_leaves_a_plain_checkpoint,)
