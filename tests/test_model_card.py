"""What the card of a tuned model says, and that what it says is so."""

from __future__ import annotations

import json
import re
from importlib.metadata import version

import pytest
import soundfile
import yaml
from datasets import Dataset
from peft import LoraConfig
from transformers import WhisperForConditionalGeneration, pipeline

import audiorl
from audiorl import losses
from audiorl.datasets import register_corpus
from audiorl.demo import DemoSpeech
from audiorl.evaluation import Decoded, bootstrap_interval, compare, transcribe
from audiorl.flags import RowScriptArguments, data_source
from audiorl.model_card import METHODS, DataSource, method_of
from audiorl.model_card.card import without
from audiorl.model_card.papers import ADAPTER_PAPERS, LOSS_PAPERS, OPTION_PAPERS, PAPERS
from audiorl.models import base_model
from audiorl.trainers import card
from audiorl.trainers.card import changed_settings
from audiorl.trainers.dpo import DPOTrainer
from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer
from tests.cards import WITHOUT_AUDIOREAD, card_of, code_of, run_snippet
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_models import saved, tiny_clips, tiny_whisper
from tests.trainers import grpo_rows
from tests.trainers.pair_rows import config, pair_rows, settings, trainer

TRANSCRIPTS = ["the lazy dog jumps", "all year", "over the fox", "your dark suit in wash water"] * 5
BEFORE = Decoded(TRANSCRIPTS, ["a lazy cat jumps", "all ear", "over the", "your dark soot in wash water"] * 5)
AFTER = Decoded(TRANSCRIPTS, ["the lazy dog jumps", "all ear", "over the fox", "your dark suit in wash water"] * 5)


@pytest.fixture
def base(tmp_path):
    """A tiny model as loaded from its folder, which is called "base"."""
    return WhisperForConditionalGeneration.from_pretrained(saved(tiny_whisper(), tmp_path / "base"))


def said_by(made, **generate_kwargs) -> str:
    """The same of a trainer's model as it is in memory."""
    processor = made.processing_class
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    speaks = pipeline("automatic-speech-recognition", model=base_model(made.model), **parts)
    clip = {"raw": tiny_clips(1)[0], "sampling_rate": 16_000}
    return speaks(clip, generate_kwargs={"num_beams": 1, **generate_kwargs})["text"].strip()


# ---- tables ----


def test_every_trainer_and_every_loss_has_its_row_and_every_paper_its_use():
    trainers = {name for name in audiorl.__all__ if name.endswith("Trainer")} - {"SpeechTrainer"}
    assert trainers <= METHODS.keys()
    known = {*losses.PREFERENCE_LOSSES, *losses.LOSS_PRESETS, *losses.POLICY_LOSSES}
    assert known <= LOSS_PAPERS.keys()
    tables = (*LOSS_PAPERS.values(), *OPTION_PAPERS.values(), *ADAPTER_PAPERS.values())
    used = {method.paper for method in METHODS.values() if method.paper} | {key for keys in tables for key in keys}
    assert used == PAPERS.keys()


@pytest.mark.parametrize("table", ["PREFERENCE_LOSSES", "POLICY_LOSSES"])
def test_a_card_cites_the_paper_that_the_loss_function_names(table):
    for name, loss in getattr(losses, table).items():
        for key in LOSS_PAPERS[name]:
            assert PAPERS[key].arxiv in loss.function.__doc__, name


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_cites_the_paper_that_its_module_names(name):
    if name not in audiorl.__all__:
        pytest.skip("not a public trainer yet")
    if METHODS[name].paper is None:
        pytest.skip("older than its name")
    module = __import__(getattr(audiorl, name).__module__, fromlist=["_"])
    assert PAPERS[METHODS[name].paper].arxiv in module.__doc__


def test_a_subclass_of_ones_own_has_the_method_of_its_base():
    class Own(ORPOTrainer):
        pass

    assert method_of(Own) == METHODS["ORPOTrainer"]
    assert method_of(dict) is None


def test_bibtex_is_closed_and_has_a_field_on_each_line():
    for paper in PAPERS.values():
        first, *fields, last = paper.bibtex.splitlines()
        assert first == f"@article{{{paper.key}," and last == "}"
        assert all(re.fullmatch(r"  \w+ += \{.*\},", field) for field in fields)
        assert paper.bibtex.count("{") == paper.bibtex.count("}")


# ---- settings ----


