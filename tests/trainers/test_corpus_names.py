"""A corpus by its name is what a trainer and a script are given: the right split, language and number of rows."""

from __future__ import annotations

import datasets
import pytest

from audiorl import GRPOConfig, GRPOTrainer, script
from audiorl.flags import RowScriptArguments
from tests.datasets.corpus_copies import write_copy


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Copies of a few splits, where a user's would lie."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "copies"
    for split in (
        "train.clean.100",
        "train.clean.360",
        "train.other.500",
        "validation.clean",
        "test.clean",
        "test.other",
    ):
        write_copy(
            folder / "librispeech",
            "librispeech",
            f"all/{split}/0000",
            [{"text": "THE DOG", "id": f"{split} {i}"} for i in (0, 1)],
        )
    for split in ("train", "validation"):
        write_copy(folder / "fleurs", "fleurs", f"de_de/{split}/0000", [{"raw_transcription": "der Hund", "id": 5}])
    monkeypatch.setenv("AUDIORL_CORPORA", str(folder))
    return folder


def trainer_of(model, tmp_path, **options):
    settings = {name: options.pop(name) for name in ("language",) if name in options}
    args = GRPOConfig(
        output_dir=str(tmp_path / "out"), num_generations=2, use_cpu=True, report_to="none", max_steps=1, **settings
    )
    return GRPOTrainer(model[0], "one_minus_wer", args=args, processing_class=model[1], **options)


def test_a_trainer_takes_the_train_and_the_validation_split(copies, tiny_english, tmp_path):
    trainer = trainer_of(tiny_english, tmp_path, train_dataset="librispeech", eval_dataset="librispeech")
    assert trainer.train_dataset["id"][:3] == ["train.clean.100 0", "train.clean.100 1", "train.clean.360 0"]
    assert trainer.eval_dataset["id"][:] == ["validation.clean 0", "validation.clean 1"]
    named = trainer_of(tiny_english, tmp_path, train_dataset="librispeech:test.other")
    assert named.train_dataset["id"][:] == ["test.other 0", "test.other 1"]


def test_a_trainer_takes_a_corpus_in_the_config_language(copies, tiny_multilingual, tmp_path):
    sets = {"train_dataset": "fleurs", "eval_dataset": {"german": "fleurs"}}
    trainer = trainer_of(tiny_multilingual, tmp_path, language="german", **sets)
    assert trainer.train_dataset["language"][:] == ["de"]
    assert trainer.eval_dataset["german"]["text"][:] == ["der Hund"]
    with pytest.raises(ValueError, match="fleurs is in several languages"):
        trainer_of(tiny_multilingual, tmp_path, train_dataset="fleurs")


def test_a_script_takes_a_corpus_its_splits_and_a_limit(copies):
    flags = RowScriptArguments(dataset_name="librispeech", limit=1)
    assert script.train_rows(flags)["id"][:] == ["train.clean.100 0"]
    assert script.test_rows(flags)["id"][:] == ["test.clean 0"]
    named = RowScriptArguments(dataset_name="librispeech:test.other", eval_dataset_name="librispeech:validation")
    assert script.train_rows(named)["id"][:] == ["test.other 0", "test.other 1"]
    assert script.test_rows(named)["id"][:] == ["validation.clean 0", "validation.clean 1"]
    german = RowScriptArguments(dataset_name="fleurs", dataset_config="de", dataset_streaming=True)
    assert [row["language"] for row in script.train_rows(german)] == ["de"]


def test_a_split_that_is_trained_on_is_not_measured_on(copies):
    flags = RowScriptArguments(dataset_name="librispeech:train.clean.360")
    assert script.train_rows(flags)["id"][0] == "train.clean.360 0"
    assert script.test_rows(flags)["id"][0] == "test.clean 0"


def test_a_limit_holds_for_a_file_too(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"audio": "a.wav", "text": "a"}\n' * 3)
    assert len(script.train_rows(RowScriptArguments(dataset_name=str(tmp_path / "rows.jsonl"), limit=2))) == 2
    with pytest.raises(ValueError, match="1 or more; got 0"):
        script.train_rows(RowScriptArguments(dataset_name=str(tmp_path / "rows.jsonl"), limit=0))
