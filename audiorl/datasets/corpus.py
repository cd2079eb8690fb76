"""What a named corpus is, and the table of known ones. Imports nothing heavy: `audiorl datasets` reads only this
module.

A corpus is a `Corpus`, which says where its rows are on the Hub and what its columns mean, or any object of your own
with a `name` and a method `rows`. `register_corpus` makes either known by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

Task = Literal["asr", "classification"]
Clean = Callable[[str], str | None]


class Span(NamedTuple):
    """A clip's length in seconds, from the columns of its start and end."""

    begin: str
    end: str

    def __call__(self, row: Mapping[str, Any]) -> float | None:
        begin, end = row[self.begin], row[self.end]
        return None if begin is None or end is None else float(end) - float(begin)


class Samples(NamedTuple):
    """A clip's length in seconds, from a column with its number of samples at a rate in Hz."""

    column: str
    rate: int

    def __call__(self, row: Mapping[str, Any]) -> float | None:
        samples = row[self.column]
        return None if samples is None else samples / self.rate


class First(NamedTuple):
    """The first entry of a column of lists; None for an empty list."""

    column: str

    def __call__(self, row: Mapping[str, Any]) -> Any:
        return next(iter(row[self.column] or ()), None)


# what fills a column of ours: a column's name, or a computation on a row
Source = str | Span | Samples | First


def columns_of(source: Source) -> tuple[str, ...]:
    """The columns that a source reads."""
    if isinstance(source, str):
        return (source,)
    return tuple(source) if isinstance(source, Span) else (source.column,)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where the rows of one split are. None means the corpus's own value.

    Args:
        split: its name on the Hub, several joined by "+".
        config: of the data set on the Hub.
        hub_id: another data set.
        columns: ours -> theirs, all of them.
        folds: only rows with one of these in their column `fold`.
        clean: see `Corpus`.
    """

    split: str
    config: str | None = None
    hub_id: str | None = None
    columns: Mapping[str, Source] | None = None
    folds: tuple[int, ...] | None = None
    clean: Clean | None = None


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus that lies on the Hub as Parquet files.

    Args:
        name: lower case, without "/" and ":".
        hub_id: of the data set.
        task: "asr" (rows have `text` and `language`) or "classification" (rows have `label`, and `text` is the same).
        licence: as its makers state it.
        hours: of audio, of all splits and languages.
        splits: name -> where it lies; "train", "validation" and "test" are roles that every corpus has as far as
            it can.
        columns: ours -> theirs; a missing column stops loading.
        extras: ours -> theirs; if a copy of the corpus has no such column, rows have None.
        languages: code -> config, None for the corpus's own; empty if nobody speaks.
        any_language: languages are passed on as configs without a check.
        config: of the data set on the Hub, if the language does not choose one.
        files: address of the Parquet files, with {hub_id}, {config} and {split}, if the Hub's card names none.
        clean: applied to texts and labels; if it returns None, the row is skipped.
        note: what a user has to know, for example what is skipped.
        other_names: other names of the corpus -> the splits meant by them; an empty list means all.
    """

    name: str
    hub_id: str
    task: Task
    licence: str
    hours: float
    splits: Mapping[str, Part]
    columns: Mapping[str, Source]
    extras: Mapping[str, Source] = field(default_factory=dict)
    languages: Mapping[str, str | None] = field(default_factory=dict)
    any_language: bool = False
    config: str | None = None
    files: str | None = None
    clean: Clean | None = None
    note: str = ""
    other_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def speaks(self) -> bool:
        """Whether its rows have a language."""
        return bool(self.languages) or self.any_language

    def part(self, split: str) -> Part:
        """Where a split is, by its name here or on the Hub, or as people write it: "dev-clean", "val", "test_other".

        Raises:
            ValueError: there is no such split.
        """
        if split in self.splits:
            return self.splits[split]
        asked = _split_key(split)
        found = [part for name, part in self.splits.items() if _split_key(name) == asked]
        found = found or [part for part in self.splits.values() if _split_key(part.split) == asked]
        if len(found) != 1:
            raise ValueError(
                f"{self.name} has no split {split!r}{_meant_split(split, self.splits)} Its splits are "
                f"{list(self.splits)}."
            )
        return found[0]

    def language(self, asked: str | None) -> str | None:
        """The language to load: the one asked for, or the only one; None if the corpus has none.

        It may be asked for by its config too, and with the region in which the corpus is spoken: "en_us", "en-US".

        Raises:
            ValueError: there is no such language, or several and none is asked for.
        """
        if asked is None and len(self.languages) <= 1 and not self.any_language:
            return next(iter(self.languages), None)
        if asked is not None and (self.any_language or asked in self.languages):
            return asked
        for is_it in (_is_language, _is_language_of_region):
            spelled = [code for code, config in self.languages.items() if asked and is_it(code, config, asked)]
            if spelled:
                return spelled[0]
        known = "any that its makers list" if self.any_language else ", ".join(self.languages) or "none"
        told = f"{self.name} is in several languages" if asked is None else f"{self.name} has no language {asked!r}"
        near = _meant(asked or "", self.languages)
        raise ValueError(f"{told}{near} Pass language=... with one it has: {known}.")

    def config_of(self, part: Part, language: str | None) -> str | None:
        """The Hub's config name for that language."""
        by_language = language if self.any_language else self.languages.get(language or "")
        return part.config or by_language or self.config


