"""What other projects call things, and our names for them: flags, settings, commands, arguments, columns.

TRL, batch-opt-rlhf-asr (`finetune.py`), halo-forge (`halo-forge audio`), scripts of transformers and NeMo. If you
type one of their names, the error names ours; only then is the nearest spelling guessed.
"""

from __future__ import annotations

import inspect
import re
import sys
from abc import ABCMeta
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

# Flag or field -> answers. The first one counts all of whose `--flags` the command, or the config, has.
SETTINGS: Mapping[str, Sequence[str]] = {
    # model
    "base_model": ["the model is --model_name_or_path here"],
    "model": ["the model is --model_name_or_path here"],
    "model_name": ["the model is --model_name_or_path here"],
    "model_id": ["the model is --model_name_or_path here"],
    "model_path": ["the model is --model_name_or_path here"],
    "pretrained_model": ["the model is --model_name_or_path here"],
    "local_files_only": ["nothing is fetched where the environment says HF_HUB_OFFLINE=1"],
    # rows
    "train_data": ["rows to train on are --dataset_name here"],
    "train_file": ["rows to train on are --dataset_name here"],
    "train_dataset": ["rows to train on are --dataset_name here"],
    "dataset": ["rows are --dataset_name here"],
    "data": ["rows are --dataset_name here"],
    "test_data": ["rows to measure on are --eval_dataset_name here", "rows to measure on are --dataset_name here"],
    "eval_data": ["rows to measure on are --eval_dataset_name here", "rows to measure on are --dataset_name here"],
    "eval_dataset": ["rows to measure on are --eval_dataset_name here", "rows to measure on are --dataset_name here"],
    "validation_file": ["rows to measure on are --eval_dataset_name here"],
    "max_train_samples": ["--limit takes the first rows, as many as it says"],
    "max_samples": ["--limit takes the first rows, as many as it says"],
    "audio_column_name": ["columns with other names are told by --columns audio=THEIRS"],
    "text_column_name": ["columns with other names are told by --columns text=THEIRS"],
    "min_audio_len": ["it is --min_audio_seconds here"],
    "max_audio_len": ["it is --max_audio_seconds here"],
    "max_audio_length": ["it is --max_audio_seconds here; clips are left out, never cut"],
    "max_duration_in_seconds": ["it is --max_audio_seconds here; clips are left out, never cut"],
    "min_duration_in_seconds": ["it is --min_audio_seconds here"],
    "sample_rate": ["every clip is resampled to the model's rate; leave it out"],
    "dataset_num_proc": ["--dataloader_num_workers is how many processes read rows here"],
    "preprocessing_num_workers": ["--dataloader_num_workers is how many processes read rows here"],
    "num_workers": ["--dataloader_num_workers is how many processes read rows here"],
    "max_length": [
        "no transcript is cut here: one that does not fit the decoder is a bad row (--on_bad_rows skip leaves it out); "
        "--max_completion_length bounds sampled hypotheses",
        "no transcript is cut here: one that does not fit the decoder is a bad row (--on_bad_rows skip leaves it out)",
    ],
    "max_prompt_length": ["no prompt is cut: one that does not fit is a bad row (--on_bad_rows skip leaves it out)"],
    "max_new_tokens": ["--max_completion_length bounds sampled hypotheses here"],
    "augment_config_path": ["it is --augmentation here, a file or JSON"],
    # losses
    "alpha": ["the weight of the odds ratio, or of the frozen policy, is --beta here; LoRA's alpha is --lora_alpha"],
    "rpo_alpha": ["a likelihood term is a second loss: --loss_type sigmoid sft --loss_weights 1.0 ALPHA"],
    "reference_free": ["ORPO needs no frozen policy: audiorl orpo"],
    "reward_model_path": ["rewards are --reward_funcs here, by name or dotted path"],
    "reward_funcs_path": ["rewards are --reward_funcs here, by name or dotted path"],
    "wer_threshold": ["it is --reward_threshold 0.7 here for a WER of 0.3: rewards are 1 - WER"],
    # adapters
    "use_8bit": ["it is --load_in_8bit --use_peft here"],
    "use_4bit": ["it is --load_in_4bit --use_peft here"],
    "use_lora": ["it is --use_peft here"],
    "enable_lora": ["it is --use_peft here"],
    "use_adalora": ["it is --use_peft --peft_type adalora here"],
    "lora_rank": ["it is --lora_r here"],
    # run
    "output": ["it is --output_dir here"],
    "use_compile": ["it is --torch_compile here"],
    "lr": ["it is --learning_rate here"],
    "lr_decay": ["it is --lr_decay_per_cycle here"],
    "cycles": ["it is --num_cycles here"],
    "epochs": ["it is --num_train_epochs here"],
    "batch_size": ["it is --per_device_train_batch_size here, which counts clips"],
    "evaluation_strategy": ["it is --eval_strategy here"],
    "is_test": ["--eval_dataset_name measures WER before and after, --eval_strategy the loss in between"],
    "generate_during_eval": ["it is --eval_wer here"],
    "save_every_cycle": ["it is --save_strategy epoch here: an epoch is a cycle"],
    "resume_from_cycle": ["it is --resume_from_checkpoint here, at any step"],
    "dry_run": ["settings, rewards and all rows are checked before every run; leave it out"],
    "device": ["CUDA_VISIBLE_DEVICES chooses the GPU, --use_cpu true the CPU"],
    "use_vllm": ["hypotheses are sampled by the model itself here, each clip encoded once; leave it out"],
    "bf16_full_eval": ["the evaluation runs in the precision of --bf16"],
}

