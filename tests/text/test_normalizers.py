"""Oracles: texts worked by hand, and transformers' own normalisers where they are right."""

import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from audiorl.text.error_rates import count_errors
from audiorl.text.normalizers import NORMALIZERS, Normalizer, as_seen, composed, normalizer

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


def differs_from_transformers_on_purpose(text):
    marks = any(
        unicodedata.category(c) in ("Mn", "Mc", "Me", "Cf") for c in unicodedata.normalize("NFKC", text.lower())
    )
    # apostrophes that are letters to Unicode, marks over Armenian letters, fillers that nobody sees
    return marks or any(c in "\u02bb\u02bc\ua78c\u055b\u055c\u055e\u055f\u0130" or as_seen(c) == "" for c in text)


letters_without_marks = st.text(
    st.characters(exclude_categories=["Mn", "Mc", "Me", "Cf", "Cs", "Cn"]), max_size=40
).filter(lambda text: not differs_from_transformers_on_purpose(text))


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


# ---- texts that look alike ----

INVISIBLE = {
    "right-to-left mark": "\u200f",
    "left-to-right mark": "\u200e",
    "soft hyphen": "\u00ad",
    "zero-width space": "\u200b",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "embedding": "\u202b",
    "isolate": "\u2067",
    "variation selector": "\ufe0f",
    "grapheme joiner": "\u034f",
    "annotation": "\ufff9",
    "tag": "\U000e0041",
}
APOSTROPHES = "\u2018\u2019\u201b\u2032\u0060\u00b4\u02bb\u02bc\uff07"


def errors(name, one, other, unit="word"):
    return count_errors([one], [other], unit=unit, normalise=name).total.errors


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize("invisible", INVISIBLE.values(), ids=INVISIBLE)
def test_invisible_characters_are_no_errors(name, invisible):
    for text in (
        "shalom olam",
        "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        "na\u00efve caf\u00e9",
        "a",
    ):
        after_letters = "".join(c + invisible if c.isalpha() else c for c in text)
        after_words = " ".join(word + invisible for word in text.split())
        for variant in (after_letters, after_words, invisible + text):
            assert errors(name, text, variant) == errors(name, variant, text) == 0
            assert errors(name, text, variant, unit="character") == 0


def test_joiners_count_where_they_are_spelling_and_nowhere_else():
    apart, together = PERSIAN, PERSIAN.replace("\u200c", "")
    assert as_seen(apart) == apart and errors("lower", apart, together) == 1
    conjunct = "\u0915\u094d\u200d\u0937"  # ka, virama, joiner, ssa: half a letter
    assert as_seen(conjunct) == conjunct
    for elsewhere in (
        "a\u200cb",
        "a\u200db\u200c",
        "\u200c" + together,
        together + "\u200c",
        "\u0627\u200c\u0628",
        "e\u200d\u0301",
    ):
        assert as_seen(elsewhere) == unicodedata.normalize("NFC", elsewhere.replace("\u200c", "").replace("\u200d", ""))


@pytest.mark.parametrize("name", ["lower", "basic", "english"])
@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        (
            "\u053b\u0576\u0579\u057a\u0565\u055e\u057d \u0565\u057d",
            "\u053b\u0576\u0579\u057a\u0565\u057d \u0565\u057d",
        ),  # a question
        ("\u0548\u055b\u0579", "\u0578\u0579"),  # stress
        ("\u0532\u0561\u0580\u0587\u055c", "\u0562\u0561\u0580\u0587"),  # an exclamation
    ],
)
def test_marks_over_letters_do_not_cut_armenian_words(name, marked, plain):
    assert errors(name, marked, plain) == errors(name, plain, marked) == 0


@pytest.mark.parametrize("name", ["lower", "basic", "english"])
@pytest.mark.parametrize("apostrophe", APOSTROPHES)
def test_every_apostrophe_is_one(name, apostrophe):
    for text in (
        "don't",
        "it's Bill's and the dogs'",
        "rock 'n' roll",
        "o'zbek so'z",
        "\u043c'\u044f\u0441\u043e",
        "'tis",
    ):
        assert (
            errors(name, text, text.replace("'", apostrophe)) == errors(name, text.replace("'", apostrophe), text) == 0
        )
    assert normalizer("lower")(f"don{apostrophe}t") == "don't"