@runtime_checkable
class RowSource(Protocol):
    """A corpus of your own."""

    name: str

    def rows(self, split: str, language: str | None) -> Any:
        """Rows of a split: anything `audiorl.datasets.speech_rows` takes, or an iterable of dicts.

        Raises:
            ValueError: there is no such split or language.
        """


_KNOWN: dict[str, Corpus | RowSource] = {}


def register_corpus(corpus: Corpus | RowSource, *, replace: bool = False) -> None:
    """Make a corpus known by its name, to `load_corpus`, the trainers and the command line.

    Args:
        corpus: a `Corpus`, or an object with a `name` and `rows(split, language)`.
        replace: take the place of one with that name.

    Raises:
        TypeError: it is neither.
        ValueError: the name is taken or cannot be one.
    """
    if not isinstance(corpus, Corpus | RowSource) or isinstance(corpus, type):
        raise TypeError(
            f"A corpus needs a name and a method rows(split, language), and {corpus!r} lacks one. Pass an instance "
            "of a class with both, or an audiorl.datasets.Corpus."
        )
    if not re.fullmatch(r"[a-z0-9_.]+", corpus.name):
        raise ValueError(
            f"{corpus.name!r} cannot be a corpus's name: / and : mean something else in names of rows. Use lower-case "
            "letters, digits, _ and dots."
        )
    if corpus.name in _KNOWN and not replace:
        raise ValueError(f"There is a corpus {corpus.name} already. Choose another name, or pass replace=True.")
    _KNOWN[corpus.name] = corpus


def list_corpora() -> list[str]:
    """The names of all corpora, in the order in which they were registered."""
    return list(_KNOWN)


def find_corpus(name: str) -> Corpus | RowSource:
    """The corpus of that name.

    Raises:
        ValueError: there is none, with the nearest name.
    """
    found = _spelled(name)
    if found is None:
        near = _meant(_plain(name), _KNOWN)
        raise ValueError(f"There is no corpus {name!r}{near} `audiorl datasets` lists all; register_corpus adds one.")
    return found


class NamedCorpus(NamedTuple):
    """What a text like "librispeech:test.other" names."""

    corpus: Corpus | RowSource
    split: str | None


def named_corpus(text: str) -> NamedCorpus | None:
    """The corpus that "name" or "name:split" means; None if the text means a file or something else."""
    name, _, split = text.partition(":")
    found = None if os.path.exists(text) else _spelled(name)
    return None if found is None else NamedCorpus(found, split or None)


