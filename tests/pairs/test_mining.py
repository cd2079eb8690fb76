"""Mined pairs: by default the transcript against the hypothesis with the most word errors; then every other setting."""

from __future__ import annotations

import json
import math

import pytest
from datasets import Dataset, IterableDataset

from audiorl.commands.train import with_pairs
from audiorl.datasets import BadRowsError, SkippedRows, speech_rows
from audiorl.evaluation import count_errors, transcribe
from audiorl.flags import SpeechScriptArguments
from audiorl.models import speech_family
from audiorl.pairs import MinedPairs, MiningConfig, mine_pairs
from audiorl.pairs.miner import Miner
from audiorl.rewards import RewardError
from audiorl.testing.case import group_batch
from tests.pairs.mining_rows import TEXTS, rows, rows_on_disk
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import tiny_clips, tiny_whisper
from tests.trainers import ctc_rows
from tests.trainers.pair_rows import config as pair_config


def longest(completions, text, **columns):
    """More characters earn more; the transcript is not looked at."""
    return [float(len(said)) for said in completions]


def shortest(completions, text, **columns):
    return [-float(len(said)) for said in completions]


def mined(**changes):
    model, processor = tiny_whisper()
    settings = {"num_generations": 4, "progress": False, "batch_size": 2, **changes}
    return mine_pairs(model, processor, settings.pop("rows", rows()), **settings)


def test_the_rejected_text_is_the_worst_of_the_samples_and_the_transcript_is_chosen():
    found = mined()
    assert found.clips == 5
    assert [pair["chosen"] for pair in found.rows] == list(TEXTS[:5])
    for pair in found.rows:
        rate = count_errors([pair["chosen"]], [pair["rejected"]], unit="word", normalise="basic").wer
        assert rate == pytest.approx(pair["rejected_wer"])
        assert rate > 0 and pair["rejected"].strip()
        assert pair["speaker"] == f"s{TEXTS.index(pair['chosen'])}"


def test_more_samples_never_make_the_worst_one_better():
    few, many = mined(num_generations=2), mined(num_generations=6)
    worst = [{pair["chosen"]: pair["rejected_wer"] for pair in found.rows} for found in (few, many)]
    assert all(worst[1][text] >= worst[0][text] for text in worst[0])


def test_pairs_do_not_depend_on_the_batch_size_and_follow_the_seed():
    texts = [[pair["rejected"] for pair in mined(batch_size=size).rows] for size in (1, 2, 5)]
    assert texts[0] == texts[1] == texts[2]
    assert [pair["rejected"] for pair in mined(seed=1).rows] != texts[0]


def test_loops_end_at_a_length_of_each_clips_own():
    # at this temperature hardly a hypothesis ends by itself; alone, a clip's own limit is the batch's
    alone, together = (mined(batch_size=size, temperature=9.0).hypotheses for size in (1, 5))
    assert [row["hypotheses"] for row in alone] == [row["hypotheses"] for row in together]


def test_a_model_without_mistakes_gives_no_pairs():
    model, processor = tiny_whisper()

    class Right:
        """The family, with every sample replaced by the truth."""

        def __init__(self, family):
            self.family, self.seen = family, 0

        def __getattr__(self, name):
            return getattr(self.family, name)

        def text(self, tokens, keep):
            texts = [[TEXTS[self.seen + b].upper() + "."] * tokens.shape[1] for b in range(len(tokens))]
            self.seen += len(tokens)
            return texts

    found = mine_pairs(model, processor, rows(), progress=False, family=Right(speech_family(model, processor)))
    assert found.rows == [] and found.clips == 5 and found.mean_wer == 0
    assert str(found).startswith("0 pairs from 5 clips (0.00 a clip)")


