"""Oracles: texts worked by hand, and transformers' own normalisers where they are right."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from audiorl.text.normalizers import NORMALIZERS, Normalizer, normalizer

# two parts of one word, kept apart by a joiner that does not join
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
HINDI = "हिन्दी में बोलो।"


class TokenizerWithSpelling:
    english_spelling_normalizer = {"colour": "color"}  # noqa: RUF012


class ProcessorWithSpelling:
    tokenizer = TokenizerWithSpelling()


class ProcessorWithoutSpelling:
    class tokenizer:
        english_spelling_normalizer = None


def words(name, text):
    return normalizer(name)(text).split()


def test_transformers_basic_normaliser_still_breaks_hindi_as_the_docstring_says():
    assert BasicTextNormalizer()("हिन्दी").split() == ["ह", "न", "द"]
    assert words("whisper_basic", "हिन्दी") == ["ह", "न", "द"]
    assert BasicTextNormalizer(remove_diacritics=True)("हिन्दी").split() == ["ह", "नद"]


def test_basic_keeps_hindi_words_whole_and_drops_the_danda():
    assert words("basic", HINDI) == ["हिन्दी", "में", "बोलो"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("กำลัง ก็", ["กําลัง", "ก็"]),
        ("ọ̀rọ̀", ["ọ̀rọ̀"]),
        ("தமிழ், மொழி", ["தமிழ்", "மொழி"]),
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("cafe\u0301", ["caf\u00e9"]),
        (PERSIAN, [PERSIAN]),
    ],
    ids=["thai", "yoruba", "tamil", "arabic", "decomposed", "persian joiner"],
)
def test_basic_keeps_marks_that_belong_to_letters(text, expected):
    assert words("basic", text) == [unicodedata.normalize("NFKC", word) for word in expected]


def test_basic_leaves_no_mark_of_a_symbol_behind():
    assert words("basic", "I ❤\ufe0f you 1\ufe0f\u20e3 \U0001f468\u200d\U0001f469") == ["i", "you", "1"]


def test_basic_removes_what_stands_in_brackets():
    assert words("basic", "[noise] Yes (laughs) <unk> sir!") == ["yes", "sir"]


letters_without_marks = st.text(
    st.characters(exclude_categories=["Mn", "Mc", "Me", "Cf", "Cs", "Cn"]), max_size=40
).filter(
    lambda text: (
        not any(
            unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")
            for character in unicodedata.normalize("NFKC", text.lower())
        )
    )
)


@given(letters_without_marks)
def test_basic_equals_transformers_on_text_without_marks(text):
    assert words("basic", text) == BasicTextNormalizer()(text).split()


def test_english_equals_transformers_with_an_empty_spelling_table():
    text = "Mr. Smith's colour, it's twenty-one uh dollars [noise]"
    found = normalizer("english")
    assert found.name == "english"
    assert found(text) == EnglishTextNormalizer({})(text)
    assert found(text).split()[:2] == ["mister", "smith"]
    assert "colour" in found(text).split()


def test_english_takes_the_spelling_table_of_a_processor_and_says_so():
    for source in (ProcessorWithSpelling(), TokenizerWithSpelling()):
        found = normalizer("english", processor=source)
        assert found.name == "english+spelling"
        assert found("The colour") == "the color"


def test_english_without_a_table_in_the_tokenizer_does_not_fail():
    found = normalizer("english", processor=ProcessorWithoutSpelling())
    assert (found.name, found("The colour")) == ("english", "the colour")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't -- stop, CO-worker!", "don't stop co worker"),
        ("\u2018Rock\u2019n\u2019roll\u2019 ", "rock'n'roll"),
        (" \t a\n b ", "a b"),
        ("...", ""),
        (HINDI, "हिन्दी में बोलो"),
        ("", ""),
        ("'", ""),
    ],
)
def test_lower_by_hand(text, expected):
    assert normalizer("lower")(text) == expected


def test_none_changes_nothing():
    assert normalizer("none")("  Ä, b \n") == "  Ä, b \n"


def test_a_function_of_the_callers_own_keeps_its_name():
    assert normalizer(str.upper)("ab") == "AB"
    assert normalizer(str.upper).name == "str.upper"
    assert normalizer(BasicTextNormalizer()).name == "BasicTextNormalizer"


def test_a_normaliser_passes_through():
    mine = Normalizer("mine", str.strip)
    assert normalizer(mine) is mine


@pytest.mark.parametrize(("wrong", "nearest"), [("basics", "'basic'"), ("englsh", "'english'"), ("", "Did you mean")])
def test_an_unknown_name_is_refused_with_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match="No normalizer is called") as fault:
        normalizer(wrong)
    assert nearest in str(fault.value)
    assert all(name in str(fault.value) for name in NORMALIZERS)


@given(st.text(max_size=60))
def test_every_normaliser_takes_any_text(text):
    for name in NORMALIZERS:
        assert isinstance(normalizer(name)(text), str)


@given(st.text(max_size=60))
def test_basic_and_lower_leave_single_spaces_only(text):
    for name in ("basic", "lower"):
        once = normalizer(name)(text)
        assert once == " ".join(once.split())