@pytest.mark.parametrize("name", ["lower", "basic", "english"])
def test_the_turkish_dotted_i_is_an_i(name):
    for dotted in ("\u0130stanbul", "I\u0307stanbul", "i\u0307stanbul", "\u0130STANBUL"):
        assert errors(name, dotted, "istanbul") == errors(name, "istanbul", dotted) == 0


@pytest.mark.parametrize("name", NORMALIZERS)
def test_composed_and_decomposed_letters_are_the_same(name):
    for text in ("caf\u00e9", "\u1ecd\u0300r\u1ecd\u0300", "\u0439", "\uac00\ub098", "J\u030c J\u030c", "\u1f88"):
        assert errors(name, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)) == 0
    # lower case composes what upper case cannot
    assert name in ("none",) or errors(name, "J\u030co", "\u01f0o") == 0


any_text = st.text(max_size=30) | st.text(
    st.sampled_from(
        "aI\u0130i\u0307\u0301 '.\u200c\u200d\u06cc\u0915\u094d\u0f73\u03a3\u1fef<(\u0338)>\u1100\u1161\u055e\ufb01"
    ),
    max_size=12,
)


@given(any_text, st.lists(st.tuples(st.integers(0, 30), st.sampled_from(list(INVISIBLE.values()))), max_size=6))
def test_a_text_and_its_nfc_nfd_and_format_character_variants_have_no_errors(text, inserted):
    sprinkled = text
    for place, invisible in inserted:
        sprinkled = sprinkled[:place] + invisible + sprinkled[place:]
    variants = [*(unicodedata.normalize(form, t) for form in ("NFC", "NFD") for t in (text, sprinkled)), sprinkled]
    for name in NORMALIZERS:
        for unit in ("word", "character"):
            for variant in variants:
                assert errors(name, text, variant, unit) == errors(name, variant, text, unit) == 0


@given(any_text)
def test_a_text_as_it_is_seen_is_composed_and_stays_as_it_is(text):
    seen = as_seen(text)
    assert as_seen(seen) == seen == unicodedata.normalize("NFC", seen)


@given(st.text(max_size=40).filter(lambda text: as_seen(text) == text))
def test_whisper_basic_is_transformers_own_where_all_is_seen(text):
    assert words("whisper_basic", text) == BasicTextNormalizer()(text).split()


@given(st.text(st.sampled_from("ab st 1,0.$%'<>[]()uhone and half"), max_size=40))
def test_english_is_transformers_own_on_plain_texts(text):
    assert words("english", text) == EnglishTextNormalizer({})(text).split()


def marks(count):
    return "e" + "\u0301\u0327\u0f73" * count


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_long_runs_of_marks_compose_as_unicode_says(form):
    for count in (1, 10, 11, 40):
        for text in (marks(count), marks(count) + "a\uff9e\u0301" * count, "\uff9e\u0327\u0301" * count):
            assert composed(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_numbers_longer_than_python_reads_are_texts_too(name):
    for text in (
        "7" * 9_000,
        "7,777," * 2_000,
        "\u2460" * 9_000,
        "7." * 9_000,
        "nine one million " * 2_000,
        "one " * 9_000,
    ):
        assert isinstance(normalizer(name)(text), str)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalizers_travel_to_other_processes(name):
    found = pickle.loads(pickle.dumps(normalizer(name)))
    assert (found.name, found("Ab (c) 'd")) == (name, normalizer(name)("Ab (c) 'd"))


def test_the_old_names_go_on_to_work():
    import audiorl.normalisers as old

    assert old.normaliser("basic") == normalizer("basic")
    assert (old.Normaliser, old.NORMALISERS) == (Normalizer, NORMALIZERS)