def nearest_corpus(name: str) -> str | None:
    """The corpus with the most similar name, if there is one."""
    return next(iter(get_close_matches(_plain(name.partition(":")[0]), _KNOWN, n=1, cutoff=0.8)), None)


def _plain(name: str) -> str:
    return re.sub(r"[-\s]", "_", name.strip().lower())


def _spelled(name: str) -> Corpus | RowSource | None:
    """The corpus of a name as people write it: "ESC-50", "TED-LIUM", "librispeech_asr"."""
    known = _KNOWN
    if _plain(name) in known:
        return known[_plain(name)]
    key = _name_key(name)
    for corpus in known.values():
        if _name_key(corpus.name) == key:
            return corpus
        if not isinstance(corpus, Corpus):
            continue
        for other, splits in corpus.other_names.items():
            if _name_key(other) == key:
                kept = {split: corpus.splits[split] for split in splits}
                return replace(corpus, name=other, splits=kept) if splits else corpus
    return None


def _name_key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.lower())


# What people call the three roles.
_ROLE_NAMES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}


def _split_key(split: str) -> str:
    role, _, rest = re.sub(r"[-_/\s]+", ".", split.strip().lower()).partition(".")
    return f"{_ROLE_NAMES.get(role, role)}.{rest}".rstrip(".")


def _meant_split(split: str, known: Mapping[str, Any]) -> str:
    """A hint at a misspelt split. Every part of the name has to be similar, so that no test set is suggested for
    another.
    """
    asked = _split_key(split).split(".")
    for name in known:
        parts = _split_key(name).split(".")
        if len(parts) == len(asked) and all(
            get_close_matches(part, [own], cutoff=0.7) for part, own in zip(asked, parts, strict=True)
        ):
            return f"; did you mean {name!r}?"
    return "."


def _is_language(code: str, config: str | None, asked: str) -> bool:
    """Whether a corpus's language is the one asked for, by its code or its config."""
    return _language_key(asked) in (_language_key(code), _language_key(config or code))


def _is_language_of_region(code: str, config: str | None, asked: str) -> bool:
    """Whether a language with a region is meant; any region, if the corpus names none."""
    language, _, region = _language_key(asked).partition("_")
    regions = _language_key(config or code).split("_")[1:]
    return language == code.lower() and bool(region) and (not regions or region == regions[-1])


def _language_key(text: str) -> str:
    return re.sub(r"[-\s]", "_", text.strip().lower())