def test_settings_are_those_that_were_changed_and_no_others(tmp_path):
    assert changed_settings(ORPOConfig(output_dir=str(tmp_path), use_cpu=True)) == {}
    args = ORPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        beta=0.25,
        lr_scheduler_type="cosine",
        model_init_kwargs={"token": "hf_secret", "revision": "v2"},
        hub_token="hf_secret",
        push_to_hub=True,
        logging_steps=3,
    )
    assert changed_settings(args) == {
        "beta": (0.25, 0.1),
        "lr_scheduler_type": ("cosine", "linear"),
        "model_init_kwargs": ({"token": "<token>", "revision": "v2"}, None),
    }
    assert "hf_secret" not in args.to_json_string()  # what TensorBoard and others log


def test_secrets_are_replaced_whatever_whitespace_came_with_them():
    assert without("Bearer hf_abc, hf_abc", [None, "", "hf_abc\n"]) == "Bearer <token>, <token>"


# ---- a whole card ----


def test_a_card_before_anything_was_measured_says_so(tmp_path, base):
    made = trainer(tmp_path / "out", trainer_model=base, max_steps=1, save_strategy="steps", save_steps=1)
    made.train()
    data, text = card_of(tmp_path / "out" / "checkpoint-1")
    assert data == {
        "language": ["en"],
        "library_name": "transformers",
        "license": "unknown",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["audiorl", "speech", "whisper", "dpo"],
    }
    assert "Not measured" in text and "has not been measured" in text
    assert "for 1 step, 2 clips each" in text and f"torch {version('torch')}" in text
    assert not (tmp_path / "out" / ".incomplete").exists()


def test_a_card_has_both_rates_before_and_after_with_their_intervals(tmp_path, base):
    made = trainer(tmp_path / "out", trainer_model=base, max_steps=1, beta=0.3, loss_type=["sigmoid", "sft"])
    made.record_data(DataSource("my-org/pairs", on_hub=True, split="train"))
    made.train()
    made.save_model()
    source = DataSource("my-org/clips", on_hub=True, config="clean", split="test", task_id="clean_test")
    found = made.record_evaluation(BEFORE, AFTER, source)
    data, text = card_of(tmp_path / "out")
    low, high = bootstrap_interval(found.before)
    assert f"| WER | {100 * found.before.wer:.1f} % ({100 * low:.1f} to {100 * high:.1f}) |" in text
    characters = compare(BEFORE, AFTER, unit="character")
    low, high = bootstrap_interval(characters.after)
    assert f"| {100 * characters.after.wer:.1f} % ({100 * low:.1f} to {100 * high:.1f}) |" in text
    assert f"{100 * found.paired.difference:+.1f} points" in text and "cannot be told from zero" not in text
    assert "20 clips of [my-org/clips (clean, test)](https://huggingface.co/datasets/my-org/clips)" in text
    assert "`basic`" in text and "max_length 24" in text
    assert "`sigmoid` (weight 1), `sft` (weight 1)" in text and "| `beta` | `0.3` | `0.1` |" in text
    assert data["datasets"] == ["my-org/pairs"] and data["metrics"] == ["wer", "cer"]
    (index,) = data["model-index"]
    (result,) = index["results"]
    assert index["name"] == "out" and result["dataset"] == {
        "name": "my-org/clips (clean, test)",
        "type": "my-org/clips",
        "config": "clean",
        "split": "test",
    }
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"wer": round(100 * found.after.wer, 2), "cer": round(100 * characters.after.wer, 2)}
    (entry,) = yaml.safe_load((tmp_path / "out" / ".eval_results" / "my-org--clips.yaml").read_text())
    assert entry["dataset"] == {"id": "my-org/clips", "task_id": "clean_test"}
    assert entry["value"] == values["wer"]


def test_a_difference_that_may_be_none_is_called_that(tmp_path, base):
    made = trainer(tmp_path / "out", trainer_model=base, max_steps=1)
    made.record_evaluation(BEFORE, BEFORE)
    made.save_model()
    data, text = card_of(tmp_path / "out")
    assert "cannot be told from zero" in text and "rows without a name" in text
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "local"
    assert not (tmp_path / "out" / ".eval_results").exists()


def test_text_of_a_user_does_not_break_the_card(tmp_path, base):
    made = trainer(tmp_path / "out", trainer_model=base, max_steps=1, run_name="x")
    name = "my | rows\n---\n# <script>alert(1)</script> [x](y)"
    made.record_data(DataSource(name))
    made.record_evaluation(BEFORE, AFTER, DataSource(name))
    made.save_model()
    data, text = card_of(tmp_path / "out")
    assert "<script" not in text and "\n# &lt;" not in text
    assert data["model-index"][0]["results"][0]["dataset"]["name"] == name