def test_bad_rows_and_settings_are_refused():
    broken = rows(2)
    broken[1]["text"] = ""
    with pytest.raises(BadRowsError, match="row 1"):
        mined(rows=broken)
    for changes in ({"num_generations": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=rf"{next(iter(changes))}=.* out of its range"):
            mined(**changes)


def test_all_bad_rows_are_told_before_anything_is_sampled(tmp_path, monkeypatch):
    model, processor = tiny_whisper()
    rows = [{"audio": {"array": clip, "sampling_rate": 16_000}, "text": "water"} for clip in tiny_clips(3)]
    rows[0]["text"], rows[2]["audio"] = " ", "missing.wav"
    with monkeypatch.context() as patched:
        patched.setattr("audiorl.pairs.miner.model_hypotheses", None)
        with pytest.raises(BadRowsError) as told:
            mine_pairs(model, processor, rows, progress=False)
    assert [fault.row_id for fault in told.value.faults] == [0, 2]
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    assert mine_pairs(model, processor, rows, progress=False, skipped=skipped).clips == 1
    assert skipped.count() == 2


# ---- sources ----


def test_several_temperatures_add_hypotheses_and_the_first_ones_stay():
    one, two = mined(), mined(temperature=[1.0, 2.0])
    for alone, both in zip(one.hypotheses, two.hypotheses, strict=True):
        assert sum(alone["copies"]) == 4 and sum(both["copies"]) == 8
        assert both["hypotheses"][: len(alone["hypotheses"])] == alone["hypotheses"]
        assert set(both["origins"]) == {"sample@1", "sample@2"}
        assert len(set(both["hypotheses"])) == len(both["hypotheses"])
    # the same temperature twice draws anew
    twice = mined(temperature=[1.0, 1.0])
    assert sum(len(row["hypotheses"]) for row in twice.hypotheses) > sum(
        len(row["hypotheses"]) for row in one.hypotheses
    )


def test_beams_are_an_n_best_list_and_nbest_pairs_its_false_ranks():
    found = mined(source="beams", strategy="nbest", num_generations=6, batch_size=5, reward_funcs=[longest])
    assert {origin for row in found.hypotheses for origin in row["origins"]} == {"beam@1"}
    by_text = {row["text"]: row for row in found.hypotheses}
    assert found.rows
    for pair in found.rows:
        row = by_text[pair["text"]]
        best = row["rewards"].index(max(row["rewards"]))
        assert pair["chosen"] == row["hypotheses"][best]
        # the list is ranked, so what is likelier stands before the best
        assert row["hypotheses"].index(pair["rejected"]) < best
        assert pair["rejected_reward"] < pair["chosen_reward"]


def test_beams_of_a_ctc_model_are_those_of_its_prefix_search():
    model, processor = tiny_ctc()
    clips = ctc_rows.texts(3)
    settings = {"source": "beams", "num_generations": 4, "batch_size": 3, "progress": False}
    found = mine_pairs(model, processor, clips, **settings)
    family = speech_family(model, processor)
    for row, mined_row in zip(clips, found.hypotheses, strict=True):
        clip = group_batch(family, [row["audio"]["array"]], [[row["text"].upper()]])
        searched = family.beam_groups(model, clip, 4, max_tokens=100)
        assert mined_row["hypotheses"] == family.text(searched.tokens, searched.keep)[0]


def test_synthetic_negatives_ask_no_model_and_pair_each_with_the_transcript():
    found = mine_pairs(None, None, rows(), source="synthetic", num_generations=3, language="en", progress=False)
    assert found.clips == 5 and len(found.rows) == 15
    assert all(pair["chosen"] == pair["text"] and pair["rejected_wer"] > 0 for pair in found.rows)
    again = mine_pairs(None, None, rows(), source="synthetic", num_generations=3, language="en", progress=False)
    assert [pair["rejected"] for pair in again.rows] == [pair["rejected"] for pair in found.rows]
    kinds = mine_pairs(None, None, rows(), source="synthetic", corruptions=["deletion"], progress=False).rows
    assert {pair["rejected_origin"] for pair in kinds} == {"deletion"}


# ---- rewards, strategies, filters ----


def test_rewards_of_ones_own_choose_and_are_written():
    found = mined(reward_funcs=[longest, "exact_match"], reward_weights=[2.0, 0.0], strategy="best_vs_worst")
    assert found.rows
    by_text = {row["text"]: row for row in found.hypotheses}
    for pair in found.rows:
        row = by_text[pair["text"]]
        lengths = [len(text) for text in row["hypotheses"]]
        paired = zip(lengths, row["hypotheses"], strict=True)
        assert len(pair["chosen"]) == max(lengths)
        assert len(pair["rejected"]) == min(length for length, text in paired if text.strip())
        assert (pair["chosen_reward"], pair["rejected_reward"]) == (2 * len(pair["chosen"]), 2 * len(pair["rejected"]))
        assert row["reward_parts"]["longest"] == lengths and set(row["reward_parts"]) == {"longest", "exact_match"}
        assert row["transcript_reward"] == 2 * len(row["text"])
    assert found.mean_margin == pytest.approx(
        sum(pair["chosen_reward"] - pair["rejected_reward"] for pair in found.rows) / len(found.rows)
    )


@pytest.mark.parametrize("strategy", ["transcript_vs_worst", "transcript_vs_each", "best_vs_worst", "above_margin"])
def test_margins_and_the_number_of_pairs_are_kept_to(strategy):
    settings = {"strategy": strategy, "reward_funcs": [longest], "source": "samples", "num_generations": 6}
    free, kept = mined(**settings), mined(**settings, min_margin=2.0, max_margin=15.0, max_pairs=2)
    assert kept.rows and len(kept.rows) <= len(free.rows)
    for pair in kept.rows:
        assert 2 <= pair["chosen_reward"] - pair["rejected_reward"] <= 15
    texts = [pair["text"] for pair in kept.rows]
    assert max(map(texts.count, texts)) <= 2
    assert any(pair["chosen_reward"] - pair["rejected_reward"] < 2 for pair in free.rows) or strategy != "above_margin"


def family_that_says(model, processor, *said: str):
    """The model's family, its samples replaced by these texts for every clip."""
    family = speech_family(model, processor)
    family.text = lambda tokens, keep: [[said[k % len(said)] for k in range(tokens.shape[1])] for _ in tokens]
    return family


def mined_of(*said: str, **changes):
    model, processor = tiny_whisper()
    count = changes.pop("num_generations", len(said))
    given = changes.pop("rows", rows(1))
    family = family_that_says(model, processor, *said)
    return mine_pairs(model, processor, given, progress=False, num_generations=count, family=family, **changes)


def test_equal_texts_count_once_and_as_often_as_they_were_found():
    (row,) = mined_of("the dog", "The dog.", "THE LAZY DOG", "the dog", "").hypotheses
    assert row["hypotheses"] == ["the dog", "THE LAZY DOG", ""]
    assert row["copies"] == [3, 1, 1]
    assert row["wers"] == pytest.approx([1 / 3, 0.0, 1.0])
    assert mined_of("the dog", "the dog", "", "the lazy dog").mean_wer == pytest.approx((1 / 3 + 1 / 3 + 1 + 0) / 4)


def test_what_cannot_be_learnt_from_is_in_no_pair():
    loop = "dog " * 60  # too long for the decoder
    (pair,) = mined_of("", "  ", loop, "The lazy dog!", "lazy cat", strategy="transcript_vs_each").rows
    assert (pair["chosen"], pair["rejected"]) == ("the lazy dog", "lazy cat")
    assert (pair["chosen_reward"], pair["rejected_reward"]) == (0.0, pytest.approx(-2 / 3))
    # identical once normalised, though a reward tells them apart
    assert mined_of("The lazy dog!!", reward_funcs=[shortest], strategy="transcript_vs_worst").rows == []
    assert mined_of("The lazy dogs!!", reward_funcs=[shortest], strategy="transcript_vs_worst").rows


def test_texts_in_another_script_are_left_out_on_request():
    texts = ("the dog", "собака")
    assert mined_of(*texts).rows[0]["rejected"] == "собака"
    assert mined_of(*texts, same_script=True).rows[0]["rejected"] == "the dog"


def test_a_reward_that_abstains_leaves_its_text_out():
    def half(completions, **columns):
        return [None if said == "cat" else -float(said != "the lazy dog") for said in completions]

    found = mined_of("cat", "a lazy dog", reward_funcs=[half], strategy="transcript_vs_each")
    assert [pair["rejected"] for pair in found.rows] == ["a lazy dog"]
    assert found.hypotheses[0]["rewards"] == [None, -1.0]
    json.dumps(found.hypotheses[0]["rewards"], allow_nan=False)


def test_languages_and_seconds_choose_the_rows():
    model, processor = tiny_whisper("multilingual")
    spoken = rows(5, language=["en", "de", "en", "hi", "de"])
    found = mine_pairs(model, processor, spoken, languages=["en", "hi"], num_generations=2, progress=False)
    assert [row["speaker"] for row in found.hypotheses] == ["s0", "s2", "s3"]
    # 0.9 s, then each a tenth shorter
    timed = mined(min_audio_seconds=0.6, max_audio_seconds=0.85)
    assert [row["speaker"] for row in timed.hypotheses] == ["s1", "s2", "s3"]
    stream = IterableDataset.from_generator(lambda: iter(spoken))
    streamed = mine_pairs(
        model, processor, stream, languages=["en", "hi"], max_audio_seconds=0.85, num_generations=2, progress=False
    )
    assert [row["speaker"] for row in streamed.hypotheses] == ["s2", "s3"]
    with pytest.raises(ValueError, match="No row is left"):
        mine_pairs(model, processor, spoken, languages=["fr"], progress=False)


# ---- hard cases, WER before ----


def test_hard_cases_are_clips_on_which_the_others_agree_and_the_model_differs():
    model, processor = tiny_whisper()
    own = transcribe(model, processor, rows(4), progress=False)
    columns = {
        "whisper": [own[0], TEXTS[1], TEXTS[2], TEXTS[3]],
        "other": [own[0], TEXTS[1], "something else", TEXTS[3]],
    }
    found = mined(rows=rows(4, **columns), other_transcripts=["whisper", "other"])
    assert [row["speaker"] for row in found.hypotheses] == ["s1", "s3"]
    assert [row["decoded"] for row in found.hypotheses] == [own[1], own[3]]
    # of all clips that were decoded, those left out too
    assert found.wer == pytest.approx(count_errors(TEXTS[:4], own, normalise="basic").wer)
    # the same samples as without the choice
    all_of_them = {row["speaker"]: row["hypotheses"] for row in mined(rows=rows(4)).hypotheses}
    assert all(row["hypotheses"] == all_of_them[row["speaker"]] for row in found.hypotheses)
    with pytest.raises(BadRowsError, match="'others' is missing"):
        mined(rows=rows(4, **columns), other_transcripts=["others"])


def test_wer_before_is_that_of_evaluation():
    model, processor = tiny_whisper()
    own = transcribe(model, processor, rows(), progress=False)
    found = mined(measure_wer=True)
    assert found.wer == pytest.approx(count_errors(TEXTS[:5], own, normalise="basic").wer)
    assert f"{found.wer:.2%}" in str(found) and mined().wer is None


# ---- streams, bad input ----


def test_a_stream_gives_the_pairs_of_a_data_set_and_is_read_as_it_is_mined(monkeypatch):
    pulled, seen = [], []

    def generate():
        for row in rows():
            pulled.append(row["speaker"])
            yield row

    call = Miner.__call__
    monkeypatch.setattr(Miner, "__call__", lambda self, some: seen.append(len(pulled)) or call(self, some))
    stream = mined(rows=IterableDataset.from_generator(generate))
    assert seen[0] <= 3 and len(seen) == 3  # batches of two, one row ahead at most
    pulled.clear()
    for one, other in zip(stream.rows, mined().rows, strict=True):
        assert {**one, "audio": None} == {**other, "audio": None}


def test_a_stream_refuses_bad_rows_or_leaves_them_out(tmp_path):
    broken = rows(3)
    broken[1]["text"] = " "
    stream = IterableDataset.from_generator(lambda: iter(broken))
    with pytest.raises(BadRowsError, match="row 1: text is empty"):
        mined(rows=stream)
    with pytest.raises(ValueError, match=r"No row came out of the source: \{'clips outside"):
        mined(rows=stream, min_audio_seconds=5.0)
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    assert mined(rows=stream, skipped=skipped).clips == 2 and skipped.count() == 1
    found = mine_pairs(None, None, stream, source="synthetic", progress=False, skipped=skipped)
    assert found.clips == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"source": "sample"}, "no 'sample'"),
        ({"strategy": "worst"}, "no 'worst'"),
        ({"corruptions": ["deletion"]}, "source='synthetic'"),
        ({"source": "synthetic", "corruptions": ["typo"]}, "no 'typo'"),
        ({"source": "synthetic", "strategy": "nbest"}, "Synthetic negatives are only known to be worse"),
        ({"source": "synthetic", "measure_wer": True}, "ask a model"),
        ({"source": "beams", "temperature": [1.0, 2.0]}, "do not compare"),
        ({"temperature": []}, "temperature"),
        ({"min_margin": 1.0, "max_margin": 0.5}, "max_margin"),
        ({"max_pairs": 0}, "max_pairs"),
        ({"seed": -1}, "seed"),
        ({"reward_weights": [1.0]}, "reward_funcs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        MiningConfig(**changes)


def test_columns_rewards_and_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\['rejected'\] would be overwritten"):
        mined(rows=rows(2, rejected=["a", "b"]))
    with pytest.raises(RewardError, match="keywords"):
        mined(reward_funcs=["keyword_recall"])
    with pytest.raises(RewardError, match="reads completion_ids"):
        mine_pairs(None, None, rows(2), source="synthetic", reward_funcs=["overlong"])
    with pytest.raises(ValueError, match="asks a model"):
        mine_pairs(None, None, rows(2))
    with pytest.raises(ValueError, match="Both config and"):
        mined(config=MiningConfig())
    with pytest.raises(BadRowsError, match="'text' is missing"):
        mined(rows=[{"audio": row["audio"], "txt": "a"} for row in rows(2)])


def test_the_trainers_scripts_mine_rows_that_bring_no_pairs(tmp_path, capsys):
    model, processor = tiny_whisper()
    script = SpeechScriptArguments(dataset_name="rows", num_generations=4)
    args = pair_config(tmp_path, seed=0)
    pairs = with_pairs(model, processor, speech_rows(rows()), script, args)
    assert [pair["rejected"] for pair in pairs] == [pair["rejected"] for pair in mined().rows]
    assert "5 pairs from 5 clips (1.00 a clip), mean margin" in capsys.readouterr().out


def test_rows_of_every_form_are_taken(tmp_path):
    path = rows_on_disk(tmp_path, 3)
    ours = speech_rows(path)
    for source in (str(path), ours, Dataset.from_list(rows(3))):
        assert [row["speaker"] for row in mined(rows=source).hypotheses] == ["s0", "s1", "s2"]
    assert math.isfinite(mined(rows=ours).mean_margin)


def test_a_misspelt_setting_is_told_with_the_one_that_is_meant():
    with pytest.raises(ValueError, match=r"no setting 'num_generation'. Did you mean 'num_generations'\?"):
        mine_pairs(None, None, [], num_generation=2)
    with pytest.raises(ValueError, match=r"got MinedPairs. Pass its rows\."):
        speech_rows(MinedPairs())
