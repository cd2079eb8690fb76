"""Which models are trained by which method and adapter in the tests: the list that the tests run, as a table too.

    python -m tests.trained_models

A cell counts because its test lowers a loss or raises a reward.
"""

from __future__ import annotations

from typing import NamedTuple


class Trained(NamedTuple):
    """One combination that a test trains."""

    model: str  # a kind of tiny model
    method: str
    adapter: str  # "full" for all weights
    test: str  # file::function
    slow: bool = False


# What the page of models calls the tiny ones, in its order.
NAMES = {
    "whisper": "Whisper",
    "moonshine": "Moonshine",
    "moonshine_streaming": "Moonshine Streaming",
    "speech2text": "Speech2Text",
    "canary": "Canary",
    "cohere_asr": "Cohere Transcribe",
    "wav2vec2": "Wav2Vec2, CTC (base: group norm)",
    "wav2vec2-large": "Wav2Vec2, CTC (large: layer norm)",
    "hubert": "HuBERT, CTC",
    "wavlm": "WavLM, CTC",
    "unispeech": "UniSpeech, CTC",
    "unispeech_sat": "UniSpeech-SAT, CTC",
    "data2vec": "Data2Vec-Audio, CTC",
    "sew": "SEW, CTC",
    "sew_d": "SEW-D, CTC",
    "wav2vec2_conformer": "Wav2Vec2-Conformer, CTC",
    "wav2vec2_bert": "Wav2Vec2-BERT, CTC",
    "omniasr": "OmniASR, CTC",
    "lasr": "LASR, CTC",
    "granite_speech5": "Granite Speech 5.0, CTC",
    "parakeet": "Parakeet, CTC",
    "parakeet_rnnt": "Parakeet, RNN-T",
    "parakeet_tdt": "Parakeet, TDT",
    "nemotron_streaming": "Nemotron ASR Streaming, RNN-T",
    "nemotron3_5": "Nemotron 3.5 ASR, RNN-T",
    "qwen3_asr": "Qwen3-ASR",
    "qwen2_audio": "Qwen2-Audio",
    "glm_asr": "GLM-ASR",
    "voxtral": "Voxtral",
    "fun_asr": "Fun-ASR-Nano",
    "granite_speech": "Granite Speech",
    "audio_flamingo3": "Audio Flamingo 3",
    "qwen2_5_omni": "Qwen2.5-Omni, thinker",
    "qwen3_omni": "Qwen3-Omni, thinker",
    "vibevoice": "VibeVoice-ASR",
    "omniasr_llm": "OmniASR, language model",
    "wav2vec2-group": "Wav2Vec2, labels",
    "hubert-layer": "HuBERT, labels",
    "whisper-labels": "Whisper, labels",
    "ast": "AST, labels",
}
METHODS = ("SFT", "DPO", "ORPO", "KTO", "GRPO", "RAFT")
# In a column of its own: families without distributions over tokens learn a teacher's transcripts alone.
DISTILLATION = "distillation"
ADAPTERS = ("full", "LoRA", "8-bit LoRA", "4-bit LoRA", "8-bit and 4-bit LoRA")
# Of the second line only one cell each is trained by a fast test.
AUDIO_LLMS_LATER = ("audio_flamingo3", "qwen2_5_omni", "qwen3_omni", "vibevoice", "omniasr_llm")
# Their adapters lie in a language model like Qwen2-Audio's; that of Qwen3-Omni has experts.
ADAPTED_SLOWLY = ("audio_flamingo3", "qwen2_5_omni", "vibevoice")
AUDIO_LLMS = ("qwen3_asr", "qwen2_audio", "glm_asr", "voxtral", "fun_asr", "granite_speech", *AUDIO_LLMS_LATER)
CTC_TEST = "tests/trainers/test_ctc_training.py::test_training_lowers_the_loss_or_raises_the_reward"
AUDIO_LLM, LABELS = "tests/models/test_audio_llm.py", "tests/trainers/test_labels.py"
LABEL_MODELS = ("wav2vec2-group", "hubert-layer", "whisper-labels", "ast")
SEQ2SEQ_MODELS = ("moonshine", "moonshine_streaming", "speech2text", "canary", "cohere_asr")
# Of models that differ from one of the others in a few lines, one or two cells are fast.
ALIKE = ("moonshine_streaming", "cohere_asr")
FAST_ALIKE = {("moonshine_streaming", "SFT", "full"), ("cohere_asr", "ORPO", "full")}
# Of the others the tests take minutes: they run before a release.
FAST = {
    *(("wav2vec2", method, "full") for method in METHODS),
    ("parakeet", "DPO", "LoRA"),
    ("data2vec", "ORPO", "LoRA"),
    ("omniasr", "SFT", "full"),
    ("granite_speech5", "DPO", "LoRA"),
    ("parakeet_tdt", "GRPO", "full"),
    ("parakeet_tdt", "DPO", "LoRA"),
    ("nemotron3_5", "SFT", "full"),
}
CTC_MODELS = ("wav2vec2", "wav2vec2-large", "hubert", "wavlm", "unispeech", "unispeech_sat", "data2vec", "sew", "sew_d")
CTC_MODELS += ("wav2vec2_conformer", "wav2vec2_bert", "omniasr", "lasr", "granite_speech5", "parakeet")
TRANSDUCERS = ("parakeet_rnnt", "parakeet_tdt", "nemotron_streaming", "nemotron3_5")
CTC = [
    Trained(model, method, adapter, CTC_TEST, slow=(model, method, adapter) not in FAST)
    for model in (*CTC_MODELS, *TRANSDUCERS)
    for method in (*METHODS, DISTILLATION)
    for adapter in ("full", "LoRA")
]
_FAMILY_TESTS = {
    "SFT": "test_sft_lowers_its_loss_on_eight_clips",
    "DPO": "test_dpo_lowers_its_loss_on_eight_clips",
    "ORPO": "test_orpo_lowers_its_loss_on_eight_clips",
    "KTO": "test_kto_lowers_its_loss_on_eight_clips",
    "GRPO": "test_grpo_raises_the_reward_on_four_clips",
    "RAFT": "test_raft_raises_the_reward_on_four_clips",
}
# Whisper with all weights and the other cells of audio language models have tests of their own.
_FAMILY_CELLS = [
    *(("whisper", method, "LoRA") for method in ("SFT", "DPO", "ORPO", "KTO", "GRPO")),
    *((model, method, adapter) for model in SEQ2SEQ_MODELS for method in METHODS for adapter in ("full", "LoRA")),
    *(
        (model, method, adapter)
        for model in AUDIO_LLMS
        for method in ("SFT", "ORPO", "KTO", "RAFT")
        for adapter in ("full", "LoRA")
    ),
    *((model, "DPO", "full") for model in AUDIO_LLMS),
]
FAST_ADAPTERS = {*(("whisper", method) for method in ("SFT", "DPO", "ORPO", "KTO", "GRPO")), ("qwen2_audio", "ORPO")}
# What DPO and ORPO train besides: parts of their losses.
FAST_SINGLE = {("whisper", "LoRA"), ("moonshine", "full"), ("qwen2_audio", "full")}


