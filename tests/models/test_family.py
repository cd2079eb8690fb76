"""The seam itself: who answers for a model, how calls get inside wrappers, what dropout is."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    BertConfig,
    BertModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperForAudioClassification,
)
from transformers.models.auto import modeling_auto

from audiorl.models import (
    FAMILIES,
    SpeechFamily,
    base_model,
    disable_dropout,
    family_class,
    model_class,
    register_family,
    run_inside,
    speech_family,
)
from audiorl.models.whisper import WhisperFamily
from audiorl.testing.case import group_batch
from tests.families.toys import ToyCTC, ToyCTCFamily, build_toy
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import tiny_clips, tiny_whisper
from tests.tiny_seq2seq import tiny_seq2seq

ROOT = Path(__file__).parents[2]


class Wrapper(nn.Module):
    """As DDP does, it holds the model as `module` and calls its forward."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.module(*args, **kwargs)


def test_the_family_follows_from_the_type_in_the_config():
    assert type(speech_family(*tiny_whisper("english"))) is WhisperFamily
    assert type(speech_family(*build_toy(ToyCTC))) is ToyCTCFamily


def test_a_family_shows_what_it_hears_and_how_it_samples():
    shown = repr(speech_family(*tiny_whisper("english")))
    assert shown.startswith("WhisperFamily(sampling_rate=16000, min_seconds=0.0, max_seconds=")
    assert shown.endswith("engine='dynamic')") and len(shown) < 110


def test_a_model_of_no_family_is_refused_with_the_known_ones():
    model = BertModel(
        BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    with pytest.raises(ValueError, match=r"type 'bert' \(BertModel\); known: .*'whisper'.*register_family"):
        speech_family(model, None)
    with pytest.raises(ValueError, match="Linear"):
        speech_family(nn.Linear(1, 1), None)


def test_a_registered_family_answers_and_may_replace_another(monkeypatch):
    class Mine(WhisperFamily):
        pass

    monkeypatch.setitem(FAMILIES, "whisper", FAMILIES["whisper"])
    register_family("whisper", Mine)
    assert type(speech_family(*tiny_whisper("english"))) is Mine


def test_a_registered_class_goes_before_the_type_and_holds_for_its_subclasses(monkeypatch):
    class Theirs(ToyCTC):
        pass

    class Ours(ToyCTCFamily):
        pass

    monkeypatch.setitem(FAMILIES, "ToyCTC", Ours)
    model, _ = build_toy(Theirs)
    assert family_class(model) is Ours and model.config.model_type == "toy_ctc"
    monkeypatch.setitem(FAMILIES, "Theirs", ToyCTCFamily)
    assert family_class(Wrapper(model)) is ToyCTCFamily


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Wav2Vec2Config(architectures=["Wav2Vec2ForSequenceClassification"]), Wav2Vec2ForSequenceClassification),
        (Wav2Vec2Config(architectures=["Wav2Vec2ForCTC"]), Wav2Vec2ForCTC),
        (Wav2Vec2Config(), Wav2Vec2ForCTC),
        (WhisperConfig(architectures=["WhisperForAudioClassification"]), WhisperForAudioClassification),
        (ASTConfig(), ASTForAudioClassification),
    ],
    ids=["labels", "ctc", "unnamed-wav2vec2", "whisper-labels", "unnamed-ast"],
)
def test_a_checkpoint_is_loaded_as_the_class_that_its_config_names(config, expected):
    assert model_class(config) is expected


def test_a_checkpoint_of_no_speech_model_is_refused():
    with pytest.raises(ValueError, match=r"type 'bert', names the class 'Mine'.*speech model"):
        model_class(BertConfig(architectures=["Mine"]))


@pytest.mark.parametrize("row", [{"language": "en"}, {"task": "transcribe"}])
def test_a_family_without_languages_refuses_to_choose_one(row):
    family = speech_family(*build_toy(ToyCTC))
    with pytest.raises(ValueError, match=r"ToyCTCFamily has no languages or tasks.*Leave them out"):
        family.set_defaults(**row)
    family.set_defaults(language=None, task=None)


@pytest.mark.parametrize(
    ("build", "taken"),
    [
        (lambda: tiny_whisper("multilingual"), "Use 'transcribe', or 'translate' (into English)"),
        (
            lambda: tiny_seq2seq("canary"),
            "Use 'transcribe', 'translate' (into English) or, for example, 'translate:de'",
        ),
        (lambda: tiny_seq2seq("moonshine"), "this model's only task is 'transcribe'"),
        (tiny_ctc, "its only task is 'transcribe'"),
        (
            lambda: tiny_audio_llm("qwen2_audio"),
            "this model's only task is 'transcribe', not 'summarise'; anything else is asked in the prompt",
        ),
    ],
    ids=["whisper", "canary", "moonshine", "ctc", "audio-llm"],
)
def test_a_family_that_refuses_a_task_says_what_it_takes(build, taken):
    family = speech_family(*build())
    with pytest.raises(ValueError, match=re.escape(taken)):
        family.tokenize("dog", language="en", task="summarise")
    family.tokenize("dog", language="en", task="transcribe")


def test_a_row_says_language_task_and_prompt(tiny_multilingual):
    family = speech_family(*tiny_multilingual)
    row = {
        "language": "de",
        "task": "translate",
        "prompt": "Hunde",
        "text": "nothing of this",
        "duration": 1.0,
    }
    expected = family.tokenize("der Fuchs", language="de", task="translate", prompt="Hunde")
    assert family.tokenize_row("der Fuchs", row) == expected
    assert family.tokenize_row("a", {"language": "en"}) == family.tokenize("a", language="en")


