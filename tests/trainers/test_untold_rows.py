"""Learning from clips without transcripts: rows of `audio` alone, by rewards that read no `text`."""

import json

import pytest
from datasets import Dataset, IterableDataset

from audiorl.datasets import BadRowsError
from audiorl.rewards import RewardError
from audiorl.trainers.report_files import write_page
from tests.tiny_ctc import tiny_ctc
from tests.trainers import ctc_rows, grpo_rows, raft_rows
from tests.trainers.pair_rows import largest_difference, logged, weights

UNTOLD = ["consensus_cer", "confidence"]
# no clip's samples agree much under random weights; what is learnt is told apart by how sure the model is
STEPS = {"learning_rate": 1e-3, "max_steps": 2, "report_html": True, "log_completions": True}


def untold(rows):
    return [{name: value for name, value in row.items() if name != "text"} for row in rows]


@pytest.mark.parametrize("method", ["grpo", "online_dpo", "raft"])
def test_every_method_with_rewards_learns_from_audio_alone(tmp_path, method):
    make = raft_rows.trainer if method == "raft" else grpo_rows.trainer
    settings = {**STEPS, "online_dpo": True} if method == "online_dpo" else dict(STEPS)
    found = make(tmp_path, untold(grpo_rows.rows(4)), trainer_reward_funcs=UNTOLD, **settings)
    before = weights(found.model)
    found.train()
    assert largest_difference(before, weights(found.model)) > 1e-4
    assert logged(found, "rewards/consensus_cer/mean") and all(v < 0 for v in logged(found, "rewards/confidence/mean"))
    assert not [name for log in found.state.log_history for name in log if name.endswith("wer")]
    write_page(str(tmp_path))
    assert (tmp_path / "report.html").exists()
    groups = [json.loads(line) for line in (tmp_path / "report" / "groups.jsonl").read_text().splitlines()]
    assert groups and all(group["transcript"] is None for group in groups)


@pytest.mark.parametrize("kind", ["wav2vec2"])
def test_a_family_that_scores_a_hypothesis_as_a_whole_does_too(tmp_path, kind):
    model, processor = tiny_ctc(kind)
    found = grpo_rows.trainer(
        tmp_path,
        untold(ctc_rows.texts(4)),
        trainer_model=model,
        trainer_processing_class=processor,
        trainer_reward_funcs=UNTOLD,
        loss_type="grpo",
        learning_rate=1e-3,
        max_steps=1,
    )
    found.train()
    assert logged(found, "rewards/confidence/mean")[0] < 0


def test_a_reward_that_reads_text_needs_it_and_so_does_a_supervised_term(tmp_path):
    rows = untold(grpo_rows.rows(2))
    with pytest.raises(BadRowsError, match="text"):
        grpo_rows.trainer(tmp_path, rows, trainer_reward_funcs=["consensus", "one_minus_wer"])
    with pytest.raises(BadRowsError, match="text"):
        grpo_rows.trainer(tmp_path, rows, trainer_reward_funcs=["consensus"], sft_weight=0.1)
    with pytest.raises(RewardError, match="agreement reads the column 'other_transcripts', which is missing"):
        grpo_rows.trainer(tmp_path, rows, trainer_reward_funcs=["agreement"])
    with pytest.raises(BadRowsError, match="text"):
        grpo_rows.trainer(tmp_path, grpo_rows.rows(2), trainer_reward_funcs=["consensus"], trainer_eval_dataset=rows)


def test_transcripts_that_are_there_are_counted_and_some_may_be_missing(tmp_path):
    rows = grpo_rows.rows(4)
    rows = [{**row, "text": row["text"] if i % 2 else None} for i, row in enumerate(rows)]
    found = grpo_rows.trainer(tmp_path, rows, trainer_reward_funcs=["consensus"], max_steps=1)
    found.train()
    assert len(logged(found, "wer")) == 1
    # what is no text is still a fault
    with pytest.raises(BadRowsError, match="row 3"):
        grpo_rows.trainer(tmp_path, [*rows[:3], {**rows[3], "text": " "}], trainer_reward_funcs=["consensus"])


def test_streams_of_audio_alone(tmp_path):
    rows = Dataset.from_list(untold(grpo_rows.rows(4)))
    stream = IterableDataset.from_generator(lambda: iter(rows))
    found = grpo_rows.trainer(tmp_path, stream, trainer_reward_funcs=UNTOLD, max_steps=1)
    found.train()
    assert logged(found, "rewards/confidence/mean")


def test_what_is_decoded_has_neither_group_nor_probability_and_is_not_judged(tmp_path):
    found = grpo_rows.trainer(
        tmp_path, grpo_rows.rows(2), trainer_reward_funcs=UNTOLD, trainer_eval_dataset=grpo_rows.rows(2)
    )
    measured = found.evaluate()
    assert measured["eval_wer"] >= 0 and measured["eval_reward"] != measured["eval_reward"]