def is_slow(model: str, method: str, adapter: str) -> bool:
    if model in ALIKE:
        return (model, method, adapter) not in FAST_ALIKE
    if model in AUDIO_LLMS_LATER:
        return True
    if method in ("SFT", "KTO"):
        return (model, adapter) not in FAST_SINGLE
    return (adapter == "LoRA" and (model, method) not in FAST_ADAPTERS) or (model in AUDIO_LLMS and method == "DPO")


FAMILIES = [
    Trained(
        model,
        method,
        adapter,
        f"tests/trainers/test_families.py::{_FAMILY_TESTS[method]}",
        slow=is_slow(model, method, adapter),
    )
    for model, method, adapter in _FAMILY_CELLS
]
# What the other tests of classifiers do not train; the slow ones differ from the fast ones in the model alone.
FAST_CLASSIFIERS = {
    ("ast", "SFT", "full"),
    ("ast", "KTO", "full"),
    ("ast", "ORPO", "full"),
    ("ast", "GRPO", "LoRA"),
    ("wav2vec2-group", "RAFT", "full"),
    ("wav2vec2-group", "DPO", "LoRA"),
}
CLASSIFIERS = [
    Trained(
        model,
        method,
        adapter,
        f"{LABELS}::test_training_lowers_the_loss_or_raises_the_reward",
        slow=(model, method, adapter) not in FAST_CLASSIFIERS,
    )
    for model in LABEL_MODELS
    for method in METHODS
    for adapter in (("full", "LoRA") if method in ("SFT", "ORPO", "KTO", "RAFT") else ("LoRA",))
    if (model, method, adapter) != ("ast", "RAFT", "full")  # has a test of its own
]
FAST_STUDENTS = ("moonshine", "speech2text", "canary", "qwen2_audio", "ast")
FAST_QUANTISED = {("qwen2_audio", "4 bit")}
COMBINATIONS = [
    *FAMILIES,
    Trained(
        "whisper", "SFT", "full", "tests/trainers/test_sft.py::test_tuning_lowers_the_loss_and_logs_it_by_trl_s_names"
    ),
    Trained("whisper", "DPO", "full", "tests/trainers/test_dpo.py::test_tuning_raises_the_margin"),
    Trained(
        "whisper",
        "KTO",
        "full",
        "tests/trainers/test_kto.py::test_tuning_raises_desirable_transcripts_above_the_others",
    ),
    *(
        Trained(
            "whisper",
            method,
            "8-bit and 4-bit LoRA",
            "tests/trainers/test_methods.py::test_an_adapter_on_a_quantised_base_learns",
        )
        for method in ("SFT", "KTO")
    ),
    Trained(
        "whisper",
        "DPO",
        "8-bit and 4-bit LoRA",
        "tests/trainers/test_quantised.py::test_an_adapter_on_a_quantised_base_learns_and_loads_on_the_full_one",
    ),
    Trained(
        "whisper",
        "ORPO",
        "full",
        "tests/trainers/test_orpo.py::test_tuning_raises_the_odds_of_the_chosen_and_its_likelihood",
    ),
    Trained("whisper", "GRPO", "full", "tests/trainers/test_grpo.py::test_tuning_raises_the_reward"),
    Trained("whisper", "RAFT", "full", "tests/trainers/test_raft.py::test_tuning_raises_the_reward"),
    Trained("whisper", "RAFT", "LoRA", "tests/trainers/test_raft.py::test_an_adapter_learns_and_its_base_stays"),
    *CTC,
    *(
        Trained(
            model,
            "DPO",
            "LoRA",
            f"{AUDIO_LLM}::test_dpo_lowers_its_loss_with_an_adapter_in_the_language_model_alone",
            slow=model in ADAPTED_SLOWLY,
        )
        for model in AUDIO_LLMS
    ),
    *(
        Trained(
            model,
            "GRPO",
            "full",
            f"{AUDIO_LLM}::test_grpo_raises_the_reward_on_four_clips",
            slow=model in AUDIO_LLMS_LATER,
        )
        for model in AUDIO_LLMS
    ),
    *(
        Trained(
            model, "DPO", "full", f"{LABELS}::test_dpo_lowers_its_loss_on_eight_clips_from_a_checkpoints_name_alone"
        )
        for model in LABEL_MODELS
    ),
    *(Trained(model, "GRPO", "full", f"{LABELS}::test_grpo_raises_the_reward_on_four_clips") for model in LABEL_MODELS),
    *(
        Trained(
            model,
            "GRPO",
            "LoRA",
            f"{AUDIO_LLM}::test_grpo_raises_the_reward_with_an_adapter_in_the_language_model_alone",
            slow=model != "qwen2_audio",
        )
        for model in AUDIO_LLMS
    ),
    *(
        Trained(
            model,
            "DPO",
            f"{bits} LoRA".replace(" bit", "-bit"),
            "tests/trainers/test_quantised.py"
            "::test_an_audio_language_model_learns_on_a_quantised_base_with_its_tower_whole",
            slow=(model, bits) not in FAST_QUANTISED,
        )
        for model in AUDIO_LLMS
        for bits in ("8 bit", "4 bit")
    ),
    Trained("ast", "RAFT", "full", f"{LABELS}::test_raft_learns_the_labels_that_were_rewarded"),
    *CLASSIFIERS,
    Trained(
        "whisper",
        DISTILLATION,
        "full",
        "tests/trainers/test_distillation.py::test_a_student_comes_nearer_to_its_teacher",
    ),
    Trained(
        "whisper",
        DISTILLATION,
        "8-bit and 4-bit LoRA",
        "tests/trainers/test_methods.py::test_an_adapter_on_a_quantised_base_learns",
    ),
    *(
        Trained(
            model,
            DISTILLATION,
            "full",
            "tests/trainers/test_distillation.py::test_every_family_with_distributions_learns_from_one_of_its_kind",
            slow=model not in FAST_STUDENTS,
        )
        for model in (*SEQ2SEQ_MODELS, *AUDIO_LLMS, *LABEL_MODELS)
    ),
]


def table() -> str:
    """Markdown: a line for each model, a column for each method, the adapters that are tested in the cells; with a star
    where the test is a slow one."""
    columns = (*METHODS, DISTILLATION)
    lines = [["model", *columns]]
    for model, name in NAMES.items():
        found = {method: [x for x in COMBINATIONS if (x.model, x.method) == (model, method)] for method in columns}
        cells = [
            ", ".join(x.adapter + "*" * x.slow for x in sorted(found[method], key=lambda x: ADAPTERS.index(x.adapter)))
            for method in columns
        ]
        lines.append([name, *cells])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    print(table())