COMMANDS = {
    "train": "each method has a command: sft and kto on texts, dpo and orpo on pairs, grpo and raft on rewards",
    "finetune": "each method has a command: sft and kto on texts, dpo and orpo on pairs, grpo and raft on rewards",
    "benchmark": "models are measured by evaluate",
    "eval": "models are measured by evaluate",
    "test": "models are measured by evaluate",
    "transcribe": "evaluate transcribes and counts errors; in Python, audiorl.transcribe",
    "mine": "pairs are mined by pairs",
    "generate": "pairs are mined by pairs",
    "corpora": "corpora are listed by datasets",
    "data": "corpora are listed by datasets",
    "convert": "rows are written in another form by export",
}

# Values of loss_type
LOSSES = {
    "kto_pair": "For pairs it was replaced by 'bco_pair' and 'apo_zero'. ",
    "bco": "It is 'bco_pair' here. ",
    "dpo": "It is 'sigmoid' here. ",
    "kto": "It is a trainer of its own: KTOTrainer, audiorl kto. ",
    "apo_zero_unpaired": "It is a loss of KTOTrainer, audiorl kto; for pairs there is 'apo_zero'. ",
    "orpo": "It is a trainer of its own: ORPOTrainer, audiorl orpo. ",
    "simpo": "The nearest is ORPOTrainer (audiorl orpo), which needs no frozen policy either. ",
}

# Arguments of trainers in Python
ARGUMENTS = {
    "tokenizer": "the processor is processing_class here: AutoProcessor.from_pretrained(...)",
    "processor": "the processor is processing_class here",
    "feature_extractor": "the whole processor is processing_class here: AutoProcessor.from_pretrained(...)",
    "training_args": "the config is args here",
    "config": "the config is args here",
    "dataset": "rows are train_dataset here",
    "train_data": "rows are train_dataset here",
    "eval_data": "rows to measure on are eval_dataset here",
    "rewards": "rewards are reward_funcs here",
    "reward_model": "rewards are reward_funcs here, functions or names",
    "judge": "rewards are reward_funcs here: the hypotheses with the best and the worst reward are the pair",
    "model_ref": "the frozen policy is ref_model here, of DPOTrainer",
    "ref_model": "this method has no frozen policy of your own to pass; leave it out",
    "reward_processing_classes": "a reward is a function of texts here and has its own tokenizer; leave it out",
    "rollout_func": "hypotheses are sampled by the model's family here; leave it out",
    "formatting_func": "rows have the columns audio and text here; see --columns and speech_rows(columns=...)",
}

# Column -> names that corpora and manifests give it
COLUMNS: Mapping[str, Sequence[str]] = {
    "audio": [
        *("audio_filepath", "audio_path", "audio_file", "path", "file_path", "filepath", "file", "file_name"),
        *("filename", "wav", "wav_path", "wav_filename", "clip", "speech", "source"),
    ],
    "text": [
        *("sentence", "transcription", "transcript", "normalized_text", "raw_text", "target", "txt", "words", "label"),
    ],
    "chosen": ["chosens", "preferred", "winner", "better"],
    "rejected": ["rejecteds", "dispreferred", "loser", "worse"],
    "language": ["lang", "locale", "language_code"],
    "duration": ["length", "seconds", "duration_seconds"],
}