def test_the_base_is_found_inside_every_wrapper():
    model, _ = tiny_whisper("english")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    compiled = torch.compile(model, backend="eager")
    for wrapped in (model, adapted, compiled, Wrapper(model), Wrapper(adapted), Wrapper(compiled)):
        assert base_model(wrapped) is model


def test_a_call_runs_inside_the_wrappers_forward():
    model, processor = tiny_whisper("english")
    speech_family(model, processor)
    wrapped = Wrapper(get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])))
    assert run_inside(wrapped, lambda base: (base, base.training)) == (model, model.training)
    assert wrapped.calls == 1


def test_asking_twice_installs_once():
    model, processor = tiny_whisper("english")
    speech_family(model, processor)
    first = model.forward
    speech_family(model, processor)
    assert model.forward == first
    assert run_inside(model, lambda base: base) is model


def test_generate_and_trainer_still_see_the_stock_signature():
    model, processor = tiny_whisper("english")
    stock = list(inspect.signature(model.forward).parameters)
    speech_family(model, processor)
    assert list(inspect.signature(model.forward).parameters) == stock
    with pytest.raises(ValueError, match="no_such_argument"):
        model.generate(torch.zeros(1, 80, 100), no_such_argument=1)


def test_a_copy_of_an_installed_model_answers_with_itself():
    model, processor = tiny_whisper("english")
    speech_family(model, processor)
    duplicate = copy.deepcopy(model)
    assert run_inside(duplicate, lambda base: base) is duplicate
    assert run_inside(model, lambda base: base) is model


def test_disabled_dropout_is_zero_everywhere_and_the_config_keeps_its_values():
    model, _ = tiny_whisper(
        "english", dropout=0.1, attention_dropout=0.2, activation_dropout=0.3, decoder_layerdrop=0.4
    )
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.5))
    disable_dropout(adapted)
    left = [
        (name, attribute, value)
        for name, module in adapted.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, float) and ("drop" in attribute or (isinstance(module, nn.Dropout) and attribute == "p"))
        if value != 0.0
    ]
    assert left == []
    config = model.config
    assert (config.dropout, config.attention_dropout, config.activation_dropout) == (0.1, 0.2, 0.3)
    assert config.decoder_layerdrop == 0.4


def test_the_encoder_counts_as_frozen_with_an_adapter_in_the_decoder_only():
    for targets, frozen in (
        (r".*decoder.*q_proj", True),
        (r".*encoder\.layers.*q_proj", False),
        (r".*q_proj", False),
    ):
        model, processor = tiny_whisper("english")
        family = speech_family(model, processor)
        assert not family.encoder_is_frozen(model)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets))
        assert family.encoder_is_frozen(adapted) is frozen
        batch = group_batch(family, tiny_clips(1), [["a dog", "dog"]])
        assert family.encode(adapted, batch).requires_grad is not frozen


def test_freezing_the_encoder_leaves_the_rest_trainable():
    model, processor = tiny_whisper("english")
    family = speech_family(model, processor)
    family.freeze_encoder(model)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if not name.startswith("model.encoder")}


def test_the_seam_asks_for_these_answers_and_no_others():
    """A family written against the seam breaks when a method is added that it does not have."""
    assert SpeechFamily.__abstractmethods__ == {
        "features",
        "tokenize",
        "text",
        "transcribe",
        "encoder_parameters",
        "_encode",
        "_score",
        "_sample",
    }


def test_checkpointed_layers_sample_in_training_mode_as_in_evaluation():
    """In training mode they forget their cache, and every token would be the first."""
    model, processor = tiny_whisper("english")
    family = speech_family(model, processor)
    batch = group_batch(family, tiny_clips(2), [["a dog"], ["dog"]])
    noise = torch.rand(2, 3, 12, dtype=torch.float64)
    expected = family.sample_groups(model, batch, noise)
    # transformers 5.23 renamed it and warns of the old name, older ones know no other
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.train()
    model.model.encoder.eval()
    found = family.sample_groups(model, batch, noise)
    assert torch.equal(found.tokens, expected.tokens)
    assert model.training and model.model.decoder.training and not model.model.encoder.training


def test_the_page_says_how_long_families_are():
    """Lines that are not empty: of the page's own families, and of the library's by their names."""
    page = (ROOT / "docs/pages/extending/family.md").read_text(encoding="utf-8")
    code = "\n".join([page, *(path.read_text(encoding="utf-8") for path in (ROOT / "audiorl/models").glob("*.py"))])

    def lines(name: str) -> int:
        block = re.search(rf"^class {name}\(.*?(?=^\S|\Z)", code, re.DOTALL | re.MULTILINE)
        return sum(bool(line.strip()) for line in block[0].splitlines())

    said = re.findall(r"^\| (`\w+Family`.*?|`\w+Text`.*?) \| .* \| (\d+) \|$", page, re.MULTILINE)
    assert len(said) == 9
    found = [(who, sum(map(lines, re.findall(r"`(\w+)`", who)))) for who, _ in said]
    assert found == [(who, int(number)) for who, number in said]
    assert f"This family is {lines('LetterFamily')} lines." in page


def test_every_speech_model_of_transformers_has_a_family_or_a_reason_on_the_page():
    page = (Path(__file__).parents[2] / "docs" / "pages" / "families.md").read_text(encoding="utf-8")
    kinds = ("SPEECH_SEQ_2_SEQ", "CTC", "RNNT", "TDT")
    listed = [getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES", {}) for kind in kinds]
    models = {name: names for mapping in listed for name, names in mapping.items()}
    assert len(models) > 30 and "whisper" in models
    for model_type, names in models.items():
        classes = (names,) if isinstance(names, str) else names
        known = any(name in FAMILIES for name in (model_type, *classes))
        assert known != (f"`{model_type}`" in page), f"{model_type}: {'named as missing' if known else 'not a word'}"
