"""Whisper's prefixes, spaces and special tokens, against lists written by hand and transformers' own tokenizer."""

from __future__ import annotations

import pytest

from audiorl.models.whisper_text import WhisperText
from tests.tiny_models import tiny_whisper


def text_side(kind: str, max_tokens: int = 48) -> WhisperText:
    model, processor = tiny_whisper(kind)
    return WhisperText(
        processor.tokenizer, model.config.vocab_size, max_tokens, model.generation_config.is_multilingual
    )


@pytest.fixture
def english() -> WhisperText:
    return text_side("english")


@pytest.fixture
def multilingual() -> WhisperText:
    return text_side("multilingual")


def written(side: WhisperText, ids: list[int]) -> list[str]:
    return side.tokenizer.convert_ids_to_tokens(ids)


def pieces(side: WhisperText, text: str) -> list[str]:
    return side.tokenizer.tokenize(text)


def test_english_only_prefix_by_hand(english):
    found = english.tokenize("the dog")
    prefix = ["<|startoftranscript|>", "<|notimestamps|>"]
    assert written(english, found.ids) == [*prefix, *pieces(english, " the dog"), "<|endoftext|>"]
    assert found.first_kept == 2


@pytest.mark.parametrize("language", ["de", "german", " German ", "DE", "de-AT", "de_de", "<|de|>", "German (Austria)"])
@pytest.mark.parametrize("task", ["transcribe", "translate"])
def test_multilingual_prefix_by_hand(multilingual, language, task):
    found = multilingual.tokenize("ein Hund", language=language, task=task)
    prefix = ["<|startoftranscript|>", "<|de|>", f"<|{task}|>", "<|notimestamps|>"]
    assert written(multilingual, found.ids) == [*prefix, *pieces(multilingual, " ein Hund"), "<|endoftext|>"]
    assert found.first_kept == 4


def test_prefix_equals_that_of_transformers_tokenizer(english, multilingual):
    assert english.tokenize("a").ids[:2] == english.tokenizer.prefix_tokens
    tokenizer = multilingual.tokenizer
    for language in ("english", "chinese", "german"):
        for task in ("transcribe", "translate"):
            tokenizer.set_prefix_tokens(language=language, task=task)
            found = multilingual.tokenize("the dog", language=language, task=task)
            # transformers writes what it is given, OpenAI's checkpoints begin with a space where the language has them
            begins = "the dog" if (language, task) == ("chinese", "transcribe") else " the dog"
            assert found.ids == tokenizer(begins).input_ids
            assert found.ids[: found.first_kept] == tokenizer.prefix_tokens


def test_english_tokenizer_that_was_given_a_language_keeps_its_prefix():
    """transformers puts an end token into the prefix of an English-only checkpoint with language="en"."""
    _, processor = tiny_whisper("english")
    expected = text_side("english").tokenize("a dog")
    processor.tokenizer.set_prefix_tokens(language="en", task="transcribe")
    assert processor.tokenizer.eos_token_id in processor.tokenizer.prefix_tokens
    spoilt = WhisperText(processor.tokenizer, 283, 48)
    assert spoilt.tokenize("a dog") == expected == spoilt.tokenize("a dog", language="English")


def test_prompt_stands_before_the_start_and_does_not_count(multilingual):
    plain = multilingual.tokenize("hier", language="de")
    found = multilingual.tokenize("hier", language="de", prompt=" Namen: Fuchs ")
    prompt = ["<|startofprev|>", *pieces(multilingual, " Namen: Fuchs")]
    assert written(multilingual, found.ids) == [*prompt, *written(multilingual, plain.ids)]
    assert found.first_kept == plain.first_kept + len(prompt)
    for nothing in (None, ""):
        assert multilingual.tokenize("hier", language="de", prompt=nothing) == plain


@pytest.mark.parametrize(
    "text, language, begins",
    [
        ("the dog", "en", " the dog"),
        ("  the dog \n", "en", " the dog"),
        ("über", "de", " über"),
        ("नमस्ते", "hindi", " नमस्ते"),
        ("3 dogs", "en", " 3 dogs"),
        ("你好世界", "zh", "你好世界"),
        (" 你好", "zh-CN", "你好"),
        ("2024年", "chinese", "2024年"),
        ("OK 好", "<|zh|>", "OK 好"),
        ("（笑）", "zh", "（笑）"),  # noqa: RUF001
        ("ﾃｽﾄ", "zh", "ﾃｽﾄ"),
        ("你好", "en", " 你好"),  # the language decides, whatever the script
    ],
)
def test_first_space_where_the_language_writes_spaces(multilingual, text, language, begins):
    found = multilingual.tokenize(text, language=language)
    assert written(multilingual, found.ids[found.first_kept : -1]) == pieces(multilingual, begins)
    assert multilingual.decode(found.ids[found.first_kept :]) == begins.strip()


