"""Named corpora from small copies with their own schemas: what of them becomes which column, and what is refused."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset

from audiorl.audio import load_audio
from audiorl.datasets import Corpus, find_corpus, list_corpora, load_corpus, register_corpus, speech_rows
from audiorl.datasets import corpora as loading
from audiorl.datasets import rows as rows_in
from audiorl.datasets.corpora import rows_for
from audiorl.datasets.corpus import _KNOWN, named_corpus
from audiorl.datasets.storage import AUDIO
from tests.datasets.corpus_copies import RATE, SCHEMAS, flac, some_rows, write_copy


@pytest.fixture(autouse=True)
def corpora_of_the_table_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # whatever imports it fails
    before = dict(_KNOWN)
    yield
    _KNOWN.clear()
    _KNOWN.update(before)


def listed(rows, column: str) -> list:
    return [row[column] for row in rows]


def both(folder: Path, *args, **options) -> Dataset:
    """The rows, once it is sure that a stream has the same."""
    rows = load_corpus(*args, path=folder, **options)
    stream = load_corpus(*args, path=folder, streaming=True, **options)
    assert isinstance(rows, Dataset) and isinstance(stream, IterableDataset)
    assert stream.features == rows.features
    assert list(stream) == rows.to_list()
    assert rows.features["audio"] == AUDIO
    return rows


# name -> where a split lies, arguments of load_corpus, a row of the copy, the row that is expected of it
CASES = {
    "librispeech": (
        "all/test.clean/0000",
        ("test",),
        {"text": "CHAPTER ONE", "speaker_id": 84, "id": "84-121550-0000"},
        {"text": "CHAPTER ONE", "speaker": "84", "id": "84-121550-0000", "language": "en"},
    ),
    "common_voice": (
        "zh-CN/train-00000-of-00001",
        ("train", "zh-CN"),
        {"sentence": "你好", "client_id": "a0", "path": "c.mp3", "gender": "", "accent": None},
        {"text": "你好", "speaker": "a0", "id": "c.mp3", "gender": "", "accent": None, "language": "zh"},
    ),
    "fleurs": (
        "de_de/test/0000",
        ("test", "de"),
        {"transcription": "guten tag", "raw_transcription": "Guten Tag.", "num_samples": 8000, "gender": 1, "id": 3},
        {"text": "Guten Tag.", "duration": 0.5, "gender": "female", "id": "3", "language": "de"},
    ),
    "voxpopuli": (
        "en_accented/test-00000-of-00001",
        ("test", "en_accented"),
        {"normalized_text": "thank you", "audio_id": "v1", "speaker_id": "9", "gender": "male", "accent": "pl"},
        {"text": "thank you", "speaker": "9", "id": "v1", "gender": "male", "accent": "pl", "language": "en"},
    ),
    "gigaspeech": (
        "dev/dev-00000-of-00001",
        ("validation",),
        {"text": "SO <COMMA> ARE YOU <MUSIC> THERE <QUESTIONMARK>", "begin_time": 2.0, "end_time": 3.5, "speaker": "N"},
        {"text": "SO, ARE YOU THERE?", "speaker": "N", "duration": 1.5, "id": "words", "language": "en"},
    ),
    "tedlium": (
        "validation-00000-of-00001",
        ("validation",),
        {"text": "the <unk> way", "gender": 2, "speaker_id": "Al", "id": "x"},
        {"text": "the way", "speaker": "Al", "gender": "male", "id": "x", "language": "en"},
    ),
    "ami": (
        "sdm/test-00000-of-00001",
        ("test.sdm",),
        {"text": "OKAY", "begin_time": 1.0, "end_time": 1.25, "speaker_id": "FEE", "audio_id": "A1"},
        {"text": "OKAY", "speaker": "FEE", "duration": 0.25, "id": "A1", "language": "en"},
    ),
    "multilingual_librispeech": (
        "polish/dev-00000-of-00001",
        ("validation", "pl"),
        {"transcript": "dzień dobry", "speaker_id": "8", "audio_duration": 12.5, "id": "8_1"},
        {"text": "dzień dobry", "speaker": "8", "duration": 12.5, "id": "8_1", "language": "pl"},
    ),
    "speech_commands": (
        "data/train/0000",
        ("train",),
        {"label": "yes", "speaker_id": "c1", "file": "yes/1.wav"},
        {"text": "yes", "label": "yes", "speaker": "c1", "id": "yes/1.wav", "language": "en"},
    ),
    "audioset": (
        "unbalanced/train-00000-of-00001",
        ("train.unbalanced",),
        {"labels": ["/m/1", "/m/2"], "human_labels": ["Speech", "Dog"], "video_id": "--4g"},
        {"text": "Speech", "label": "Speech", "all_labels": ["Speech", "Dog"], "id": "--4g"},
    ),
    "esc50": (
        "data/train-00000-of-00001",
        ("test",),
        {"category": "crying_baby", "fold": 5, "filename": "5-1.wav"},
        {"text": "crying baby", "label": "crying baby", "id": "5-1.wav", "fold": "5"},
    ),
    "urbansound8k": (
        "data/train-00000-of-00002",
        ("train",),
        {"class": "dog_bark", "fold": 8, "start": 1.0, "end": 4.5, "slice_file_name": "7.wav"},
        {"text": "dog bark", "label": "dog bark", "duration": 3.5, "id": "7.wav", "fold": "8"},
    ),
    "voxceleb": (
        "data/train-00000-of-00009",
        ("train",),
        {"speaker_id": "id00012", "gender": "f"},
        {"text": "id00012", "label": "id00012", "speaker": "id00012", "gender": "f", "id": None},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_copy_with_a_corpus_own_schema_becomes_rows(tmp_path, name):
    place, asked, given, expected = CASES[name]
    write_copy(tmp_path, name, place, [given])
    row = both(tmp_path, name, *asked)[0]
    ours = {"audio": {"bytes": flac(0), "path": "0.flac"}, "where": "row 0", "row_id": 0}
    assert row == {**expected, **ours}
    assert len(load_audio(row["audio"], RATE)) == 800


def test_every_corpus_is_tried_here():
    assert list(CASES) == list_corpora() == list(SCHEMAS)


def test_roles_take_the_folds_that_the_table_says(tmp_path):
    write_copy(tmp_path, "esc50", "train-0", [{"fold": fold, "filename": str(fold)} for fold in (5, 1, 4, 3, 2)])
    ids = {split: listed(both(tmp_path, "esc50", split), "id") for split in ("train", "validation", "test", "all")}
    assert ids == {"train": ["1", "3", "2"], "validation": ["4"], "test": ["5"], "all": ["5", "1", "4", "3", "2"]}


def test_texts_that_a_corpus_leaves_out_are_left_out_and_missing_ones_are_kept_for_the_check(tmp_path):
    texts = ["<MUSIC>", "HELLO <PERIOD>", None, "<NOISE> <SIL>"]
    write_copy(tmp_path, "gigaspeech", "dev/dev-0", [{"text": text} for text in texts])
    assert listed(both(tmp_path, "gigaspeech", "validation"), "text") == ["HELLO.", None]
    spoken = ["so <unk> it", "fine", "ignore_time_segment_in_scoring"]
    write_copy(tmp_path, "tedlium", "train-0", [{"text": text} for text in spoken])
    assert listed(both(tmp_path, "tedlium", "train"), "text") == ["fine"]
    assert listed(both(tmp_path, "tedlium", "train.all"), "text") == ["so it", "fine"]
    write_copy(tmp_path, "speech_commands", "test-0", [{"label": "_background_noise_"}, {"label": "no"}])
    assert listed(both(tmp_path, "speech_commands", "test"), "label") == ["no"]


def test_several_splits_follow_each_other_and_a_limit_takes_the_first_rows(tmp_path):
    for split in ("train.clean.100", "train.clean.360", "train.other.500"):
        write_copy(tmp_path, "librispeech", f"all/{split}/0000", [{"id": f"{split} {i}"} for i in range(2)])
    first = [f"train.clean.{hours} {i}" for hours in (100, 360) for i in range(2)]
    assert listed(both(tmp_path, "librispeech"), "id")[:4] == first
    assert listed(both(tmp_path, "librispeech", limit=3), "id") == first[:3]
    assert listed(both(tmp_path, "librispeech", "train.clean.360", limit=9), "id") == first[2:]


def test_label_numbers_become_names_and_numbers_without_names_are_refused(tmp_path):
    named = {**SCHEMAS["speech_commands"], "label": ClassLabel(names=["yes", "no"])}
    write_copy(tmp_path / "named", "speech_commands", "train", [{"label": 1}, {"label": -1}], schema=named)
    assert listed(both(tmp_path / "named", "speech_commands"), "label") == ["no", None]
    bare = {**SCHEMAS["speech_commands"], "label": datasets.Value("int64")}
    write_copy(tmp_path / "bare", "speech_commands", "train", [{"label": 1}], schema=bare)
    with pytest.raises(ValueError, match="label of a row is 1, and this copy does not say what it stands for"):
        load_corpus("speech_commands", path=tmp_path / "bare")


def test_columns_of_ones_own_choice_go_before_the_corpus_own(tmp_path):
    write_copy(tmp_path, "fleurs", "en_us/train", [{"transcription": "a b", "raw_transcription": "A, b."}])
    rows = both(tmp_path, "fleurs", "train", "en", columns={"text": "transcription", "group": "lang_group_id"})
    assert rows[0]["text"] == "a b" and rows[0]["group"] == "western_european_we"


def test_an_extra_column_that_a_copy_lacks_is_none(tmp_path):
    schema = {"audio": SCHEMAS["tedlium"]["audio"], "text": SCHEMAS["tedlium"]["text"]}
    write_copy(tmp_path, "tedlium", "test", [{"text": "one two"}], schema=schema)
    row = both(tmp_path, "tedlium", "test")[0]
    assert (row["text"], row["speaker"], row["gender"]) == ("one two", None, None)


# ---- copies in other forms ----


def test_a_snapshot_is_read_as_its_card_says(tmp_path):
    write_copy(tmp_path, "audioset", "data/bal_train/00", [{"video_id": "b"}])
    write_copy(tmp_path, "audioset", "data/unbal_train/00", [{"video_id": "u"}])
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: data/{place}/*.parquet\n"
        for name, place in (("balanced", "bal_train"), ("unbalanced", "unbal_train"))
    )
    (tmp_path / "README.md").write_text(f"---\nlicense: cc-by-4.0\nconfigs:\n{configs}---\n# AudioSet\n")
    assert listed(both(tmp_path, "audioset"), "id") == ["b"]
    assert listed(both(tmp_path, "audioset", "train.unbalanced"), "id") == ["u"]


def test_a_saved_folder_is_read(tmp_path):
    saved = DatasetDict({"train": some_rows("voxpopuli", [{}]), "test": some_rows("voxpopuli", [{"audio_id": "t"}])})
    saved.save_to_disk(tmp_path / "saved")
    assert listed(both(tmp_path / "saved", "voxpopuli", "test", "en"), "id") == ["t"]


def test_a_changed_copy_is_read_again_and_an_unchanged_one_is_not(tmp_path):
    copy = tmp_path / "copy"
    write_copy(copy, "librispeech", "all/test.clean/0000", [{"text": "ONE"}])
    rows = load_corpus("librispeech", "test", path=copy)
    assert rows.cache_files and load_corpus("librispeech", "test", path=copy).cache_files == rows.cache_files
    assert load_corpus("librispeech", "test", limit=1, path=copy).cache_files != rows.cache_files
    write_copy(copy, "librispeech", "all/test.clean/0000", [{"text": "TWO"}, {"text": "THREE"}])
    assert listed(load_corpus("librispeech", "test", path=copy), "text") == ["TWO", "THREE"]


def test_cleaners_and_columns_are_part_of_what_the_cache_knows(tmp_path):
    write_copy(tmp_path / "copy", "tedlium", "train-0", [{"text": "a <unk> b"}, {"text": "c"}])
    assert listed(load_corpus("tedlium", "train", path=tmp_path / "copy"), "text") == ["c"]
    assert listed(load_corpus("tedlium", "train.all", path=tmp_path / "copy"), "text") == ["a b", "c"]
    other = load_corpus("tedlium", "train.all", path=tmp_path / "copy", columns={"text": "file"})
    assert listed(other, "text") == ["words", "words"]


# ---- what is refused ----


@pytest.mark.parametrize(
    ("args", "options", "problem"),
    [
        (("librispech",), {}, "There is no corpus 'librispech'; did you mean 'librispeech'"),
        (("nothing_like_it",), {}, r"There is no corpus 'nothing_like_it'\. `audiorl datasets` lists all"),
        (("librispeech", "tets"), {}, "no split 'tets'; did you mean 'test'"),
        (("librispeech", "test", "de"), {}, "librispeech has no language 'de'"),
        (("fleurs", "test"), {}, r"fleurs is in several languages\. Pass language="),
        (("fleurs", "test", "de_dd"), {}, "fleurs has no language 'de_dd'"),
        (("common_voice", "test"), {}, "common_voice is in several languages"),
        (("librispeech", "test"), {"limit": 0}, "1 or more; got 0"),
        (("librispeech", "test"), {"path": "/no/such/folder"}, "There is no folder /no/such/folder with a copy of"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(args, options, problem):
    with pytest.raises(ValueError, match=problem):
        load_corpus(*args, **options)


@pytest.mark.parametrize("streaming", [False, True])
def test_faults_of_a_copy_are_told_when_it_is_loaded(tmp_path, streaming):
    with pytest.raises(ValueError, match=r"no Parquet files of the split 'test.clean', config 'all'"):
        load_corpus("librispeech", "test", path=tmp_path, streaming=streaming)
    schema = {("texts" if name == "text" else name): kind for name, kind in SCHEMAS["librispeech"].items()}
    write_copy(tmp_path, "librispeech", "test.clean", [{}], schema=schema)
    with pytest.raises(ValueError, match="no column 'text', which 'text' is read from; did you mean 'texts'"):
        load_corpus("librispeech", "test", path=tmp_path, streaming=streaming)
    with pytest.raises(ValueError, match="no column 'words', which 'text' is read from"):
        load_corpus("librispeech", "test", path=tmp_path, streaming=streaming, columns={"text": "words"})


def test_an_empty_split_is_refused(tmp_path):
    write_copy(tmp_path, "librispeech", "all/test.clean/0000", [])
    with pytest.raises(ValueError, match=r"librispeech has no rows of the split 'test\.clean' in "):
        load_corpus("librispeech", "test", path=tmp_path)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (datasets.exceptions.DatasetNotFoundError("Dataset 'x' is a gated dataset on the Hub"), "hf auth login"),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "refs/convert/parquet"),
        (ConnectionError("Couldn't reach 'x' on the Hub"), "Check the name"),
    ],
)
def test_what_the_hub_refuses_is_told_in_words(monkeypatch, raised, told):
    def refuse(*args, **kwargs):
        raise raised

    monkeypatch.setattr(loading, "load_dataset", refuse)
    for streaming in (False, True):
        with pytest.raises(ValueError, match=rf"openslr/librispeech_asr could not be loaded.*{told}.*with path="):
            load_corpus("librispeech", "test", streaming=streaming)


class BreaksOff:
    """A stream whose connection fails after its first row."""

    def __init__(self, error: Exception, first: dict):
        self.error, self.first = error, first

    def __iter__(self):
        yield self.first
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected", "told"),
    [
        (ConnectionError("gone"), ValueError, "could not be loaded as a data set: gone"),
        (KeyError("a bug of ours"), datasets.exceptions.DatasetGenerationError, "generating"),
    ],
)
def test_a_connection_that_breaks_is_told_and_leaves_no_half_of_the_rows(tmp_path, monkeypatch, error, expected, told):
    write_copy(tmp_path / "copy", "ami", "ihm/train-0", [{"text": "A"}, {"text": "B"}])
    whole = list(loading._open(loading._request(find_corpus("ami"), "train", None, None, str(tmp_path / "copy"), {})))
    with monkeypatch.context() as broken:
        broken.setattr(loading, "_open", lambda request: BreaksOff(error, whole[0]))
        with pytest.raises(expected, match=told):
            load_corpus("ami", path=tmp_path / "copy")
    assert listed(load_corpus("ami", path=tmp_path / "copy"), "text") == ["A", "B"]


# ---- where rows are asked for on the Hub ----


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("librispeech", "test"), ("openslr/librispeech_asr", "all", "test.clean")),
        (("librispeech",), ("openslr/librispeech_asr", "all", "train.clean.100+train.clean.360+train.other.500")),
        (("common_voice", "validation", "sv-SE"), ("fixie-ai/common_voice_17_0", "sv-SE", "validation")),
        (("multilingual_librispeech", "validation", "german"), ("facebook/multilingual_librispeech", "german", "dev")),
        (("voxceleb", "test"), ("asahi417/voxceleb1-test-split", None, "test")),
        (("esc50", "test"), ("ashraq/esc50", None, "train")),
        (("fleurs", "test", "zh"), "hf://datasets/google/fleurs@refs/convert/parquet/cmn_hans_cn/test/*.parquet"),
    ],
)
def test_the_hub_is_asked_for_the_split_and_config_of_the_table(monkeypatch, args, expected):
    asked = []

    def remember(name, config=None, *, split, streaming, data_files=None):
        assert streaming
        asked.append(data_files["rows"][0] if data_files else (name, config, split))
        raise ConnectionError("not reached")

    monkeypatch.setattr(loading, "load_dataset", remember)
    with pytest.raises(ValueError, match="not reached"):
        load_corpus(*args, streaming=True)
    assert asked == [expected]


# ---- by name ----


def test_rows_are_found_by_a_corpus_name(monkeypatch, tmp_path):
    copy = tmp_path / "librispeech"
    write_copy(copy, "librispeech", "all/train.clean.100/0000", [{"id": "train"}])
    write_copy(copy, "librispeech", "all/train.clean.360/0000", [{"id": "b"}])
    write_copy(copy, "librispeech", "all/train.other.500/0000", [{"id": "c"}])
    write_copy(copy, "librispeech", "all/validation.clean/0000", [{"id": "validation"}])
    write_copy(copy, "librispeech", "all/test.other/0000", [{"id": "other"}])
    monkeypatch.setenv("AUDIORL_CORPORA", str(tmp_path))
    assert speech_rows("librispeech")[0]["id"] == "train"
    assert speech_rows("LibriSpeech:test.other")[0]["id"] == "other"
    assert speech_rows("librispeech", split="validation")[0]["id"] == "validation"
    assert rows_for("librispeech", "validation", "en")[0]["id"] == "validation"
    assert rows_for("librispeech:test.other", "train")[0]["id"] == "other"
    assert rows_for([{"audio": "a.wav", "text": "a"}], "train")[0]["text"] == "a"


def test_only_corpora_that_the_mirrors_have_come_from_there(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(loading, "_hub_stream", lambda request: asked.append(request.hub_id) or 1 / 0)
    monkeypatch.setenv("AUDIORL_CORPORA", str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        load_corpus("ami", streaming=True)
    monkeypatch.setenv("AUDIORL_CORPORA", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ami").mkdir()
    with pytest.raises(ZeroDivisionError):
        load_corpus("ami", streaming=True)
    assert asked == ["edinburghcstr/ami"] * 2


def test_a_folder_with_a_corpus_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    some_rows("librispeech", [{"id": "mine"}]).save_to_disk("librispeech")
    assert speech_rows("librispeech")[0]["id"] == "mine"


def test_a_name_that_is_nearly_a_corpus_is_told(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="Did you mean the corpus 'librispeech'"):
        speech_rows("librispech")


def test_a_data_set_with_a_loading_script_is_told_in_words(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("Dataset scripts are no longer supported, but found tedlium.py")

    monkeypatch.setattr(rows_in, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"LIUM/tedlium could not be loaded.*tedlium\.py\. Load its Parquet copy"):
        speech_rows("LIUM/tedlium")


# ---- corpora of one's own ----


class Interviews:
    name = "interviews"

    def rows(self, split, language):
        if split != "train":
            raise ValueError(f"interviews has no split {split!r}. Use train.")
        for number in range(3):
            yield {"audio": flac(number), "text": f"{language} {number}"}


def test_a_class_of_ones_own_plugs_in():
    register_corpus(Interviews())
    assert "interviews" in list_corpora()
    rows = load_corpus("interviews", language="de", limit=2)
    assert listed(rows, "text") == ["de 0", "de 1"]
    assert rows[1]["audio"]["bytes"] == flac(1)
    stream = load_corpus("interviews", language="de", limit=2, streaming=True)
    assert isinstance(stream, IterableDataset)
    assert [listed(stream, "text") for _ in range(2)] == [["de 0", "de 1"]] * 2
    assert len(speech_rows("interviews")) == 3
    with pytest.raises(ValueError, match="has no split 'test'"):
        speech_rows("interviews:test")
    with pytest.raises(ValueError, match="whose rows\\(\\) decides about path"):
        load_corpus("interviews", path="/tmp")


def test_a_corpus_that_lies_elsewhere_takes_the_place_of_the_one_known(tmp_path):
    known = find_corpus("esc50")
    assert isinstance(known, Corpus)
    with pytest.raises(ValueError, match="There is a corpus esc50 already"):
        register_corpus(known)
    register_corpus(dataclasses.replace(known, hub_id="me/esc50"), replace=True)
    assert find_corpus("ESC50").hub_id == "me/esc50"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("corpus", "problem"), [(object(), "lacks one"), (Interviews, "Pass an instance"), ("esc50", "lacks one")]
)
def test_what_is_no_corpus_is_not_registered(corpus, problem):
    with pytest.raises(TypeError, match=problem):
        register_corpus(corpus)


def test_a_name_with_a_split_in_it_is_no_corpus_name():
    mine = Interviews()
    mine.name = "me/interviews:train"
    with pytest.raises(ValueError, match="cannot be a corpus's name"):
        register_corpus(mine)


# ---- names as people write them ----


@pytest.mark.parametrize(
    ("written", "name", "splits"),
    [
        ("ESC-50", "esc50", None),
        ("librispeech_asr", "librispeech", None),
        ("LibriSpeech", "librispeech", None),
        ("TED-LIUM", "tedlium", None),
        ("UrbanSound8K", "urbansound8k", None),
        ("mls", "multilingual_librispeech", None),
        ("voxceleb1", "voxceleb1", ["test"]),
        ("VoxCeleb2", "voxceleb2", ["train"]),
    ],
)
def test_a_corpus_is_found_by_what_people_call_it(written, name, splits):
    found = find_corpus(written)
    assert found.name == name and named_corpus(f"{written}:test").corpus == found
    assert splits is None or list(found.splits) == splits


@pytest.mark.parametrize(
    ("written", "split"),
    [
        *[
            (name, "validation.clean")
            for name in ("validation", "validation.clean", "dev-clean", "dev", "val", "Valid")
        ],
        *[(name, "test.clean") for name in ("test", "test.clean", "test-clean", "TEST_CLEAN")],
        *[(name, "test.other") for name in ("test.other", "test-other")],
        *[(name, "train.clean.100") for name in ("train.clean.100", "train-clean-100")],
    ],
)
def test_a_split_is_found_by_its_name_and_by_the_hubs(written, split):
    assert find_corpus("librispeech").part(written).split == split


@pytest.mark.parametrize(
    ("corpus", "split", "meant"),
    [
        ("librispeech", "test.hard", None),
        ("librispeech", "test.clear", None),
        ("librispeech", "test.othr", "test.other"),
        ("ami", "test.mdm", None),
        ("voxceleb1", "train", None),
        ("fleurs", "tets", "test"),
    ],
)
def test_no_test_set_is_suggested_for_another(corpus, split, meant):
    with pytest.raises(ValueError, match=f"{corpus} has no split '{split}'") as caught:
        find_corpus(corpus).part(split)
    assert ("did you mean" in str(caught.value)) == (meant is not None)
    assert meant is None or f"did you mean '{meant}'" in str(caught.value)


@pytest.mark.parametrize(
    ("corpus", "written", "code"),
    [
        *[("fleurs", written, "en") for written in ("en", "en_us", "en-US", " EN ")],
        *[("fleurs", written, "pt") for written in ("pt_br", "pt-BR")],
        *[("fleurs", written, None) for written in ("en-GB", "xx", "en_us_x")],
        ("librispeech", "en-US", "en"),
        ("voxpopuli", "en-accented", "en_accented"),
    ],
)
def test_a_language_is_found_with_the_region_in_which_it_is_spoken(corpus, written, code):
    if code is None:
        with pytest.raises(ValueError, match=f"has no language '{written}'"):
            find_corpus(corpus).language(written)
    else:
        assert find_corpus(corpus).language(written) == code