def answer_to_flag(name: str, known: Collection[str]) -> str | None:
    """The answer to a flag or field of another project; it names known flags only. None: there is no answer."""
    for answer in SETTINGS.get(name.lstrip("-").replace("-", "_"), ()):
        if set(re.findall(r"--(\w+)", answer)) <= set(known):
            return answer
    return None


def column_of(ours: str, found: Iterable[str]) -> str | None:
    """Which of the columns found is probably ours under another name: a known synonym, else the nearest spelling."""
    spare = list(found)
    by_lower = {name.lower(): name for name in reversed(spare)}
    for theirs in COLUMNS.get(ours, ()):
        if theirs in by_lower:
            return by_lower[theirs]
    near = get_close_matches(ours, spare, n=1)
    return near[0] if near else None


class AnswersWrongArguments(ABCMeta):
    """For configs and trainers: the error about an unknown keyword names the one that is probably meant."""

    if not TYPE_CHECKING:  # checkers and editors go by __init__

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            taken = inspect.signature(cls.__init__).parameters
            kwargs = _with_names_of_today(cls, kwargs)
            if not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
                for name in kwargs:
                    if name not in taken:
                        raise TypeError(f"{cls.__name__} takes no {name!r}: {_meant(cls, name, list(taken)[1:])}.")
            if not is_dataclass(cls):
                _check_positions(cls, args, list(taken.values())[1:])
            return super().__call__(*args, **kwargs)

        @property
        def __signature__(cls) -> inspect.Signature:
            """What `help` and notebooks show: that of __init__."""
            own = inspect.signature(cls.__init__)
            return own.replace(parameters=list(own.parameters.values())[1:])


def _check_positions(trainer: type, args: Sequence[Any], taken: Sequence[inspect.Parameter]) -> None:
    """Refuse a config in another argument's place, and more arguments without a name than a trainer takes."""
    places = [one.name for one in taken if one.kind is one.POSITIONAL_OR_KEYWORD]
    for name, value in zip(places[:2], args, strict=False):  # of later ones trainers tell more
        if name != "args" and is_dataclass(value) and hasattr(value, "output_dir"):
            raise TypeError(
                f"{trainer.__name__}: argument {places.index(name) + 1} is {name}, and got {type(value).__name__}. "
                f"Pass it by name: {trainer.__name__}({places[0]}, args=...)."
            )
    if len(args) > len(places):
        raise TypeError(
            f"{trainer.__name__} takes {', '.join(places)} without a name, and got {len(args)} such arguments. Pass "
            "the rest by name, for example train_dataset=..."
        )


def _with_names_of_today(cls: type, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keywords of a config, former names (`former_names` of the class) replaced by those of today."""
    former = getattr(cls, "former_names", {})
    for old in former.keys() & kwargs.keys():
        if former[old] in kwargs:
            raise TypeError(f"{cls.__name__}: {old} is the former name of {former[old]}. Leave out one of the two.")
    return {former.get(name, name): value for name, value in kwargs.items()}


def _meant(cls: type, name: str, taken: Sequence[str]) -> str:
    if is_dataclass(cls):
        answer = answer_to_flag(name, taken)
        if answer is not None:
            return answer.replace("--", "")
    else:
        config = _config_of(cls)
        if config is not None and name in {f.name for f in fields(config)}:
            return f"it is a setting, args={config.__name__}({name}=...)"
        if name in ARGUMENTS:
            return ARGUMENTS[name]
    near = get_close_matches(name, taken, n=1)
    return f"did you mean {near[0]!r}?".rstrip("?") if near else f"it takes {', '.join(taken)}"


def _config_of(trainer: type) -> Any:
    """The config class that a trainer's `args` is annotated with."""
    annotation = str(inspect.signature(trainer.__init__).parameters["args"].annotation)  # type: ignore[misc]
    name = annotation.split("|")[0].strip()
    found = getattr(sys.modules[trainer.__module__], name, None)
    return found if is_dataclass(found) else None


# Flags of other ORPO scripts that would change nothing here
ORPO_REFUSED: dict[str, str] = {
    "--timestamps": "no flag says so here, each row does: a text that begins with a timestamp such as <|0.00|> is "
    "learnt with its timestamps. Write them into the columns chosen and rejected.",
    "--disable_prompt_loss": "there is no prompt beside an encoder: the audio is no token, and prefix tokens "
    "(language, task, a row's prompt) never count. Leave it out; --nll_weight weights the chosen text's likelihood.",
}
