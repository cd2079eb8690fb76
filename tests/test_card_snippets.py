"""The snippet on a card, run for each family of models: it says what the model in the trainer says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import soundfile
from peft import LoraConfig
from safetensors import safe_open

from audiorl.commands.train import tune_on_pairs
from audiorl.evaluation import Decoded, transcribe
from audiorl.flags import SpeechScriptArguments, mined_source
from audiorl.model_card import DataSource
from audiorl.trainers.card import base_name
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from tests.cards import WITHOUT_AUDIOREAD, card_of, code_of, run_snippet
from tests.tiny_any import KINDS, LANGUAGES, talkative
from tests.tiny_audio_llms import KINDS as AUDIO_LLMS
from tests.tiny_ctc import KINDS as CTC
from tests.tiny_ctc import SLOW_WRITERS
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper
from tests.trainers import ctc_rows
from tests.trainers.pair_rows import config, pair_rows, settings, trainer

# Between them every way to load a model and to ask it; the others run before a release.
FAST = {("canary", "full"), ("wav2vec2", "full"), ("wav2vec2", "LoRA"), ("voxtral", "LoRA"), ("moonshine", "LoRA")}
CASES = [
    pytest.param(kind, adapter, marks=[pytest.mark.slow] * ((kind, adapter) not in FAST))
    for kind in KINDS
    for adapter in ("full", "LoRA")
]


def saved(tmp_path: Any, kind: str, adapter: str, rows: list[dict[str, Any]]) -> DPOTrainer:
    """A trainer that wrote its model and card to "out"; an adapter changes what its base says from the start on."""
    model, processor = talkative(kind)
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    base = type(model).from_pretrained(tmp_path / "base")
    lora = LoraConfig(r=8, lora_alpha=64, init_lora_weights=False) if adapter == "LoRA" else None
    options = {"train_dataset": rows, "processing_class": processor, "peft_config": lora}
    made = DPOTrainer(base, args=config(tmp_path / "out"), **options)
    made.save_model()
    return made


def rows_of(kind: str) -> list[dict[str, Any]]:
    if kind not in CTC:
        return pair_rows(4)
    return ctc_rows.pairs(4, seconds=2.8 if kind in SLOW_WRITERS else 1.6)


def said(made: DPOTrainer, **columns: Any) -> str:
    row = {"audio": {"array": tiny_clips(1)[0], "sampling_rate": SAMPLING_RATE}, **columns}
    return transcribe(made.model, made.processing_class, [row], progress=False)[0].strip()


# generate() of stock transducers warns of the limit that it sets itself
@pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`:UserWarning")
@WITHOUT_AUDIOREAD
@pytest.mark.parametrize(("kind", "adapter"), CASES)
def test_the_snippet_of_every_family_says_what_the_trained_model_says(tmp_path, capsys, kind, adapter):
    asked = {"language": LANGUAGES[kind]} if kind in LANGUAGES else {}
    rows = [{**row, **asked} for row in rows_of(kind)]
    made = saved(tmp_path, kind, adapter, rows)
    expected = said(made, **asked)
    assert expected
    if adapter == "LoRA":
        with safe_open(tmp_path / "out" / "adapter_model.safetensors", "pt") as file:
            assert all("lora_" in name for name in file.keys()), "the adapter alone, no head of the base"
        with made.model.disable_adapter():
            assert said(made, **asked) != expected
    _, text = card_of(tmp_path / "out")
    assert run_snippet(text, tmp_path, capsys) == expected
    assert ("pip install audiorl" in text) == ("from audiorl" in code_of(text))


@WITHOUT_AUDIOREAD
@pytest.mark.skipif("qwen2_audio" not in AUDIO_LLMS, reason="this release of transformers has no Qwen2-Audio")
@pytest.mark.parametrize("questions", [["Which animal is it?"] * 4, ["Who?", "Where?", "Who?", "How?"]])
def test_a_model_that_answers_questions_is_asked_one(tmp_path, capsys, questions):
    rows = [{**row, "prompt": question} for row, question in zip(pair_rows(4), questions, strict=True)]
    made = saved(tmp_path, "qwen2_audio", "full", rows)
    made.record_evaluation(Decoded(["dog", "so"], ["cat", "so"]), Decoded(["dog", "so"], ["dog", "so"]))
    data, text = card_of(tmp_path / "out")
    assert data["pipeline_tag"] == "audio-text-to-text" == data["model-index"][0]["results"][0]["task"]["type"]
    asked = questions[0] if len(set(questions)) == 1 else "your question about the clip"
    assert f'"prompt": "{asked}"' in code_of(text) and "Each answer is compared with the text of its row" in text
    assert run_snippet(text, tmp_path, capsys) == said(made, prompt=asked)


def test_a_card_says_how_hypotheses_were_searched_for_and_how_pairs_were_made(tmp_path):
    made = trainer(tmp_path / "out")
    made.record_data(mined_source(DataSource("rows.jsonl"), SpeechScriptArguments(num_generations=6)))
    worse = Decoded(["a dog", "a fox"] * 4, ["the dog", "the fox"] * 4)
    made.record_evaluation(Decoded(["a dog", "a fox"] * 4, ["a dog", "a fox"] * 4), worse)
    made.save_model()
    _, text = card_of(tmp_path / "out")
    assert "Decoding: search greedy, batch_size 2, max_length 24, return_timestamps False." in text
    assert "rejected the worst of 6 hypotheses that the model itself sampled before training, at temperature 1." in text
    assert "makes more errors than the model that training began with" in text


def test_a_run_on_transcripts_says_where_its_pairs_are_from(tmp_path):
    model, processor = tiny_whisper()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    for i, clip in enumerate(tiny_clips(2)):
        soundfile.write(tmp_path / f"{i}.wav", clip, SAMPLING_RATE)
    lines = (json.dumps({"audio": f"{i}.wav", "text": "the lazy dog"}) for i in range(2))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    flags = {**settings(tmp_path / "out"), "max_steps": 1, "num_generations": 3, "mining_temperature": 0.5}
    flags |= {"model_name_or_path": tmp_path / "base", "dataset_name": tmp_path / "rows.jsonl"}
    tune_on_pairs(DPOTrainer, DPOConfig, [word for name, value in flags.items() for word in (f"--{name}", str(value))])
    _, text = card_of(tmp_path / "out")
    assert " Chosen is a clip's transcript, rejected the worst of 3 hypotheses" in text
    assert "at temperature 0.5." in text


def test_a_checkpoint_as_base_is_named_with_the_run_it_is_of(tmp_path):
    model, _ = tiny_whisper()
    for name, expected in (("run/checkpoint-500", "run/checkpoint-500"), ("run/base", "base")):
        model.config._name_or_path = str(tmp_path / name)
        assert base_name(model) == (expected, False)
