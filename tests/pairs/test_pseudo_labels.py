"""Self-training: the hypothesis of minimum Bayes risk in the transcript's place, and pairs by rewards of groups."""

from __future__ import annotations

import json

import pytest

from audiorl.commands import pairs as command
from audiorl.pairs import MiningConfig, mine_pairs, miner
from audiorl.rewards import RewardError
from tests.pairs.mining_rows import rows, rows_on_disk
from tests.rewards.examples import score
from tests.tiny_models import tiny_whisper

# row -> what is sampled of it; the second text of row 0 twice
SAID = {
    0: ["the lazy fog", "the lazy dog", "the lazy dog", "a lazy dog"],
    1: ["all year", "all year", "all year", "all year"],
    2: ["she had", "water", "jumps over", "the quick brown fox"],
}
UNTOLD = {"pseudo_labels": True, "reward_funcs": ["consensus"]}


@pytest.fixture(scope="module")
def model():
    return tiny_whisper()


@pytest.fixture
def scripted(monkeypatch):
    def hypotheses(family, model, batch, states, config):
        own = [SAID[row] for row in batch.row_ids.tolist()]
        return [
            [miner.Hypothesis(text, [1, 2], -float(k), "sample@1") for k, text in enumerate(texts)] for texts in own
        ]

    monkeypatch.setattr(miner, "model_hypotheses", hypotheses)


def untold(count=3):
    return [{name: value for name, value in row.items() if name != "text"} for row in rows(count)]


def test_the_hypothesis_of_minimum_bayes_risk_takes_the_transcripts_place(model, scripted):
    found = mine_pairs(*model, untold(), **UNTOLD, min_chosen_reward=0.5, progress=False)
    # row 1 says one thing only, row 2 agrees on nothing: neither earns
    expected = score("consensus", SAID[0], {})
    assert [(row["text"], row["text_reward"], row["speaker"]) for row in found.labels] == [
        ("the lazy dog", pytest.approx(expected[1]), "s0")
    ]
    worst = SAID[0][expected.index(min(expected))]
    assert [(row["chosen"], row["rejected"]) for row in found.rows] == [("the lazy dog", worst)]
    assert found.rows[0]["chosen_wer"] is None and found.rows[0]["chosen_reward"] == pytest.approx(expected[1])
    # equal hypotheses count as often as they were found, though each stands once
    assert found.hypotheses[0]["hypotheses"] == ["the lazy fog", "the lazy dog", "a lazy dog"]
    assert found.hypotheses[0]["rewards"] == pytest.approx([expected[0], expected[1], expected[3]])
    assert found.hypotheses[1]["rewards"] == [0.0] and "1 clips got a pseudo-label" in str(found)
    everyone = mine_pairs(*model, untold(), **UNTOLD, progress=False)
    assert len(everyone.labels) == 3


def test_transcripts_that_are_there_are_kept_aside_and_not_read(model, scripted):
    found = mine_pairs(*model, rows(3), **UNTOLD, min_chosen_reward=0.5, progress=False)
    (label,) = found.labels
    assert label["true_text"] == "the lazy dog" == label["text"] and found.rows[0]["text"] == "the lazy dog"


def test_confidence_judges_samples_and_a_group_reward_no_transcript(model, scripted):
    config = {"reward_funcs": ["confidence"], "strategy": "best_vs_worst"}
    found = mine_pairs(*model, rows(1), **config, progress=False)
    assert (found.rows[0]["chosen"], found.rows[0]["chosen_reward"]) == ("the lazy fog", 0.0)  # -0 nats of two tokens
    assert found.hypotheses[0]["transcript_reward"] is None
    both = mine_pairs(*model, rows(1), reward_funcs=["consensus"], strategy="best_vs_worst", progress=False)
    assert both.rows[0]["chosen"] == "the lazy dog" and both.rows[0]["chosen_wer"] == 0
    assert both.hypotheses[0]["transcript_reward"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pseudo_labels": True}, "Add reward_funcs consensus"),
        ({**UNTOLD, "strategy": "transcript_vs_worst"}, "need transcripts. Use samples or beams with best_vs_worst"),
        ({**UNTOLD, "measure_wer": True}, "measure_wer"),
        ({**UNTOLD, "only": ["loop"]}, "only"),
        ({**UNTOLD, "source": "synthetic"}, "strategy='best_vs_worst'"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"judge_url": "http://a"}, r"\['judge_url'\] are settings of rewards, and there are none"),
    ],
)
def test_settings_are_checked_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        MiningConfig(**settings)


def test_rewards_that_cannot_judge_are_refused_before_anything_is_sampled(model):
    with pytest.raises(RewardError, match=r"\['consensus'\] compare hypotheses.*strategy='transcript_vs_worst'"):
        mine_pairs(*model, rows(1), reward_funcs=["consensus"], progress=False)
    with pytest.raises(RewardError, match=r"replace transcripts, which \['one_minus_wer'\] read"):
        mine_pairs(*model, untold(1), pseudo_labels=True, reward_funcs=["one_minus_wer"], progress=False)


def test_the_command_writes_pseudo_labels_that_are_rows(tmp_path, capsys):
    for part in tiny_whisper():
        part.save_pretrained(tmp_path / "model")
    data = rows_on_disk(tmp_path, 3)
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps({"audio": line["audio"]}) + "\n" for line in lines))
    out = tmp_path / "mined"
    flags = ["--model_name_or_path", str(tmp_path / "model"), "--dataset_name", str(data), "--output_dir", str(out)]
    flags += ["--pseudo_labels", "true", "--max_new_tokens", "20", "--num_generations", "4", "--batch_size", "2"]
    flags += ["--reward_funcs", "consensus_cer", "confidence", "--reward_weights", "1", "0"]
    command.main(flags)
    told = capsys.readouterr().out
    labels = [json.loads(line) for line in (out / "pseudo_labels.jsonl").read_text().splitlines()]
    assert f"{len(labels)} clips got a pseudo-label" in told and "WER" not in told and len(labels) == 3
    assert all(label["text"].strip() and label["audio"].endswith(".wav") for label in labels)
    hypotheses = [json.loads(line) for line in (out / "hypotheses.jsonl").read_text().splitlines()]
    assert all(value < 0 for row in hypotheses for value in row["reward_parts"]["confidence"])
    for label, row in zip(labels, hypotheses, strict=True):
        assert label["text_reward"] == max(row["rewards"])
    command.main(flags)
    assert "pseudo-labels lie in" in capsys.readouterr().out
