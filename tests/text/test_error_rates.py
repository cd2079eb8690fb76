"""Oracles: counts worked by hand, jiwer where it is defined, Unicode's own script table."""

import json
import subprocess
import sys
import time

import jiwer
import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from audiorl.evaluation import ErrorCounts, Errors, count_errors
from audiorl.rewards import RewardSet
from audiorl.text.error_rates import resolve_unit, tagged_transcript

WORDS = ["a", "b", "c", "d", "e"]
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", (0, 0, 0, 3)),
        ("the cat sat", "the bat sat", (1, 0, 0, 2)),
        ("the cat sat", "the sat", (0, 1, 0, 2)),
        ("the cat sat", "the cat has sat", (0, 0, 1, 3)),
        # one becomes on, three is lost, six is added; any other alignment has more errors
        ("one two three four five", "on two four five six", (1, 1, 1, 3)),
        ("the cat", "", (0, 2, 0, 0)),
        ("", "thank you for watching", (0, 0, 4, 0)),
        ("", "", (0, 0, 0, 0)),
        ("  a\u00a0b\n", "a b", (0, 0, 0, 2)),
    ],
)
def test_word_counts_worked_by_hand(transcript, hypothesis, expected):
    counts = count_errors([transcript], [hypothesis])[0]
    assert counts == ErrorCounts(*expected)
    assert counts.words == len(transcript.split())
    assert counts.errors == sum(expected[:3])


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "expected"),
    [
        ("cat", "cut", (1, 0, 0, 2)),
        ("at sea", "at  sea ", (0, 0, 0, 6)),
        ("at sea", "atsea", (0, 1, 0, 5)),
        ("你好世界", "你好 世界", (0, 0, 0, 4)),
        ("我 love you", "我love you", (0, 0, 0, 9)),
        ("สวัสดี", "สวัดี", (0, 1, 0, 5)),
        ("", "好", (0, 0, 1, 0)),
    ],
)
def test_character_counts_worked_by_hand(transcript, hypothesis, expected):
    assert count_errors([transcript], [hypothesis], unit="character")[0] == ErrorCounts(*expected)


def test_corpus_rate_sums_before_it_divides():
    # 1 error in 1 word and 1 error in 9: 2 / 10, not the mean of 1 and 1/9
    errors = count_errors(["x", "a b c d e f g h i"], ["y", "a b c d e f g h"])
    assert errors.wer == 0.2
    assert errors.total == ErrorCounts(1, 1, 0, 8)
    assert errors.words.tolist() == [1, 9]
    assert errors.errors.tolist() == [1, 1]


def test_insertions_on_an_empty_transcript_count_in_the_corpus_rate():
    errors = count_errors(["", "a b c d"], ["x y", "a b c d"])
    assert errors.insertions.tolist() == [2, 0]
    assert errors.wer == 2 / 4


def test_all_transcripts_empty_has_the_documented_value():
    assert count_errors(["", ""], ["", "x y z"]).wer == 3.0
    assert count_errors(["", ""], ["", ""]).wer == 0.0
    assert jiwer.wer("", "x y z") == 3


def test_no_utterances_have_no_errors():
    errors = count_errors([], [])
    assert (len(errors), errors.wer, errors.total) == (0, 0.0, ErrorCounts(0, 0, 0, 0))


@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=8))
def test_word_counts_equal_jiwer_on_texts_with_words(pairs):
    transcripts, hypotheses = zip(*pairs, strict=True)
    errors = count_errors(transcripts, hypotheses)
    corpus = jiwer.process_words(list(transcripts), list(hypotheses))
    assert errors.total == (corpus.substitutions, corpus.deletions, corpus.insertions, corpus.hits)
    assert errors.wer == corpus.wer
    for place, (transcript, hypothesis) in enumerate(pairs):
        assert errors[place].rate == jiwer.wer(transcript, hypothesis)


@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=5))
def test_character_rate_equals_jiwer_on_spaced_scripts(pairs):
    transcripts, hypotheses = zip(*pairs, strict=True)
    errors = count_errors(transcripts, hypotheses, unit="character")
    assert errors.wer == jiwer.cer(list(transcripts), list(hypotheses))


def edit_distance(one, other):
    """Levenshtein distance by the textbook table."""
    above = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        row = [i]
        for j, right in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (left != right)))
        above = row
    return above[-1]


@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(["word", "character", "auto"]))
def test_counts_of_any_text_add_up(transcript, hypothesis, unit):
    errors = count_errors([transcript], [hypothesis], unit=unit)
    counts = errors[0]
    assert min(counts) >= 0
    assert counts.substitutions + counts.deletions + counts.hits == counts.words
    said = count_errors([hypothesis], [""], unit=errors.unit)[0].words
    assert counts.hits + counts.substitutions + counts.insertions == said
    if errors.unit == "word":
        assert counts.words == len(transcript.split())
        assert counts.errors == edit_distance(transcript.split(), hypothesis.split())


