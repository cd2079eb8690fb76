"""The corpora known by name: where they lie as Parquet files, their splits, columns, licences and hours.

The Hub could not be reached when this was written (November 2026). Ids, configs, splits and columns were read in

* public code of 2025 and 2026 that loads these data sets without loading scripts: ids, configs and splits of all of
  them; columns of librispeech, common_voice, fleurs, voxpopuli, speech_commands, audioset, esc50, urbansound8k,
  voxceleb, and of ami and multilingual_librispeech as far as they are in `columns`;
* schemas in TensorFlow's catalogue (librispeech, fleurs) and in the Hub's guide to audio data sets (gigaspeech).

Hours and licences are what the makers of the corpora are known to state; they were written down from memory and not
looked up again. Read the licence where the data lies before you use it.

Not verified either: the configs "test" of gigaspeech, the split "validation" of tedlium, all `extras` of tedlium, and
those of ami, multilingual_librispeech and gigaspeech on their Parquet copies: where a copy lacks an extra column, rows
have None. A data set that moved is loaded from elsewhere with
`load_corpus(dataclasses.replace(find_corpus(name), hub_id=...))`, or from a folder with `path=`.

Mozilla emptied its own Common Voice repositories in October 2025; GigaSpeech and TED-LIUM of their makers are gated
or need a loading script. Their Parquet copies by others are used.
"""

from __future__ import annotations

import re

from audiorl.datasets.corpus import Corpus, First, Part, Samples, Span

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
    """GigaSpeech: punctuation tags become punctuation, tags of sounds go; a clip of nothing else is left out."""
    for tag, mark in _PUNCTUATION.items():
        text = text.replace(tag, mark)
    return _TAG.sub("", text).strip() or None


def scored(text: str) -> str | None:
    """TED-LIUM: segments that its makers leave out of scoring are left out, marks of unknown words go."""
    if "ignore_time_segment_in_scoring" in text.lower():
        return None
    return " ".join(text.replace("<unk>", " ").split()) or None


def complete(text: str) -> str | None:
    """TED-LIUM: the same, and transcripts that lack words are left out."""
    return None if "<unk>" in text else scored(text)


def spaced(label: str) -> str:
    """A label as words: "dog_bark" is "dog bark"."""
    return label.replace("_", " ")


def keyword(label: str) -> str | None:
    """Speech Commands: minutes of background noise are left out."""
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