def test_an_adapters_card_names_the_adapter_and_what_it_needs(tmp_path, base):
    made = trainer(
        tmp_path / "out", trainer_model=base, max_steps=1, trainer_peft_config=LoraConfig(r=4, use_rslora=True)
    )
    made.save_model()
    data, text = card_of(tmp_path / "out")
    assert data["library_name"] == "peft" and "rslora" in data["tags"]
    assert "Adapter: RSLORA, r `4`, lora_alpha `8`" in text and "Rank Stabilization" in text
    assert "names a folder as its base (base)" in text and str(tmp_path) not in json.dumps(data)
    assert (tmp_path / "out" / "generation_config.json").exists()


@WITHOUT_AUDIOREAD
def test_a_rollout_trainers_card_has_its_rewards_and_its_loss(tmp_path, capsys):
    made = grpo_rows.trainer(
        tmp_path / "out",
        loss_type="dr_grpo",
        reward_weights=[1.0, 0.5],
        trainer_reward_funcs=["one_minus_wer", grpo_rows.letters],
        trainer_kind="multilingual",
        language="german",
    )
    made.save_model()
    data, text = card_of(tmp_path / "out")
    assert "`one_minus_wer` (weight 1), `letters` (weight 0.5)" in text
    assert "Understanding R1-Zero-Like Training" in text and "2503.20783" in text
    assert data["language"] == ["de"] and "grpo" in data["tags"]
    assert 'generate_kwargs={"language": "german", "num_beams": 1}' in code_of(text)
    assert run_snippet(text, tmp_path, capsys) == said_by(made, language="german")


def test_a_card_that_cannot_be_written_stops_the_run_before_its_first_step_and_keeps_no_model_back(tmp_path, base):
    made = trainer(tmp_path / "out", trainer_model=base)
    made.args.loss_type, made.args.loss_weights = ["sigmoid"], [1.0, 2.0]  # more weights than losses
    with pytest.raises(ValueError, match="zip"):
        made.train()
    assert made.state.global_step == 0
    with pytest.raises(ValueError, match="zip"):
        made.save_model()
    WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")


def test_a_merged_adapter_has_a_card_of_its_own(tmp_path, base):
    made = trainer(tmp_path / "out", trainer_model=base, trainer_peft_config=LoraConfig(r=4))
    made.save_model()
    assert made.save_merged() == str(tmp_path / "out-merged")
    data, text = card_of(tmp_path / "out-merged")
    assert data["library_name"] == "transformers" and "has been merged into the weights" in text
    assert f'model="{tmp_path / "out-merged"}"' in code_of(text)


def test_the_base_models_licence_is_read_from_its_card(tmp_path, base):
    (tmp_path / "base" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    made = trainer(tmp_path / "out", trainer_model=base)
    made.save_model()
    data, text = card_of(tmp_path / "out")
    assert data["license"] == "cc-by-4.0" and "model's licence" not in text


def test_a_base_on_the_hub_is_linked_and_its_licence_too(tmp_path):
    model, _ = tiny_whisper()
    model.config._name_or_path = "my-org/whisper"
    made = trainer(tmp_path / "out", trainer_model=model)
    made.create_model_card(model_name="tuned", dataset_name="my-org/rows", tags="home")
    data, text = card_of(tmp_path / "out")
    assert data["base_model"] == "my-org/whisper" and data["base_model_relation"] == "finetune"
    assert data["license"] == "other" and data["license_link"] == "https://huggingface.co/my-org/whisper"
    assert data["datasets"] == ["my-org/rows"] and "home" in data["tags"]
    assert text.lstrip().startswith("# tuned")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]


def test_scripts_name_their_rows_as_the_card_shows_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("")
    on_hub = RowScriptArguments(dataset_name="my-org/rows", dataset_config="clean", eval_dataset_name="rows.jsonl")
    assert data_source(on_hub) == DataSource("my-org/rows", on_hub=True, config="clean", split="train")
    assert data_source(on_hub, test=True) == DataSource("rows.jsonl")
    register_corpus(DemoSpeech(), replace=True)
    assert not data_source(RowScriptArguments(dataset_name="demo")).on_hub
    corpus = RowScriptArguments(dataset_name="librispeech:train.other.500")
    known = {"name": "openslr/librispeech_asr", "on_hub": True, "config": "all"}
    assert data_source(corpus) == DataSource(**known, split="train.other.500")
    assert data_source(corpus, test=True) == DataSource(**known, split="test.clean")


