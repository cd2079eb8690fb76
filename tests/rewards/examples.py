"""Shared by the tests of rewards: honest and adversarial hypotheses, and the range that each reward promises."""

from __future__ import annotations

from typing import Any, NamedTuple

from audiorl.rewards import REWARDS

INFINITY = float("inf")

# name -> (lowest, highest), as the docstrings say
RANGES = {
    "one_minus_wer": (0, 1),
    "negative_wer": (-2, 0),
    "negative_cer": (-2, 0),
    "exp_cer": (0, 1),
    "negative_edits": (-INFINITY, 0),
    "exact_match": (0, 1),
    "keywords": (0, 1),
    "keyword_precision": (0, 1),
    "keyword_recall": (0, 1),
    "one_minus_keyword_wer": (0, 1),
    "context_keywords": (-INFINITY, INFINITY),
    "entities": (0, 1),
    "sounding_entities": (0, 1),
    "hallucination": (-1, 0),
    "language": (-1, 0),
    "stock_phrases": (-1, 0),
    "length_ratio": (0, 1),
    "length_hallucination": (-1, 1),
    "overlong": (-1, 0),
    "label_match": (0, 1),
    "fuzzy_label_match": (0, 1),
    "label_set_match": (0, 1),
    "answer_match": (0, 1),
    "answer_f1": (0, 1),
    "funasr": (-1, 2),
    "consensus": (0, 1),
    "consensus_cer": (0, 1),
    "confidence": (-INFINITY, 0),
    "agreement": (0, 1),
}
# Rewards that read no transcript; the first ones compare hypotheses with each other, and need several.
OF_GROUPS = ("consensus", "consensus_cer")
UNTOLD = (*OF_GROUPS, "confidence", "agreement")
# Rewards of sentences as a whole, which are not for hypotheses with errors.
WHOLE_SENTENCE = ("exact_match", "label_match", "fuzzy_label_match", "label_set_match", "answer_match")


class Scene(NamedTuple):
    """A row, an honest hypothesis with errors, and hypotheses that try to please without having listened."""

    row: dict[str, Any]
    honest: str
    attacks: dict[str, str]


ENGLISH = Scene(
    {
        "text": "Please call Doctor Nguyen about the blue folder before noon on Friday.",
        "keywords": ["Nguyen", "Friday", "Okafor"],
        "language": "en",
    },
    "please call doctor nguyen about the blew folder before noon friday",
    {
        "stuffed": "please call doctor nguyen about the blew folder before noon friday nguyen friday okafor nguyen",
        "empty": "",
        "twice": "please call doctor nguyen about the blue folder before noon on friday " * 2,
        "loop": "please call doctor " * 20,
        "invention": "the weather tomorrow will be sunny with light winds from the north and some rain much later",
    },
)
CHINESE = Scene(
    {"text": "请在星期五中午之前给张伟打电话。", "keywords": ["张伟", "星期五", "王芳"], "language": "zh"},
    "请在星期五中午以前给张伟打话",
    {
        "stuffed": "请在星期五中午以前给张伟打话张伟星期五王芳张伟",
        "empty": "",
        "twice": "请在星期五中午之前给张伟打电话请在星期五中午之前给张伟打电话",
        "loop": "请在星期" * 15,
        "invention": "明日天气晴朗北风微弱稍后部分地区会有小雨出现并且气温下降",
    },
)
# words and characters in one transcript
MIXED = Scene(
    {"text": "我昨天买了 new phone 给 Nguyen", "keywords": ["Nguyen", "Okafor"], "language": "zh"},
    "我昨天卖了 new phone 给 nguyen",
    {
        "stuffed": "我昨天卖了 new phone 给 nguyen nguyen okafor nguyen",
        "empty": "",
        "twice": "我昨天买了 new phone 给 nguyen 我昨天买了 new phone 给 nguyen",
        "loop": "new phone " * 20,
        "invention": "明日天气晴朗 with light winds 稍后部分地区会有小雨出现",
    },
)
SCENES = {"english": ENGLISH, "chinese": CHINESE, "mixed": MIXED}


def with_labels(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose transcript is its label, the accepted answer and what another system heard, too."""
    text = row["text"]
    return {**row, "label": text, "all_labels": [text], "answers": [text], "other_transcripts": [text]}


def score(reward: Any, hypotheses: list[str], row: dict[str, Any]) -> list[float | None]:
    """Call a reward as TRL does, with one token for each character, each as likely; the hypotheses are of one clip."""
    if isinstance(reward, str):
        reward = REWARDS[reward]
    return reward(
        prompts=[""] * len(hypotheses),
        completions=hypotheses,
        completion_ids=[[1] * len(text) for text in hypotheses],
        trainer_state=None,
        group=[(0, k) for k in range(len(hypotheses))],
        completion_logps=[-float(len(text)) for text in hypotheses],
        **{name: [value] * len(hypotheses) for name, value in row.items()},
    )


def score_one(reward: Any, hypothesis: str, **row: Any) -> float | None:
    return score(reward, [hypothesis], row)[0]
