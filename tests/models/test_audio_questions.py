"""Audio question answering: two questions about the same clip have different answers, so nobody is right who does not
read the question."""

from __future__ import annotations

import math
from typing import Any

import pytest
from peft import LoraConfig

from audiorl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, ORPOConfig, ORPOTrainer
from audiorl.datasets import speech_rows
from audiorl.evaluation import EvaluationSettings, NamedRows, evaluate
from audiorl.evaluation.systems import LocalModel
from audiorl.rewards import AnswerMatch
from tests.tiny_audio_llms import KINDS, UNPROMPTED, tiny_audio_llm
from tests.tiny_models import SAMPLING_RATE, tiny_clips
from tests.trainers.pair_rows import logged, settings

ANSWERS = {"Which animal is it?": ("dog", ["dog", "a dog"]), "How much?": ("so", ["so", "so so"])}
# The others differ in the prompt's place alone: they run before a release.
ASKED = [
    pytest.param(kind, marks=[pytest.mark.slow] * (kind != "qwen2_audio")) for kind in KINDS if kind not in UNPROMPTED
]


def rows() -> list[dict[str, Any]]:
    """Two clips with two questions each; the right answer to one question is the wrong one to the other."""
    found = []
    for clip in tiny_clips(2):
        for question, (answer, accepted) in ANSWERS.items():
            (other,) = {text for text, _ in ANSWERS.values()} - {answer}
            found.append(
                {
                    "audio": {"array": clip, "sampling_rate": SAMPLING_RATE},
                    "language": "en",
                    "prompt": question,
                    "text": answer,
                    "answers": accepted,
                    "chosen": answer,
                    "rejected": other,
                }
            )
    return found


def steps(folder: Any, **changes: Any) -> dict[str, Any]:
    four = {"per_device_train_batch_size": 4, "lr_scheduler_type": "constant"}
    return {**settings(folder), **four, "max_steps": 12, "learning_rate": 1e-2, **changes}


@pytest.mark.parametrize("kind", ASKED)
def test_dpo_learns_which_question_has_which_answer(kind, tmp_path):
    """The margins of a model that ignores the question are equal and opposite: its loss is log 2 at best."""
    model, processor = tiny_audio_llm(kind)
    lora = LoraConfig(r=8, lora_alpha=16)
    args = DPOConfig(**steps(tmp_path, beta=0.5))
    dpo = DPOTrainer(model, args=args, train_dataset=rows(), processing_class=processor, peft_config=lora)
    dpo.train()
    losses = logged(dpo, "loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4) and losses[-1] < 0.5 * math.log(2)
    assert logged(dpo, "rewards/accuracies")[-1] == 1


@pytest.mark.skipif("glm_asr" not in KINDS, reason="this release of transformers has no GLM-ASR")
def test_orpo_and_then_rewards_for_right_answers(tmp_path):
    """No policy that ignores the question is right more often than every other time."""
    model, processor = tiny_audio_llm("glm_asr")
    shared = {"train_dataset": rows(), "processing_class": processor}
    orpo = ORPOTrainer(model, args=ORPOConfig(**steps(tmp_path, max_steps=4, learning_rate=3e-3)), **shared)
    orpo.train()
    assert logged(orpo, "loss")[-1] < 0.5 * logged(orpo, "loss")[0] and logged(orpo, "rewards/accuracies")[-1] == 1
    sampling = {"num_generations": 16, "max_completion_length": 8}
    args = GRPOConfig(**steps(tmp_path, max_steps=20, learning_rate=1e-3), **sampling)
    grpo = GRPOTrainer(model, "answer_match", args, **shared)
    grpo.train()
    rewards = logged(grpo, "reward")
    assert sum(rewards[:3]) / 3 < 0.5 and sum(rewards[-3:]) / 3 > 0.85
    check_evaluation(model, processor)


def check_evaluation(model: Any, processor: Any) -> None:
    """Accuracy is the share of clips for which the reward is 1."""
    data = [{name: value for name, value in row.items() if name not in ("chosen", "rejected")} for row in rows()]
    data[0]["answers"] = ["cat", "a dog", "dog"]  # any of them
    data[1]["answers"] = ["never"]
    counted = EvaluationSettings(task="labels", text_column="answers", resamples=50)
    local = LocalModel("tuned", model, processor, generation={"max_new_tokens": 8})
    found = evaluate([local], [NamedRows("questions", speech_rows(data))], counted, progress=False)
    (one,), clips = found.evaluated, found.evaluated[0].rows
    rewarded = AnswerMatch()([clip.hypothesis for clip in clips], answers=[row["answers"] for row in data])
    assert one.measured.answers.right.tolist() == [reward == 1 for reward in rewarded] == [True, False, True, True]
    assert found.to_dict()["measurements"][0]["labels"]["accuracy"] == 3 / 4
    assert one.measured.answers.predicted[0] == "cat", "the first of the right answers stands for all"
