"""Names of other projects are answered with ours, and every name that an answer recommends exists."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from transformers import AutoFeatureExtractor

from audiorl import DPOConfig, DPOTrainer, GRPOConfig, RAFTConfig, mine_pairs, speech_family, speech_rows
from audiorl.adapters import SpeechModelConfig
from audiorl.cli import COMMANDS, main
from audiorl.commands.pairs import PairsArguments, PairsConfig
from audiorl.datasets import BadRowsError
from audiorl.elsewhere import COLUMNS, LOSSES, SETTINGS, answer_to_flag
from audiorl.elsewhere import COMMANDS as COMMANDS_ELSEWHERE
from audiorl.evaluation.settings import CountingArguments, DataArguments, ModelArguments
from audiorl.flags import RewardScriptArguments, SpeechScriptArguments
from audiorl.losses import PREFERENCE_LOSSES
from audiorl.trainers.online_dpo import OnlineDPOConfig
from audiorl.trainers.orpo import ORPOConfig
from tests.tiny_models import saved, tiny_clips, tiny_whisper

PROGRAMS = {
    "dpo": (SpeechScriptArguments, DPOConfig, SpeechModelConfig),
    "orpo": (SpeechScriptArguments, ORPOConfig, SpeechModelConfig),
    "grpo": (RewardScriptArguments, GRPOConfig, SpeechModelConfig),
    "raft": (RewardScriptArguments, RAFTConfig, SpeechModelConfig),
    "pairs": (PairsArguments, PairsConfig),
    "evaluate": (ModelArguments, DataArguments, CountingArguments),
}


def flags_of(program: str) -> set[str]:
    return {f.name for kind in PROGRAMS[program] for f in fields(kind)}


def told_by(argv: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code in (1, 2)
    return capsys.readouterr().err


@pytest.mark.parametrize("name", SETTINGS)
def test_every_answer_names_flags_of_some_command(name):
    assert any(answer_to_flag(name, flags_of(program)) for program in PROGRAMS)
    for answer in SETTINGS[name]:
        named = set(re.findall(r"--(\w+)", answer))
        assert any(named <= flags_of(program) for program in PROGRAMS), answer
    assert not all(name in flags_of(program) for program in PROGRAMS), "every command has it: the answer never comes"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ("orpo --base_model x", "--model_name_or_path"),
        ("dpo --model x", "--model_name_or_path"),
        ("evaluate --model x", "--model_name_or_path"),
        ("orpo --train-data x", "--dataset_name"),
        ("orpo --alpha 1", "--beta"),
        ("orpo --use_8bit", "--load_in_8bit --use_peft"),
        ("orpo --use_adalora", "--peft_type adalora"),
        ("orpo --use_compile", "--torch_compile"),
        ("dpo --max_length 10", "no transcript is cut here"),
        ("grpo --max_length 10", "--max_completion_length"),
        ("dpo --dataset_num_proc 2", "--dataloader_num_workers"),
        ("grpo --use_vllm true", "sampled by the model itself"),
        ("dpo --loss_type kto_pair --output_dir x", "replaced by 'bco_pair' and 'apo_zero'"),
        ("raft --task asr --output_dir x", "task 'asr' is no task of a model. Did you mean 'transcribe'?"),
        ("train", "dpo and orpo on pairs, grpo and raft on rewards"),
        ("benchmark", "measured by evaluate"),
    ],
)
def test_names_of_other_projects_are_answered_with_ours(argv, told, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert told in told_by(argv.split(), capsys)


def test_commands_that_are_answered_are_nobody_s_here():
    assert not set(COMMANDS_ELSEWHERE) & set(COMMANDS)
    assert all(any(name in answer for name in COMMANDS) for answer in COMMANDS_ELSEWHERE.values())
    recommended = {name for answer in LOSSES.values() for name in re.findall("'(.+?)'", answer)}
    assert recommended <= set(PREFERENCE_LOSSES) and not set(LOSSES) & set(PREFERENCE_LOSSES)


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        (DPOConfig, "max_length", "no transcript is cut here"),
        (OnlineDPOConfig, "dataset_num_proc", "dataloader_num_workers"),
        (GRPOConfig, "use_vllm", "sampled by the model itself"),
        (DPOConfig, "bata", "did you mean 'beta'"),
    ],
)
def test_fields_of_other_configs_are_answered_in_python_too(kind, name, told):
    with pytest.raises(TypeError, match=f"{kind.__name__} takes no '{name}': .*{told}"):
        kind(output_dir="out", **{name: 1})


def test_a_logger_that_is_not_installed_is_refused_when_the_config_is_built(monkeypatch):
    from transformers.integrations import integration_utils

    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)
    with pytest.raises(ImportError, match=r"report_to names wandb.*audiorl\[wandb\].*--report_to none"):
        DPOConfig(output_dir="out", report_to="wandb")


def test_a_logger_that_does_not_exist_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(
        ValueError, match=r"no logger called 'tensorbord'\. Did you mean 'tensorboard'\? There are azure"
    ):
        DPOConfig(str(tmp_path), report_to="tensorbord", use_cpu=True)


# ---- processors ----


def test_a_tokenizer_or_a_feature_extractor_alone_is_no_processor(tmp_path):
    model, processor = tiny_whisper()
    with pytest.raises(ValueError, match=r"is a tokenizer, which cannot read audio\. Pass processing_class=AutoPr"):
        speech_family(model, processor.tokenizer)
    folder = saved((model, processor), tmp_path / "base")
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    with pytest.raises(ValueError, match="is a feature extractor, which cannot read texts"):
        DPOTrainer(model, args=DPOConfig(output_dir="o", report_to="none", use_cpu=True), processing_class=extractor)


# ---- columns ----


def clip() -> dict:
    return {"array": tiny_clips(1)[0], "sampling_rate": 16_000}


@pytest.mark.parametrize("theirs", [name for name in COLUMNS["audio"] if name != "source"])
def test_a_column_of_audio_with_another_name_is_found(theirs):
    rows = [{theirs: clip(), "sentence": "the lazy dog"}]
    with pytest.raises(BadRowsError) as told:
        mine_pairs(None, None, rows, source="synthetic", language="en", progress=False)
    assert f"--columns audio={theirs} text=sentence" in str(told.value)
    assert f"columns={{'audio': '{theirs}', 'text': 'sentence'}}" in str(told.value)


def test_what_the_message_says_is_what_works():
    rows = [{"audio_filepath": clip(), "sentence": "the lazy dog"}, {"audio_filepath": clip(), "sentence": "over all"}]
    flags = ["audio=audio_filepath", "text=sentence"]
    for columns in (flags, {"audio": "audio_filepath", "text": "sentence"}):
        found = mine_pairs(None, None, rows, columns=columns, source="synthetic", language="en", progress=False)
        assert found.clips == 2
    ours = speech_rows(rows, columns=flags)
    assert speech_rows(ours, columns=flags).column_names == ours.column_names  # rows that were renamed pass again
    assert DPOConfig(output_dir="o", columns=flags).columns == {"audio": "audio_filepath", "text": "sentence"}


def test_a_transcript_with_another_name_says_how_pairs_are_mined_from_it(tmp_path):
    model, processor = tiny_whisper()
    args = DPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    rows = [{"audio": clip(), "transcription": "the lazy dog"}]
    with pytest.raises(BadRowsError, match=r"pairs are mined: audiorl pairs.*--columns text=transcription"):
        DPOTrainer(model, args=args, train_dataset=rows, processing_class=processor)


@pytest.mark.parametrize("columns", ["audio", ["audio="], ["=a"], ["audio=a", "audio=b"]])
def test_columns_that_say_nothing_are_refused(columns):
    with pytest.raises(ValueError, match=r"as ours=theirs; got .*--columns audio=audio_filepath"):
        speech_rows([{"audio": clip()}], columns=columns)


def test_a_trainer_reads_columns_by_its_config_for_training_and_evaluation(tmp_path):
    model, processor = tiny_whisper()
    rows = [{"path": clip(), "good": "the lazy dog", "bad": f"dog {i}", "n": i} for i in range(2)]
    columns = {"audio": "path", "chosen": "good", "rejected": "bad"}
    args = DPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, columns=columns, max_steps=1)
    trainer = DPOTrainer(model, args=args, train_dataset=rows, eval_dataset=rows, processing_class=processor)
    trainer.train()
    assert "eval_loss" in trainer.evaluate() and "eval_loss" in trainer.evaluate(rows)
    assert len(trainer.decode(rows).hypotheses) == 2