def _meant(name: str, known: Mapping[str, Any]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


# ---- the corpora known by name: where they lie as Parquet files, their splits, columns, licences and hours ----
#
# The Hub could not be reached when this was written (November 2026). Ids, configs, splits and columns were read in
#
# * public code of 2025 and 2026 that loads these data sets without loading scripts: ids, configs and splits of all of
#   them; columns of librispeech, common_voice, fleurs, voxpopuli, speech_commands, audioset, esc50, urbansound8k,
#   voxceleb, and of ami and multilingual_librispeech as far as they are in `columns`;
# * schemas in TensorFlow's catalogue (librispeech, fleurs) and in the Hub's guide to audio data sets (gigaspeech).
#
# Hours and licences are what the makers of the corpora are known to state; they were written down from memory and not
# looked up again. Read the licence where the data lies before you use it.
#
# Not verified either: the configs "test" of gigaspeech, the split "validation" of tedlium, all `extras` of tedlium, and
# those of ami, multilingual_librispeech and gigaspeech on their Parquet copies. Where a copy lacks an extra column,
# rows have None. A data set that moved is loaded from elsewhere with
# `load_corpus(dataclasses.replace(find_corpus(name), hub_id=...))`, or from a folder with `path=`.
#
# Mozilla emptied its own Common Voice repositories in October 2025; GigaSpeech and TED-LIUM of their makers are gated
# or need a loading script. Their Parquet copies by others are used.

_ROLES = {role: Part(split=role) for role in ("train", "validation", "test")}
_EN = {"en": None}

# Configs of google/fleurs; a language is the part before the first underscore.
_FLEURS = """
af_za am_et ar_eg as_in ast_es az_az be_by bg_bg bn_in bs_ba ca_es ceb_ph ckb_iq cmn_hans_cn cs_cz cy_gb da_dk de_de
el_gr en_us es_419 et_ee fa_ir ff_sn fi_fi fil_ph fr_fr ga_ie gl_es gu_in ha_ng he_il hi_in hr_hr hu_hu hy_am id_id
ig_ng is_is it_it ja_jp jv_id ka_ge kam_ke kea_cv kk_kz km_kh kn_in ko_kr ky_kg lb_lu lg_ug ln_cd lo_la lt_lt luo_ke
lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np nl_nl nso_za ny_mw oc_fr om_et or_in pa_in pl_pl
ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si sn_zw so_so sr_rs sv_se sw_ke ta_in te_in tg_tj th_th tr_tr uk_ua umb_ao
ur_pk uz_uz vi_vn wo_sn xh_za yo_ng yue_hant_hk zu_za
""".split()
# Other codes for the same languages, Whisper's among them.
_SAME = {"zh": "cmn_hans_cn", "no": "nb_no", "tl": "fil_ph", "jw": "jv_id"}
_FLEURS_LANGUAGES: dict[str, str | None] = {**{config.split("_")[0]: config for config in _FLEURS}, **_SAME}

_VOXPOPULI = "en de fr es pl it ro hu cs nl fi hr sk sl et lt en_accented".split()
_MLS = {
    **{"nl": "dutch", "fr": "french", "de": "german", "it": "italian"},
    **{"pl": "polish", "pt": "portuguese", "es": "spanish"},
}

_PUNCTUATION = {" <COMMA>": ",", " <PERIOD>": ".", " <QUESTIONMARK>": "?", " <EXCLAMATIONPOINT>": "!"}
_TAG = re.compile(r"\s*<[^<>]*>")


def without_tags(text: str) -> str | None:
    """GigaSpeech: turn punctuation tags into punctuation and drop tags of sounds. A clip of nothing else is skipped."""
    for tag, mark in _PUNCTUATION.items():
        text = text.replace(tag, mark)
    return _TAG.sub("", text).strip() or None


def scored(text: str) -> str | None:
    """TED-LIUM: skip segments that its makers do not score, and drop marks of unknown words."""
    if "ignore_time_segment_in_scoring" in text.lower():
        return None
    return " ".join(text.replace("<unk>", " ").split()) or None


def complete(text: str) -> str | None:
    """TED-LIUM: as `scored`, and skip transcripts that lack words."""
    return None if "<unk>" in text else scored(text)


def spaced(label: str) -> str:
    """A label as words: "dog_bark" is "dog bark"."""
    return label.replace("_", " ")


def keyword(label: str) -> str | None:
    """Speech Commands: skip minutes of background noise."""
    return None if label.startswith("_") else label


CORPORA = (
    Corpus(
        name="librispeech",
        other_names={"librispeech_asr": ()},
        hub_id="openslr/librispeech_asr",
        task="asr",
        licence="CC-BY-4.0",
        hours=982,
        config="all",
        splits={
            "train": Part(split="train.clean.100+train.clean.360+train.other.500"),
            "validation": Part(split="validation.clean"),
            "test": Part(split="test.clean"),
            **{
                name: Part(split=name)
                for name in ("train.clean.100", "train.clean.360", "train.other.500", "validation.other", "test.other")
            },
        },
        columns={"audio": "audio", "text": "text"},
        extras={"speaker": "speaker_id", "id": "id"},
        languages=_EN,
        note="Read books. Transcripts are upper case without punctuation.",
    ),
    Corpus(
        name="common_voice",
        other_names={"common_voice_17": (), "common_voice_17_0": ()},
        hub_id="fixie-ai/common_voice_17_0",
        task="asr",
        licence="CC0-1.0",
        hours=20408,
        splits=_ROLES,
        columns={"audio": "audio", "text": "sentence"},
        extras={"speaker": "client_id", "id": "path", "gender": "gender", "accent": "accent"},
        any_language=True,
        note="Version 17, a copy of what Mozilla has moved to its Data Collective; hours are the validated ones. "
        "language is a locale of Common Voice: en, de, zh-CN, sv-SE, ...",
    ),
    Corpus(
        name="fleurs",
        other_names={"google_fleurs": ()},
        hub_id="google/fleurs",
        task="asr",
        licence="CC-BY-4.0",
        hours=1400,
        files="hf://datasets/{hub_id}@refs/convert/parquet/{config}/{split}/*.parquet",
        splits=_ROLES,
        columns={"audio": "audio", "text": "raw_transcription"},
        extras={"duration": Samples("num_samples", 16000), "id": "id", "gender": "gender"},
        languages=_FLEURS_LANGUAGES,
        note="Wikipedia sentences in 102 languages. Lower case without punctuation: columns={'text': 'transcription'}.",
    ),
    Corpus(
        name="voxpopuli",
        hub_id="facebook/voxpopuli",
        task="asr",
        licence="CC0-1.0",
        hours=1791,
        splits=_ROLES,
        columns={"audio": "audio", "text": "normalized_text"},
        extras={"speaker": "speaker_id", "id": "audio_id", "gender": "gender", "accent": "accent"},
        languages={code: code for code in _VOXPOPULI},
        note="European Parliament. normalized_text is lower case; raw_text has case and punctuation, but not in every "
        "row. en_accented has a test split only.",
    ),
    Corpus(
        name="gigaspeech",
        hub_id="fixie-ai/gigaspeech",
        task="asr",
        licence="Apache-2.0",
        hours=10000,
        splits={
            "train": Part(split="train", config="xl-empty-audio-removed"),
            "validation": Part(split="dev", config="dev"),
            "test": Part(split="test", config="test"),
        },
        columns={"audio": "audio", "text": "text"},
        extras={"speaker": "speaker", "duration": Span("begin_time", "end_time"), "id": "segment_id"},
        languages=_EN,
        clean=without_tags,
        note="Podcasts, audiobooks, YouTube; the audio is for research and teaching only. speechcolab/gigaspeech "
        "itself is gated. Upper case; <COMMA> and the like become punctuation, clips of mere <MUSIC> are left out.",
    ),
    Corpus(
        name="tedlium",
        other_names={"tedlium3": (), "tedlium_release3": ()},
        hub_id="sanchit-gandhi/tedlium-data",
        task="asr",
        licence="CC-BY-NC-ND-3.0",
        hours=452,
        splits={
            "train": Part(split="train", clean=complete),
            "validation": Part(split="validation"),
            "test": Part(split="test"),
            "train.all": Part(split="train"),
        },
        columns={"audio": "audio", "text": "text"},
        extras={"speaker": "speaker_id", "id": "id", "gender": "gender"},
        languages=_EN,
        clean=scored,
        note="TED talks, release 3, lower case. About 60 % of its rows have <unk> for words that nobody transcribed: "
        "train leaves them out; train.all, validation and test keep them without the mark.",
    ),
    Corpus(
        name="ami",
        other_names={"ami_ihm": (*_ROLES,), "ami_corpus": ()},
        hub_id="edinburghcstr/ami",
        task="asr",
        licence="CC-BY-4.0",
        hours=100,
        config="ihm",
        splits={
            **_ROLES,
            **{f"{role}.sdm": Part(split=role, config="sdm") for role in _ROLES},
        },
        columns={"audio": "audio", "text": "text"},
        extras={"speaker": "speaker_id", "duration": Span("begin_time", "end_time"), "id": "audio_id"},
        languages=_EN,
        note="Meetings, each speaker's headset; the splits in .sdm are one distant microphone. Upper case.",
    ),
    Corpus(
        name="multilingual_librispeech",
        other_names={"mls": ()},
        hub_id="facebook/multilingual_librispeech",
        task="asr",
        licence="CC-BY-4.0",
        hours=6000,
        splits={
            "train": Part(split="train"),
            "validation": Part(split="dev"),
            "test": Part(split="test"),
            "train.9_hours": Part(split="9_hours"),
            "train.1_hours": Part(split="1_hours"),
        },
        columns={"audio": "audio", "text": "transcript"},
        extras={"speaker": "speaker_id", "duration": "audio_duration", "id": "id"},
        languages=_MLS,
        note="Read books, lower case without punctuation. Its English part is another data set, parler-tts/mls_eng.",
    ),
    Corpus(
        name="speech_commands",
        other_names={"google_speech_commands": (), "speech_commands_v2": (), "speech_commands_v0.02": ()},
        hub_id="pollen-robotics/speech-commands-v0.02",
        task="classification",
        licence="CC-BY-4.0",
        hours=29,
        splits=_ROLES,
        columns={"audio": "audio", "label": "label"},
        extras={"speaker": "speaker_id", "id": "file"},
        languages=_EN,
        clean=keyword,
        note="Version 0.02: 35 words, a second each. Shards are sorted by label, so a limit takes few labels: shuffle, "
        "or load all. The six recordings of background noise are left out.",
    ),
    Corpus(
        name="audioset",
        hub_id="agkphysics/AudioSet",
        task="classification",
        licence="CC-BY-4.0",
        hours=5800,
        config="balanced",
        splits={
            "train": Part(split="train"),
            "test": Part(split="test"),
            "train.unbalanced": Part(split="train", config="unbalanced"),
        },
        columns={"audio": "audio", "label": First("human_labels"), "all_labels": "human_labels"},
        extras={"id": "video_id"},
        note="10 s of YouTube each, whose audio has its own terms. A clip has several labels: label is the first, "
        "all_labels holds all. train is the balanced set (about 60 h).",
    ),
    Corpus(
        name="esc50",
        hub_id="ashraq/esc50",
        task="classification",
        licence="CC-BY-NC-3.0",
        hours=2.8,
        splits={
            "train": Part(split="train", folds=(1, 2, 3)),
            "validation": Part(split="train", folds=(4,)),
            "test": Part(split="train", folds=(5,)),
            "all": Part(split="train"),
        },
        columns={"audio": "audio", "label": "category"},
        extras={"id": "filename", "fold": "fold"},
        clean=spaced,
        note="50 kinds of sounds, 5 s each. Results are usually averaged over its 5 folds.",
    ),
    Corpus(
        name="urbansound8k",
        other_names={"us8k": ()},
        hub_id="danavery/urbansound8K",
        task="classification",
        licence="CC-BY-NC-3.0",
        hours=8.75,
        splits={
            "train": Part(split="train", folds=(1, 2, 3, 4, 5, 6, 7, 8)),
            "validation": Part(split="train", folds=(9,)),
            "test": Part(split="train", folds=(10,)),
            "all": Part(split="train"),
        },
        columns={"audio": "audio", "label": "class"},
        extras={"duration": Span("start", "end"), "id": "slice_file_name", "fold": "fold"},
        clean=spaced,
        note="10 kinds of sounds, up to 4 s each. Results are usually averaged over its 10 folds.",
    ),
    Corpus(
        name="voxceleb",
        other_names={"voxceleb1": ("test",), "voxceleb2": ("train",)},
        hub_id="acul3/voxceleb2",
        task="classification",
        licence="CC-BY-4.0",
        hours=1000,
        splits={
            "train": Part(split="train", columns={"audio": "audio_path", "label": "speaker_id"}),
            "test": Part(split="test", hub_id="asahi417/voxceleb1-test-split"),
        },
        columns={"audio": "audio", "label": "speaker_id"},
        extras={"speaker": "speaker_id", "gender": "gender", "id": "id"},
        note="Who speaks, on YouTube, whose audio has its own terms. train is a copy of 462,850 clips of VoxCeleb2's "
        "development set, test is that of VoxCeleb1: other speakers, for verification.",
    ),
)

_KNOWN.update({corpus.name: corpus for corpus in CORPORA})
