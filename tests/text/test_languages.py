"""What may name a language, before there is a model to ask."""

from __future__ import annotations

import pytest
from transformers.models.canary.processing_canary import LANGUAGE_CODE_TO_NAME as CANARY
from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME as QWEN

from audiorl.pairs import MiningConfig
from audiorl.text.languages import check_language, language_names
from audiorl.trainers.sft import SFTConfig


@pytest.mark.parametrize(
    "written",
    [
        *(None, "", "en", " EN ", "en-US", "pt_BR", "cmn_hans_cn", "eng_Latn", "<|en|>", "auto", "deu", "zh-yue", "iw"),
        *("English", "Haitian Creole", "haitian_creole", "Portuguese (Brazil)", "Filipino", "Zulu", "Northern Sotho"),
    ],
)
def test_however_a_language_is_written_it_passes(written):
    check_language(written, "--language")


def test_every_language_of_a_family_passes():
    for names in ({code: name for name, code in language_names().items()}, language_names(), CANARY, QWEN):
        for code, name in names.items():
            check_language(code, "--language")
            check_language(name, "--language")


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("germn", "Did you mean 'german'? "),
        ("Haitain Creole", "Did you mean 'haitian creole'? "),
        ("jp", "Did you mean 'ja'? "),
        ("Deutsch", "Did you mean 'german'? "),
        ("klingon", ""),
        ("xx", ""),
        ("1", ""),
    ],
)
def test_what_is_no_language_is_told_with_the_nearest(written, hint):
    with pytest.raises(ValueError) as refused:
        check_language(written, "--language")
    assert str(refused.value) == (
        f"--language: no language is called {written!r}. {hint}Write an English name or an ISO 639 code."
    )


def test_configs_refuse_it_when_they_are_built(tmp_path):
    with pytest.raises(ValueError, match=r"SFTConfig.language: no language is called 'klingon'"):
        SFTConfig(output_dir=str(tmp_path), language="klingon", use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=r"MiningConfig.language: no language is called 'englsh'. Did you mean 'engl"):
        MiningConfig(language="englsh")