def test_a_translation_is_english_and_begins_with_a_space(multilingual):
    found = multilingual.tokenize("hello", language="zh", task="translate")
    assert written(multilingual, found.ids[found.first_kept : -1]) == pieces(multilingual, " hello")


def test_empty_transcript_is_its_end_token(english):
    for nothing in ("", "  \n"):
        found = english.tokenize(nothing)
        assert found.ids[found.first_kept :] == [english.end]


def test_words_and_last_time_of_a_timed_transcript(multilingual):
    """The words are those that the transcript's tokens decode to."""
    for text, language in (
        ("<|0.00|> the dog<|0.50|><|0.50|>barks<|1.20|>", "en"),
        ("<|0.00|>你好<|0.50|>世界<|1.20|>", "zh"),
        ("<|0.00|>2024年<|0.50|>3月<|1.20|>", "zh"),
        ("<|0.00|>你好<|0.50|>AI<|1.20|>", "zh"),
        ("<|0.00|>a<|1.20|>", "de"),
    ):
        assert multilingual.words(text) == multilingual.decode(multilingual.tokenize(text, language=language).ids)
        assert multilingual.last_time(text) == 1.2
    assert multilingual.words("<|0.00|>你好<|0.50|>世界<|1.20|>") == "你好世界"
    assert multilingual.words("as  it is") == "as  it is"
    assert multilingual.last_time("as it is") is None


def test_timestamps_by_hand(multilingual):
    """A transcript that begins with a timestamp has no <|notimestamps|>, and each segment begins with a space."""
    found = multilingual.tokenize("<|0.00|>the dog<|0.50|><|0.50|> 你好<|1.00|>", language="en")
    prefix = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>"]
    first = ["<|0.00|>", *pieces(multilingual, " the dog"), "<|0.50|>"]
    second = ["<|0.50|>", *pieces(multilingual, " 你好"), "<|1.00|>"]
    assert written(multilingual, found.ids) == [*prefix, *first, *second, "<|endoftext|>"]
    assert found.first_kept == 3
    assert multilingual.decode(found.ids) == "the dog 你好"


def test_decoding_strips_every_special_token(multilingual):
    found = multilingual.tokenize("ein Hund", language="de", task="translate")
    assert multilingual.decode(found.ids) == "ein Hund"
    assert multilingual.decode([multilingual.end] * 3) == ""


@pytest.mark.parametrize(
    "text, row, problem, remedy",
    [
        ("a <|endoftext|> b", {"language": "en"}, r"special tokens .*<\|endoftext\|>", "Remove"),
        (
            "a <|startoftranscript|> b",
            {"language": "en"},
            r"special tokens .*<\|startoftranscript\|>",
            "Remove",
        ),
        ("a <|de|> b", {"language": "en"}, r"special tokens .*<\|de\|>", "Remove"),
        ("a", {"language": "en", "prompt": "b <|endoftext|>"}, r"prompt contains .*<\|endoftext\|>", "Remove"),
        ("a", {"language": "en", "prompt": "<|0.00|> hello"}, r"prompt contains .*<\|0.00\|>", "Remove"),
        ("a", {"language": "auto"}, "languages are not detected in training", "Name the language"),
        ("<|0.01|>a", {"language": "en"}, r"unknown timestamp <\|0.01\|>", "multiples of 0.02"),
        ("<|5.00|>a", {"language": "en"}, r"unknown timestamp <\|5.00\|>", "inside the window"),
        ("<|1.00|>a<|0.98|>", {"language": "en"}, "go back from 1.00 s to 0.98 s", "in order"),
        ("a<|0.50|>", {"language": "en"}, "does not begin with one", "Begin it"),
        ("a", {"language": "klingon"}, "unknown language 'klingon'", "name or code"),
        ("a", {"language": "germn"}, "unknown language 'germn'.*did you mean 'german'", "name or code"),
        ("a", {"language": "french"}, "unknown language 'french' for this checkpoint. Use", "name or code"),
        ("a", {"language": "hindu"}, "unknown language 'hindu'.*did you mean 'hindi'", "name or code"),
        (
            "a",
            {"language": "en", "task": "transcibe"},
            "unknown task 'transcibe'",
            "Use 'transcribe', or 'translate' (into English)",
        ),
        ("a", {}, "no language is named", "language column or set language"),
        ("a " * 60, {"language": "en"}, "makes .* tokens .* 48 positions", "shorter pieces"),
    ],
)
def test_what_the_multilingual_checkpoint_refuses(multilingual, text, row, problem, remedy):
    with pytest.raises(ValueError, match=problem) as raised:
        multilingual.tokenize(text, **row)
    assert remedy in str(raised.value)