def test_rows_given_by_path_have_its_name(tmp_path, base):
    lines = []
    for i, clip in enumerate(tiny_clips(2)):
        soundfile.write(tmp_path / f"{i}.wav", clip, 16_000)
        lines.append(json.dumps({"audio": f"{i}.wav", "chosen": "the lazy dog", "rejected": "dog"}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    made = trainer(tmp_path / "out", str(tmp_path / "pairs.jsonl"), trainer_model=base)
    made.create_model_card()
    _, text = card_of(tmp_path / "out")
    assert "* Data: pairs.jsonl, 2 rows." in text and str(tmp_path / "pairs") not in text


# ---- use ----


@WITHOUT_AUDIOREAD
@pytest.mark.parametrize("adapter", [False, True])
def test_the_snippet_runs_and_says_what_the_trained_model_says(tmp_path, base, capsys, adapter):
    options = {"trainer_peft_config": LoraConfig(r=4)} if adapter else {}
    made = trainer(tmp_path / "out", trainer_model=base, learning_rate=3e-2, max_steps=2, **options)
    before = said_by(made)
    made.train()
    made.save_model()
    _, text = card_of(tmp_path / "out")
    assert run_snippet(text, tmp_path, capsys) == said_by(made) != before


@WITHOUT_AUDIOREAD
def test_a_classifiers_card_has_the_share_of_wrong_labels_and_no_wer(tmp_path, capsys):
    model, extractor = tiny_classifier("wav2vec2-group")
    model.config._name_or_path = str(tmp_path / "base")
    rows = [{**row, "chosen": "seven", "rejected": "two"} for row in pair_rows(4)]
    made = DPOTrainer(model, args=config(tmp_path / "out"), train_dataset=rows, processing_class=extractor)
    labels = ["seven", "two", "one", "two"] * 5
    found = made.record_evaluation(Decoded(labels, ["two"] * 20), Decoded(labels, [*labels[:19], "one"]))
    assert (found.before.wer, found.after.wer) == (0.5, 0.05)
    made.save_model()
    data, text = card_of(tmp_path / "out")
    assert "| wrong labels | 50.0 % (" in text and "| 5.0 % (0.0 to 15.0) |" in text
    assert "WER" not in text and "Normalizer" not in text
    assert data["pipeline_tag"] == "audio-classification" and data["metrics"] == ["accuracy"]
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 95.0
    assert data.keys() >= {"license", "tags"} and "base_model" not in data  # its folder is gone
    assert "'label': " in run_snippet(text, tmp_path, capsys)


def test_a_language_model_that_hears_is_run_by_audiorl(tmp_path, capsys):
    model, processor = tiny_audio_llm("qwen3_asr")
    args = config(tmp_path / "out", language="english")
    made = DPOTrainer(model, args=args, train_dataset=pair_rows(4), processing_class=processor)
    made.save_model()
    data, text = card_of(tmp_path / "out")
    assert data["pipeline_tag"] == "automatic-speech-recognition" and data["language"] == ["en"]
    rows = [{"audio": {"array": tiny_clips(1)[0], "sampling_rate": 16_000}, "language": "english"}]
    (expected,) = transcribe(made.model, processor, rows, progress=False)
    assert run_snippet(text, tmp_path, capsys) == expected.strip() != ""


def test_orpo_and_online_dpo_write_cards_too(tmp_path):
    model, processor = tiny_whisper()
    args = ORPOConfig(**settings(tmp_path / "orpo"))
    ORPOTrainer(model, args=args, train_dataset=pair_rows(), processing_class=processor).save_model()
    grpo_rows.trainer(tmp_path / "online", online_dpo=True).save_model()
    assert "ORPO: Monolithic" in card_of(tmp_path / "orpo")[1]
    assert "Direct Language Model Alignment from Online AI Feedback" in card_of(tmp_path / "online")[1]


def test_merging_wants_a_push_and_an_adapter(tmp_path):
    with pytest.raises(ValueError, match=r"Add push_to_hub"):
        config(tmp_path, hub_merge_adapter=True)


def test_values_of_filtered_rows_are_read_without_their_audio(monkeypatch):
    rows = Dataset.from_dict({"audio": [b"RIFF"] * 4, "language": ["en", "de", "en", None]}).select([0, 2, 3])
    monkeypatch.setattr(Dataset, "flatten_indices", lambda *_: pytest.fail("all columns were copied"))
    assert card._values(rows, "language") == {"en", None} and card._values(rows, "prompt") == set()
