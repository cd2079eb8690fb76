"""Oracle: letters counted by hand, and the letters of each language's own name for itself."""

import pytest

from audiorl.rewards import STOCK_PHRASES, NoStockPhrases, RightScript
from audiorl.rewards.language import LANGUAGE_SCRIPTS, script_of, scripts_of_language
from tests.rewards.examples import score_one


@pytest.mark.parametrize(
    ("language", "transcript", "hypothesis", "expected"),
    [
        ("en", "hello there", "hello there", 0),
        ("en", "hello there", "你好世界", -1),
        ("en-US", "hello there", "你好世界", -1),
        ("English", "hello there", "привет", -1),
        ("zh", "今天天气很好", "the weather is nice", -1),
        ("<|zh|>", "今天天气很好", "今天天气不好", 0),
        # Latin letters are in the transcript
        ("zh", "我买了 iphone", "i bought iphone", 0),
        (None, "привет", "hello", -1),
        (None, "привет", "Привет!", 0),
        ("sr", "здраво", "zdravo", 0),
        # 3 of 8 letters, 13 of 15, half of six
        ("en", "hello world", "hello мир", 0),
        ("en", "hi world", "hi, прекрасный мир", -1),
        ("en", "cat", "cat мир", 0),
        # silence
        ("en", "", "привет", -1),
        (None, "", "привет", 0),
        # no letters
        ("en", "hello", "", 0),
        ("en", "hello", "123 !", 0),
        # a language that is not listed: the transcript's script
        ("tlh", "hello", "привет", -1),
        ("tlh", "hello", "hola", 0),
        # the long-vowel sign is Hiragana's and Katakana's
        ("ja", "東京です", "ラーメン", 0),
        ("ja", "東京です", "서울입니다", -1),
        # one script for two languages: not seen
        ("en", "hello there", "guten tag", 0),
        # the language says what is right where the transcript is romanised
        ("hi", "namaste", "नमस्ते", 0),
        (None, None, "привет", None),
        ("en", None, "привет", -1),
    ],
)
def test_language_worked_by_hand(language, transcript, hypothesis, expected):
    assert score_one("language", hypothesis, text=transcript, language=language) == expected


def test_rows_need_no_language():
    assert score_one("language", "привет", text="hello") == -1


def test_the_share_of_foreign_letters_is_a_setting():
    assert score_one(RightScript(max_foreign=0), "hello м", text="hello", language="en") == -1
    assert score_one(RightScript(max_foreign=0.9), "hi прекрасный", text="hello", language="en") == 0
    for wrong in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="share of foreign letters"):
            RightScript(max_foreign=wrong)


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("en", "English"),
        ("ru", "русский"),
        ("ar", "العربية"),
        ("he", "עברית"),
        ("el", "Ελληνικά"),
        ("hi", "हिन्दी"),
        ("bn", "বাংলা"),
        ("pa", "ਪੰਜਾਬੀ"),
        ("gu", "ગુજરાતી"),
        ("ta", "தமிழ்"),
        ("te", "తెలుగు"),
        ("kn", "ಕನ್ನಡ"),
        ("ml", "മലയാളം"),
        ("si", "සිංහල"),
        ("th", "ไทย"),
        ("lo", "ລາວ"),
        ("bo", "བོད་སྐད་"),
        ("my", "မြန်မာ"),
        ("km", "ខ្មែរ"),
        ("ka", "ქართული"),
        ("hy", "Հայերեն"),
        ("am", "አማርኛ"),
        ("ko", "한국어"),
        ("ja", "にほんご"),
        ("zh", "中文"),
        ("yue", "粵語"),
    ],
)
def test_each_script_is_known_and_foreign_to_another(language, name):
    assert {script_of(letter) for letter in name if letter.isalpha()} <= scripts_of_language(language)
    assert score_one("language", name, text="", language=language) == 0
    assert score_one("language", name, text="", language="en" if language != "en" else "ru") == -1


def test_every_language_of_whisper_has_its_scripts():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    assert set(LANGUAGES) <= set(LANGUAGE_SCRIPTS)
    assert scripts_of_language("cantonese") == {"Han"}


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", 0),
        ("the cat sat", "the cat sat. Thanks for watching!", -1),
        ("", "Thank you for watching.", -1),
        # so common in speech that it proves nothing
        ("", "Thank you.", 0),
        ("thanks for watching", "Thanks for watching", 0),
        ("thanks for watching", "thanks for watching thanks for watching", -1),
        # whole words
        ("", "he prefers subtitles byzantine scholars wrote", 0),
        ("", "Untertitel im Auftrag des ZDF für funk, 2017", -1),
        ("", "ご視聴ありがとうございました", -1),
        ("今天", "今天请不吝点赞 订阅 转发", -1),
        ("", "Субтитры сделал DimaTorzok", -1),
        ("", "", 0),
        (None, "thanks for watching", None),
    ],
)
def test_stock_phrases_worked_by_hand(transcript, hypothesis, expected):
    assert score_one("stock_phrases", hypothesis, text=transcript) == expected


def test_every_stock_phrase_is_found_by_itself():
    for phrases in STOCK_PHRASES.values():
        for phrase in phrases:
            assert score_one("stock_phrases", f"{phrase}.", text="") == -1, phrase
            assert score_one("stock_phrases", f"{phrase}.", text=phrase) == 0, phrase


def test_phrases_are_a_setting():
    reward = NoStockPhrases(phrases=["Over and out"])
    assert [score_one(reward, said, text="") for said in ("over and out", "thanks for watching")] == [-1, 0]
    for wrong in ([], ["..."]):
        with pytest.raises(ValueError, match="phrases of words"):
            NoStockPhrases(phrases=wrong)