@pytest.mark.parametrize(
    ("transcripts", "unit"),
    [
        (["the cat", "sat"], "word"),
        (["今天天气很好"], "character"),
        (["きょうは 東京 です"], "character"),
        (["สวัสดีครับ"], "character"),
        (["ສະບາຍດີ"], "character"),
        (["សួស្តី"], "character"),
        (["မင်္ဂလာပါ"], "character"),
        (["안녕하세요 여러분"], "word"),
        (["हिन्दी में"], "word"),
        (["我买了 iPhone"], "word"),
        (["我买了 iPhone", "今天天气很好"], "character"),
        (["", "..."], "word"),
        ([], "word"),
    ],
)
def test_auto_unit_follows_the_script_of_most_letters(transcripts, unit):
    assert resolve_unit("auto", transcripts) == unit
    assert count_errors(transcripts, transcripts, unit="auto").unit == unit


def test_unspaced_scripts_are_those_of_the_unicode_tables():
    scripts = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
    letter = regex.compile("[" + "".join(rf"\p{{Script={script}}}" for script in scripts) + "]")
    for character in map(chr, range(0x10000)):
        # Lm: marks shared by scripts, such as the Japanese long-vowel sign
        if character.isalpha() and not regex.match(r"\p{Lm}", character):
            expected = "character" if letter.match(character) else "word"
            assert resolve_unit("auto", [character]) == expected, hex(ord(character))


def test_normalising_is_applied_to_both_and_named():
    errors = count_errors(["Don't stop!"], ["don't, stop"], normalise="lower")
    assert (errors.wer, errors.normaliser) == (0.0, "lower")
    assert count_errors(["Don't stop!"], ["don't, stop"]).wer == 1.0
    assert count_errors(["AB"], ["ab"], normalise=str.lower).normaliser == "str.lower"


def test_a_hindi_vowel_sign_is_an_error_under_basic_and_none_under_whispers():
    assert count_errors(["हिन्दी"], ["हिन्दा"], normalise="basic").total == ErrorCounts(1, 0, 0, 0)
    assert count_errors(["हिन्दी"], ["हिन्दा"], normalise="whisper_basic").total == ErrorCounts(0, 0, 0, 3)


def test_errors_survive_json():
    errors = count_errors(["a b", ""], ["a c", "d"])
    again = Errors(**json.loads(json.dumps(errors.to_dict())))
    assert again.to_dict() == errors.to_dict()
    assert again.total == errors.total
    assert again.hits.dtype == np.int64


@pytest.mark.parametrize(
    ("transcripts", "hypotheses", "options", "message"),
    [
        (["a"], [], {}, "got 1 transcripts and 0 hypotheses"),
        (["a", "b"], ["a", None], {}, r"hypotheses\[1\] is NoneType"),
        ([1], ["a"], {}, r"transcripts\[0\] is int"),
        ("abc", "abc", {}, "got a single str"),
        (["a"], ["a"], {"unit": "words"}, "got unit='words'"),
        (["a"], ["a"], {"normalise": "basc"}, "Did you mean 'basic'"),
    ],
)
def test_faults_are_named(transcripts, hypotheses, options, message):
    with pytest.raises(ValueError, match=message):
        count_errors(transcripts, hypotheses, **options)


def test_ten_thousand_utterances_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    texts = [" ".join(words) for words in rng.choice([f"w{i}" for i in range(2000)], size=(10_000, 15))]
    start = time.process_time()
    count_errors(texts, texts[::-1])
    assert time.process_time() - start < 2


def test_importing_evaluation_does_not_load_trainer_or_models():
    code = (
        "import sys, audiorl.evaluation, audiorl.text.normalizers; "
        "print([name for name in sys.modules if name in ('transformers.trainer', 'trl', 'audiorl.models')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "language", "transcript"),
    [
        ("language English<asr_text>Hello world.", "English", "Hello world."),
        ("language Chinese<asr_text>你好", "Chinese", "你好"),
        (" Language  Haitian Creole <asr_text> bon", "Haitian Creole", "bon"),
        ("language None<asr_text>", None, ""),
        ("language English", None, "language English"),
        ("the language English<asr_text>is", None, "the language English<asr_text>is"),
        ("<asr_text>hello", None, "<asr_text>hello"),
        ("language English<asr_text>language German<asr_text>a", "English", "language German<asr_text>a"),
        ("", None, ""),
    ],
)
def test_a_transcript_in_qwen3_asrs_own_format_is_what_stands_behind_the_language(text, language, transcript):
    assert tagged_transcript(text) == (language, transcript)


def test_a_right_answer_in_that_format_has_no_errors_and_scores_one():
    said = ["language English<asr_text>Hello world.", "hello world", "language English<asr_text>hello word"]
    true = ["hello world", "language English<asr_text>Hello, world", "language English<asr_text>hello world"]
    assert count_errors(true, said, normalise="basic").errors.tolist() == [0, 0, 1]
    columns = {"text": true, "language": ["en"] * 3}
    table = RewardSet(["one_minus_wer", "negative_wer", "language", "keywords"])(
        said, [[1]] * 3, {**columns, "keywords": [["hello"]] * 3}, ["row"] * 3
    )
    assert table.parts["one_minus_wer"] == [1, 1, 0.5] and table.parts["keywords"] == [1, 1, 1]