@pytest.mark.parametrize(
    "text, row, problem, remedy",
    [
        ("a", {"language": "de"}, "only transcribes English.*'de'", "multilingual checkpoint"),
        ("a", {"task": "translate"}, "only transcribes English.*'translate'", "multilingual checkpoint"),
        ("a", {"prompt": "names"}, r"takes no prompt.*<\|startofprev\|>", "Drop the prompt"),
        ("<|0.00|>a", {}, r"unknown timestamp <\|0.00\|>", "multiples"),
        ("a <|notimestamps|>", {}, r"special tokens .*<\|notimestamps\|>", "Remove"),
    ],
)
def test_what_the_english_checkpoint_refuses(english, text, row, problem, remedy):
    with pytest.raises(ValueError, match=problem) as raised:
        english.tokenize(text, **row)
    assert remedy in str(raised.value)


def test_longest_transcript_is_taken_whole_and_one_more_token_is_refused():
    side = text_side("english")
    length = len(side.tokenize("the quick dog").ids)
    assert len(text_side("english", length).tokenize("the quick dog").ids) == length
    with pytest.raises(ValueError, match=f"makes {length} tokens .* {length - 1} positions"):
        text_side("english", length - 1).tokenize("the quick dog")


def test_defaults_serve_rows_that_name_nothing(multilingual):
    multilingual.set_defaults(language="german", task="translate")
    assert multilingual.tokenize("a") == multilingual.tokenize("a", language="de", task="translate")
    in_english = multilingual.tokenize("a", language="en", task="transcribe")
    assert written(multilingual, in_english.ids)[1:3] == ["<|en|>", "<|transcribe|>"]
    multilingual.set_defaults(language=None, task=None)
    assert multilingual.default_language == "german" and multilingual.default_task == "translate"


def test_default_language_comes_from_the_processor():
    model, processor = tiny_whisper("multilingual")
    processor.tokenizer.set_prefix_tokens(language="hindi", task="translate")
    side = WhisperText(processor.tokenizer, model.config.vocab_size, 48, True)
    assert written(side, side.tokenize("a").ids)[1:3] == ["<|hi|>", "<|translate|>"]


def test_default_task_alone_needs_no_default_language(multilingual):
    multilingual.set_defaults(language=None, task="translate")
    assert written(multilingual, multilingual.tokenize("a", language="de").ids)[1:3] == [
        "<|de|>",
        "<|translate|>",
    ]


@pytest.mark.parametrize(
    "kind, defaults, problem",
    [
        ("multilingual", {"language": "klingon", "task": None}, "unknown language 'klingon'"),
        ("multilingual", {"language": None, "task": "summarise"}, "unknown task 'summarise'"),
        ("english", {"language": "german", "task": None}, "only transcribes English"),
        ("english", {"language": None, "task": "translate"}, "only transcribes English"),
    ],
)
def test_wrong_defaults_are_refused_and_nothing_changes(kind, defaults, problem):
    side = text_side(kind)
    with pytest.raises(ValueError, match=problem):
        side.set_defaults(**defaults)
    assert side.default_language is None and side.default_task == "transcribe"


def test_generate_is_told_language_and_task(english, multilingual):
    assert english.generation_language(["en", None], "transcribe") == {}
    assert multilingual.generation_language(None, "transcribe") == {}
    assert multilingual.generation_language(None, "translate") == {"task": "translate"}
    two = multilingual.generation_language(["de", "zh"], "translate")
    assert two == {"language": ["de", "zh"], "task": "translate"}
    multilingual.set_defaults(language="hi", task=None)
    assert multilingual.generation_language(None, "transcribe") == {"language": "hi", "task": "transcribe"}
    filled = multilingual.generation_language([None, "de"], "transcribe")
    assert filled["language"] == ["hi", "de"]


@pytest.mark.parametrize(
    "kind, languages, problem",
    [
        ("multilingual", ["de", None], "Some rows of the batch name a language and some do not"),
        ("multilingual", ["klingon"], "unknown language 'klingon'"),
        ("english", ["de"], "only transcribes English"),
    ],
)
def test_generate_is_not_told_nonsense(kind, languages, problem):
    with pytest.raises(ValueError, match=problem):
        text_side(kind).generation_language(languages, "transcribe")


def test_tokenizer_of_another_model_is_refused():
    _, processor = tiny_whisper("multilingual")
    with pytest.raises(ValueError, match=r"does not fit the model.* 390.*own checkpoint"):
        WhisperText(processor.tokenizer, 283, 48)


def test_tokenizer_without_whispers_tokens_is_refused():
    _, processor = tiny_whisper("english")

    class Other:
        def get_vocab(self) -> dict[str, int]:
            return {token: i for token, i in processor.tokenizer.get_vocab().items() if token != "<|endoftext|>"}

    with pytest.raises(ValueError, match=r"lacks \['<\|endoftext\|>'\].*own checkpoint"):
        WhisperText(Other(), 283, 48)
