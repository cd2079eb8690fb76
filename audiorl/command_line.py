"""The flags of a command without what the command needs: read from the source of its dataclasses.

torch and transformers take seconds to import, and `--help`, a misspelt flag or a bad value need neither. So

1. `flags_in_source` reads the fields of dataclasses (name, type, default, help) by parsing the files they are in, those
   of transformers and trl included, and imports nothing. `flags_of` gives the same for classes that are loaded.
2. `help_page` shows the flags that most runs need, by groups; with `everything` all of them.
3. `check_flags` refuses misspelt flags, values of the wrong kind, files that are not there, on the command line and in
   the file behind `--config`, and tells which flags are missing, each in one line.
4. `read_flags` fills one dataclass, for commands that need nothing else; `audiorl.flags.parse` is for those that do.

Fields of a dataclass are flags; so are their former names (`former_names` of the class).
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from enum import Enum
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from audiorl.elsewhere import answer_to_flag
from audiorl.exits import MISTYPED, stop
from audiorl.files import check_folder
from audiorl.text.languages import check_language

HELP = ("--help", "-h")
HELP_ALL = "--help-all"
CONFIG = "--config"
# What may name a file or folder: one that is not there is told before anything is loaded
PATH_FLAGS = ("dataset_name", "eval_dataset_name", "model_name_or_path", "path")
ROW_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".tar", ".scp", ".gz")
# true and false in turn
TRUTH = ("true", "false", "yes", "no", "t", "f", "y", "n", "1", "0")
_METHODS = "audiorl.trainers"
_ROWS, _PAIRS, _REWARDS = (f"audiorl.flags.{kind}ScriptArguments" for kind in ("Row", "Speech", "Reward"))
_MODEL = "audiorl.adapters.SpeechModelConfig"
# command -> the dataclasses whose fields are its flags
CLASSES: Mapping[str, Sequence[str]] = {
    "sft": (_ROWS, f"{_METHODS}.sft.SFTConfig", _MODEL),
    "dpo": (_PAIRS, f"{_METHODS}.dpo.DPOConfig", _MODEL),
    "orpo": (_PAIRS, f"{_METHODS}.orpo.ORPOConfig", _MODEL),
    "kto": (_PAIRS, f"{_METHODS}.kto.KTOConfig", _MODEL),
    "grpo": (_REWARDS, f"{_METHODS}.grpo.GRPOConfig", _MODEL),
    "raft": (_REWARDS, f"{_METHODS}.raft.RAFTConfig", _MODEL),
    "pairs": ("audiorl.commands.pairs.PairsArguments", "audiorl.commands.pairs.PairsConfig"),
    "history": ("audiorl.commands.history.HistoryArguments",),
    "evaluate": tuple(f"audiorl.evaluation.settings.{kind}Arguments" for kind in ("Model", "Data", "Counting")),
    "checkpoints": ("audiorl.commands.checkpoints.CheckpointsArguments",),
    "datasets": ("audiorl.commands.datasets.DatasetsArguments",),
    "export": ("audiorl.commands.datasets.ExportArguments",),
    "segment": ("audiorl.commands.segment.SegmentArguments",),
    "report": ("audiorl.commands.report.ReportArguments",),
}
# command -> the flag that its first word may stand for
FIRST_WORD: Mapping[str, str] = {"checkpoints": "run", "datasets": "name", "report": "run"}


class Flag(NamedTuple):
    """One field of a dataclass, as text."""

    name: str
    kind: str  # its annotation: "float | None"
    default: str  # as in Python; "" for a field that must be given
    help: str
    choices: tuple[str, ...] = ()
    home: str = ""  # the class that describes it


class UnreadableSource(LookupError):
    """A file or class that is not where it was in the versions this was written for."""


# ---- reading dataclasses ----


def flags_of(classes: Iterable[type]) -> dict[str, Flag]:
    """The flags of dataclasses that are loaded, by name."""
    return {one.name: _loaded_flag(one, kind) for kind in classes for one in fields(kind) if one.init}


def former_flags(classes: Iterable[type]) -> dict[str, str]:
    """Former name -> name of today."""
    return {old: new for kind in classes for old, new in getattr(kind, "former_names", {}).items()}


def _loaded_flag(one: Any, kind: type) -> Flag:
    default = "" if one.default is MISSING and one.default_factory is MISSING else _shown(_default_of(one))
    text = one.type.__name__ if isinstance(one.type, type) else str(one.type)
    return Flag(
        one.name,
        text,
        default,
        str(one.metadata.get("help", "")).replace("%%", "%"),
        tuple(str(choice) for choice in one.metadata.get("choices") or _literals(text)),
        next((base.__name__ for base in kind.__mro__ if one.name in vars(base).get("__annotations__", {})), ""),
    )


def _default_of(one: Any) -> Any:
    return one.default if one.default is not MISSING else one.default_factory()


def _shown(value: Any) -> str:
    return repr(value.value if isinstance(value, Enum) else value)


def _literals(kind: str) -> tuple[str, ...]:
    found = re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", kind)
    return tuple(str(value) for value in ast.literal_eval(f"({found[1]},)")) if found else ()


def flags_in_source(classes: Iterable[str]) -> tuple[dict[str, Flag], dict[str, str]]:
    """The flags of dataclasses named "package.module.Class", and their former names; nothing is imported.

    Raises:
        UnreadableSource: a class is not found in the files.
    """
    flags: dict[str, Flag] = {}
    former: dict[str, str] = {}
    for path in classes:
        module, _, name = path.rpartition(".")
        _add_fields(_Module.named(module), name, flags, former)
    return flags, former


def _add_fields(module: _Module, name: str, flags: dict[str, Flag], former: dict[str, str]) -> None:
    """Add the fields of a class, those of its bases first; what comes later replaces the earlier."""
    home, node = module.find(name)
    if not isinstance(node, ast.ClassDef):
        raise UnreadableSource(f"{module.name}.{name} is no class.")
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id not in ("ABC", "Protocol", "Generic"):
            _add_fields(home, base.id, flags, former)
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        kind = ast.unparse(line.annotation)
        if line.target.id == "former_names" and line.value is not None:
            former.update(ast.literal_eval(line.value))
        elif not kind.startswith("ClassVar") and not line.target.id.startswith("_"):
            flag = _flag_in_source(home, node.name, line.target.id, kind, line.value)
            if flag is not None:
                flags[flag.name] = flag


def _flag_in_source(module: _Module, home: str, name: str, kind: str, value: ast.expr | None) -> Flag | None:
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == "field"):
        return Flag(name, kind, "" if value is None else _shown(module.value(value)), "", _literals(kind), home)
    given = {one.arg: one.value for one in value.keywords}
    if "init" in given and module.value(given["init"]) is False:
        return None
    default = ""
    if "default" in given:
        default = _shown(module.value(given["default"]))
    elif "default_factory" in given:
        factory = given["default_factory"]
        empty = {"list": "[]", "dict": "{}"}
        default = _shown(module.value(factory.body)) if isinstance(factory, ast.Lambda) else ast.unparse(factory)
        default = empty.get(default, default)
    described = {}
    if isinstance(given.get("metadata"), ast.Dict):
        pairs = zip(given["metadata"].keys, given["metadata"].values, strict=True)  # type: ignore[attr-defined]
        described = {module.value(key): content for key, content in pairs if key is not None}
    text = str(module.value(described["help"])).replace("%%", "%") if "help" in described else ""
    choices = module.value(described["choices"]) if "choices" in described else _literals(kind)
    choices = tuple(str(choice) for choice in choices) if isinstance(choices, list | tuple | dict) else ()
    return Flag(name, kind, default, text, choices, home)


class _Module:
    """A module's file, parsed; names are followed through its imports."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, path
        self._nodes: dict[str, ast.AST] = {}
        self._imports: dict[str, tuple[str, str]] = {}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                source = self._absolute(node)
                self._imports.update({one.asname or one.name: (source, one.name) for one in node.names})
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                self._nodes[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self._nodes.update(pair for one in targets for pair in _names(one, node.value))

    @staticmethod
    @cache
    def named(name: str) -> _Module:
        top, *rest = name.split(".")
        spec = importlib.util.find_spec(top)  # of a package alone this imports nothing
        for folder in () if spec is None else spec.submodule_search_locations or ():
            place = Path(folder, *rest)
            for path in (place / "__init__.py", place.with_suffix(".py")):
                if path.is_file():
                    return _Module(name, path)
        raise UnreadableSource(f"There is no file of the module {name}.")

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        up = node.level - (self.path.name == "__init__.py")
        return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])

    def find(self, name: str) -> tuple[_Module, ast.AST]:
        """What a name stands for, and the module in whose file it is."""
        if name in self._nodes:
            return self, self._nodes[name]
        if name not in self._imports:
            raise UnreadableSource(f"{self.path} does not say what {name} is.")
        source, theirs = self._imports[name]
        return _Module.named(source).find(theirs)

    def value(self, node: ast.AST) -> Any:
        """What a simple expression comes to; its text where it is not simple."""
        try:
            return ast.literal_eval(node)
        except ValueError:
            pass
        if isinstance(node, ast.JoinedStr):
            return "".join(
                str(self.value(part.value if isinstance(part, ast.FormattedValue) else part)) for part in node.values
            )
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.value(node.left) + self.value(node.right)
        if isinstance(node, ast.Dict):
            return {
                self.value(key): self.value(content) for key, content in zip(node.keys, node.values, strict=True) if key
            }
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "', '.join" and len(node.args) == 1:
            return ", ".join(map(str, self.value(node.args[0])))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("list", "get_args") and len(node.args) == 1:
            found = self.value(node.args[0])
            return list(found) if isinstance(found, list | tuple) else found
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            return _literals(ast.unparse(node))
        if isinstance(node, ast.Name):
            try:
                home, found = self.find(node.id)
            except UnreadableSource:
                return _Text(node.id)
            return home.value(found) if isinstance(found, ast.expr) else _Text(node.id)
        return _Text(ast.unparse(node))


def _names(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """What an assignment names: `a = 1`, `a, b = 1, 2`."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, part in zip(target.elts, value.elts, strict=True):
            yield from _names(one, part)


class _Text(str):
    """The text of an expression, shown without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


# ---- help ----

# The flags that most runs need: group -> flag -> what it says in a line. `{default}` is added by `help_page`.
ESSENTIAL: Mapping[str, Mapping[str, str]] = {
    "essentials": {
        "model_name_or_path": "checkpoint: a folder or a Hub name",
        "dataset_name": "rows to train on: file, folder or Hub name",
        "eval_dataset_name": "rows to measure on, before and after",
        "eval_share": "or: hold out this share, by speaker",
        "output_dir": "where everything is written",
        "learning_rate": "at its highest",
        "num_train_epochs": "passes over the rows",
        "num_cycles": "how often to sample, select and fine-tune",
        "per_device_train_batch_size": "clips",
        "gradient_accumulation_steps": "batches of an optimizer step",
    },
    "data": {
        "language": "of rows that name none",
        "columns": "other names: audio=path text=sentence",
        "max_audio_seconds": "leave longer clips out",
        "on_bad_rows": "error, or skip",
        "limit": "at most this many rows",
    },
    "method": {
        "loss_type": "one loss or several",
        "loss_weights": "one weight for each loss",
        "beta": "how near to the frozen policy it stays",
        "nll_weight": "weight of the chosen text's likelihood",
        "reward_funcs": "by name, or dotted path of your own",
        "num_generations": "hypotheses sampled for each clip",
        "max_completion_length": "tokens of a hypothesis, at most",
        "temperature": "of sampling",
        "mining_temperature": "of sampling",
        "reward_threshold": "keep hypotheses with at least this",
        "sft_weight": "weight of the transcripts' likelihood",
        "freeze_encoder": "train the decoder only",
        "augmentation": "change training clips: JSON, YAML, a file",
    },
    "adapters": {
        "use_peft": "train an adapter, not the model",
        "lora_r": "rank of the adapter",
    },
    "precision and memory": {
        "bf16": "mixed precision; unset: on where a GPU has it",
        "gradient_checkpointing": "less memory, more time",
        "max_batch_seconds": "bound a batch by seconds of audio",
        "load_in_4bit": "with an adapter on a frozen 4-bit base",
    },
    "logging and checkpoints": {
        "logging_steps": "steps between two lines",
        "eval_strategy": "no, steps or epoch",
        "save_steps": "steps between two checkpoints",
        "resume_from_checkpoint": "true: go on from the last one",
        "report_to": "tensorboard, wandb, trackio or none",
        "push_to_hub": "push the tuned model at the end",
    },
}
# Help that other libraries give, where it is not so here
CORRECTED: Mapping[str, str] = {
    "dataset_name": "Rows to train on: a JSON lines file or another form, a folder, a corpus (`audiorl datasets`), or "
    "a data set of the Hub.",
    "dataset_config": "Configuration of a Hub data set, or the language of a corpus.",
    "dataset_train_split": "Split to train on, of a Hub data set or a corpus.",
    "dataset_test_split": "Split to measure on, of a Hub data set or a corpus.",
    "dataset_streaming": "Read a Hub data set or a corpus as a stream.",
    "output_dir": "Folder for the tuned model, its card, checkpoints, logs and the report. Unset: named after the "
    "method.",
    "per_device_train_batch_size": "Clips in a training batch of each device.",
    "per_device_eval_batch_size": "Clips in a batch of each device when decoding, evaluating and mining.",
    "gradient_accumulation_steps": "Batches of an optimizer step. A loss is divided once, by the counts of the whole "
    "step: 4 batches of 1 clip equal one of 4.",
    "average_tokens_across_devices": "Changes nothing: losses are divided by the counts of all processes anyway.",
    "model_name_or_path": "The checkpoint to tune: a folder, a Hub name, or an adapter.",
    "dtype": "Type of the loaded weights: float32 (unless set), bfloat16, float16, or auto for the checkpoint's own. "
    "For mixed precision leave it and use --bf16.",
    "lora_target_modules": "Layers that get an adapter, by the ends of their names. Unset: all linear layers of the "
    "attention and of the feed-forward blocks; --lora_decoder_only those of the decoder.",
    "disable_tqdm": "Draw no progress bars. Unset: bars on a terminal and in a notebook, none in files.",
    "resume_from_checkpoint": "True goes on from the last whole checkpoint in output_dir; or the folder of one.",
    "do_train": "Changes nothing: a command trains.",
    "do_eval": "Changes nothing: rows to measure on are measured before and after.",
    "do_predict": "Changes nothing: `audiorl evaluate` measures a model.",
    "local_rank": "Set by the launcher. Leave it out.",
    "push_to_hub": "Push the tuned model with processor, generation config and card at the end, and after checkpoints "
    "as hub_strategy says.",
    "label_smoothing_factor": "SFT alone has it: share of each token's probability that is spread over all tokens, 0 "
    "to below 1. Other methods refuse it.",
    "fp16": "Mixed float16 precision; needs a GPU. Where the GPU has bfloat16, --bf16 is the safer one.",
    "gradient_checkpointing": "Compute activations again in the backward pass: less memory, about a fifth more time. "
    "Every version of transformers knows this name.",
    "gradient_checkpointing_kwargs": "Settings of gradient_checkpointing, as JSON. use_reentrant is false unless set.",
    "report_to": "Loggers, or none. metrics.jsonl and metrics.csv are written into output_dir anyway.",
    "metric_for_best_model": "What load_best_model_at_end compares: wer (the lowest; of labels the highest accuracy), "
    "loss, or another logged evaluation metric.",
    "seed": "Seed of all that is random: order of rows, samples, dropout, mining, augmentation.",
    "data_seed": "Seed of the order of rows and of the augmentation. Unset: seed.",
    "enable_jit_checkpoint": "Leave it out: SIGTERM writes a checkpoint at the end of the step anyway. On, it is "
    "transformers' way instead.",
    "label_names": "Changes nothing: batches have no such labels.",
    "eval_do_concat_batches": "Changes nothing: compute_metrics gets all hypotheses and transcripts at once.",
    "batch_eval_metrics": "Leave it out: compute_metrics gets all hypotheses and transcripts at once.",
    "include_for_metrics": "Leave it out: compute_metrics gets hypotheses and transcripts.",
    "prediction_loss_only": "Changes nothing: an evaluation computes losses and metrics; eval_wer decodes.",
}
# group of `--help-all` -> how the names of its flags begin; what no line names belongs to the method, if it is
# described by a class of ours, else to the last group
GROUPS: Mapping[str, str] = {
    "data": r"dataset_|columns|language$|task$|limit$|eval_(data|share)|min_audio|max_audio|allow_silence|on_bad_rows|"
    r"augment|balance_|hotword|history|dataloader_|label_names|length_column|remove_unused|train_sampling|data_seed",
    "adapters": r"use_peft|lora_|adalora_|use_rslora|use_dora|peft_|merge_adapter",
    "precision and memory": r"bf16|fp16|tf32|dtype|load_in_|bnb_|use_bnb|gradient_check|activation_|max_batch_sec|"
    r"torch_|use_liger|liger_|use_cache|auto_find|freeze_enc|use_cpu|half_prec|low_cpu|eval_accum|audio_window",
    "model": r"model_|trust_|attn_|family$|disable_dropout|init_from|neftune",
    "optimizer": r"learning_rate|lr_|min_lr|warmup|optim|weight_decay|adam_|max_grad|num_train_ep|max_steps|per_device_"
    r"train|gradient_acc|seed|num_cycles|full_det|label_smoothing_factor",
    "logging and checkpoints": r"log_|logging_|eval_|save_|report_|run_name|project|trackio_|disable_tqdm|quiet|resume|"
    r"load_best|metric_for|greater_is|per_device_eval|wer_norm|output_dir|batch_eval|include_|allow_changed|"
    r"prediction_loss|restore_|ignore_data|enable_jit|skip_memory|jit_",
    "Hub": r"push_to_hub|hub_",
    "several devices": r"ddp_|fsdp|deepspeed|parallelism|local_rank|accelerator_|average_tokens",
    "method": r"$^",
    "other": r"$^",
}
# What describes flags of every method, in whichever file
_GENERAL = ("TrainingArguments", "SpeechConfig", "ModelConfig", "SpeechModelConfig", "ScriptArguments")
# What describes flags of one command beside those of a method
_OF_A_COMMAND = ("EstimateArguments",)
# What a flag wants, by the beginning of its annotation
_WANTS = {"int": "N", "float": "X", "bool": "", "list": "A ...", "dict": "JSON", "str": "TEXT"}


def help_page(
    program: str,
    flags: Mapping[str, Flag],
    does: str = "",
    *,
    everything: bool = False,
    width: int | None = None,
) -> str:
    """The help of a command.

    Args:
        program: how it is started: "audiorl dpo".
        does: a sentence on what it does.
        everything: show all flags; else those of `ESSENTIAL`, if the command tunes.
        width: columns, at least 60; unset: those of the terminal, at most 100.
    """
    width = width or max(60, min(100, shutil.get_terminal_size((80, 24)).columns))
    tunes = {"model_name_or_path", "learning_rate"} <= flags.keys()
    needed = "".join(f" --{one.name} {_wants(one)}" for one in flags.values() if not one.default)
    lines = textwrap.wrap(f"usage: {program}{needed} [flags]", width, subsequent_indent=" " * 8)
    lines += textwrap.wrap(does[:1].upper() + does[1:] + ".", width) if does else []
    if tunes and not everything:
        own = [flag for flag in flags.values() if flag.home in _OF_A_COMMAND]
        lines += ["of this command:", *(line for flag in own for line in _entry(flag, width))] if own else []
        for group, entries in ESSENTIAL.items():
            known = [(flags[name], text) for name, text in entries.items() if name in flags]
            if "num_cycles" in flags:  # of which an epoch is one
                known = [(flag, text) for flag, text in known if flag.name != "num_train_epochs"]
            lines += [f"{group}:", *(_line(flag, text, width) for flag, text in known)]
        lines.append(f"{program} {HELP_ALL} lists all {len(flags)}; --config FILE.yaml reads them.")
        return "\n".join(lines) + "\n"
    for group, members in (_grouped(flags) if tunes else {"flags": list(flags.values())}).items():
        lines += ["", f"{group}:"] if members else []
        for flag in members:
            lines += _entry(flag, width)
    lines += ["", "--config FILE.yaml reads flags from a file, lines like `beta: 0.1`.", "The command line wins."]
    return "\n".join(lines) + "\n"


def _grouped(flags: Mapping[str, Flag]) -> dict[str, list[Flag]]:
    found: dict[str, list[Flag]] = {group: [] for group in ("of this command", "essentials", *GROUPS)}
    for flag in flags.values():
        group = next((group for group, names in GROUPS.items() if re.match(names, flag.name)), None)
        if flag.name in ESSENTIAL["essentials"]:
            group = "essentials"
        elif flag.home in _OF_A_COMMAND:
            group = "of this command"
        elif group is None:
            group = "other" if flag.home in _GENERAL else "method"
        found[group].append(flag)
    return found


def _line(flag: Flag, text: str, width: int) -> str:
    default = "" if flag.default in ("", "None", "False") or len(flag.default) > 20 else f" ({_plain(flag.default)})"
    line = f"  --{flag.name:<28} {text}{default}"
    return line if len(line) <= width else f"  --{flag.name:<28} {text}"[:width]


def _entry(flag: Flag, width: int) -> list[str]:
    text = CORRECTED.get(flag.name) if flag.home in (*_GENERAL, "RowScriptArguments") else None
    text = " ".join((text or flag.help).split())
    if flag.choices:
        text += f" One of {', '.join(flag.choices)}."
    if flag.default not in ("", "None"):
        text += f" Default {_plain(flag.default)}."
    head = f"  --{flag.name} {_wants(flag)}".rstrip()
    return [
        head,
        *textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6),
    ]


def _plain(default: str) -> str:
    """A default as it is written on the command line."""
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        return default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) and value else str(value)


def _wants(flag: Flag) -> str:
    first = next((part for part in re.split(r"\s*\|\s*", flag.kind) if part != "None"), "str")
    return next((word for start, word in _WANTS.items() if first.startswith(start)), "TEXT")


# ---- what is wrong with a command line ----


def with_spaces(argv: Sequence[str]) -> list[str]:
    """`--flag=value` as `--flag value`, the one form that `--config` is read in."""
    return [part for arg in argv for part in (arg.split("=", 1) if arg.startswith("--") else [arg])]


def renamed(argv: Sequence[str], former: Mapping[str, str]) -> list[str]:
    """The arguments, former names of flags replaced by those of today."""
    names = {f"--{old}": f"--{new}" for old, new in former.items()}
    return [
        names.get(arg.replace("-", "_").replace("__", "--", 1) if arg.startswith("--") else arg, arg) for arg in argv
    ]


def switched_off(argv: Sequence[str], flags: Mapping[str, Flag]) -> list[str]:
    """`--no_x` as `--x false`, for every flag that is true or false; trl's parser has it for some of them.

    With a value behind it, `--no_x` is a flag that nobody knows.
    """
    found: list[str] = []
    for word, behind in pairwise([*argv, "--"]):
        off = word[2:].replace("-", "_").removeprefix("no_") if word.startswith(("--no_", "--no-")) else ""
        is_off = off in flags and _kinds(flags[off]) == ["bool"] and behind.startswith("--")
        found += [f"--{off}", "false"] if is_off else [word]
    return found


def with_first_word(command: str, argv: Sequence[str]) -> list[str]:
    """The arguments of a command whose first word may stand for a flag, with that flag."""
    named = command in FIRST_WORD and argv and not argv[0].startswith("-")
    return [f"--{FIRST_WORD[command]}", *argv] if named else list(argv)


class WrongFlag(ValueError):
    """A flag that is not known, or a value that it cannot have."""


def check_names(
    given: Iterable[str], names: Iterable[str], refused: Mapping[str, str] | None = None, where: str = ""
) -> None:
    """Refuse flags that are not known.

    Args:
        given: with their dashes.
        names: of the flags that are known.
        refused: flag -> why it is not accepted.
        where: added to a flag in the message, if it is not on the command line.

    Raises:
        WrongFlag: with the flag that is probably meant.
    """
    names = set(names)
    known = {f"--{name}" for name in names} | {CONFIG, HELP_ALL, *HELP}
    for flag in given:
        if refused and flag in refused:
            raise WrongFlag(f"{flag}{where}: {refused[flag]}")
        with_underscores = "--" + flag[2:].replace("-", "_")
        if not {flag, with_underscores} & known:
            near = get_close_matches(with_underscores, known, n=1)
            guess = f"did you mean {near[0]}?" if near else f"{HELP_ALL} lists all"
            raise WrongFlag(f"unknown flag {flag}{where}; {answer_to_flag(flag, names) or guess}")


def check_words(argv: Sequence[str], flags: Mapping[str, Flag], refused: Mapping[str, str] | None = None) -> None:
    """Refuse what is wrong with the words of a command line, as far as they show it.

    Raises:
        WrongFlag: a misspelt flag, a value that is not of the flag's kind, or a path that is not there.
    """
    argv = switched_off(with_spaces(argv), flags)
    check_names((word for word in argv if word.startswith("--")), flags, refused)
    for word, values in _by_flag(argv):
        flag = flags.get(word[2:].replace("-", "_"))
        if flag is not None:
            check_values(flag, values)


def _by_flag(argv: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Each flag of a command line with the words behind it."""
    places = [place for place, word in enumerate(argv) if word.startswith("--")]
    for start, end in pairwise([*places, len(argv)]):
        yield argv[start], argv[start + 1 : end]


def check_values(flag: Flag, values: Sequence[str], where: str = "") -> None:
    """Refuse values that a flag cannot have.

    Raises:
        WrongFlag: with what it takes.
    """
    kinds = _kinds(flag)
    told, got = f"--{flag.name}{where}", repr(" ".join(values))
    if kinds == ["bool"]:
        if len(values) > 1 or any(value.lower() not in TRUTH for value in values):
            raise WrongFlag(f"{told} takes true or false; got {got}.")
    elif not values:
        raise WrongFlag(f"{told} has no value. Write one behind it.")
    elif kinds == ["int"] or kinds == ["float"]:
        what, reads = _NUMBERS[kinds[0]]
        if len(values) > 1 or not _reads(reads, values[0]):
            raise WrongFlag(f"{told} takes {what}; got {got}.")
    elif kinds == ["list[int]"] or kinds == ["list[float]"]:
        what, reads = _NUMBERS[kinds[0][5:-1]]
        if wrong := [value for value in values if not _reads(reads, value)]:
            raise WrongFlag(f"{told} takes {what} at each place; got {wrong[0]!r}.")
    elif len(values) > 1 and kinds == ["str"]:
        raise WrongFlag(f"{told} takes one value; got {got}. Put a value with spaces in quotes.")
    else:
        for value in values:
            _check_text(flag, told, value)


def _kinds(flag: Flag) -> list[str]:
    """The types that its annotation names, None aside."""
    return [kind for kind in re.split(r"\s*\|\s*", flag.kind) if kind != "None"]


def _check_text(flag: Flag, told: str, value: str) -> None:
    if flag.choices and value not in flag.choices:
        raise WrongFlag(f"{told} is not {value!r}. {_meant(value, flag.choices)}")
    if flag.name in PATH_FLAGS:
        _check_path(told, value)
    for name, check in (("language", check_language), ("output_dir", check_folder)):
        if flag.name == name:
            try:
                check(value, told)
            except ValueError as error:
                raise WrongFlag(str(error)) from error


def _reads(kind: Callable[[str], Any], value: str) -> bool:
    try:
        kind(value)
    except ValueError:
        return False
    return True


_NUMBERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "int": ("a whole number", int),
    "float": ("a number", float),
}


def _meant(value: str, choices: Sequence[str]) -> str:
    near = get_close_matches(value, choices, n=1)
    known = f"There are {', '.join(choices)}." if len(choices) <= 12 else ""
    return f"Did you mean {near[0]}? {known}".strip() if near else known or f"{len(choices)} values are known."


def _check_path(told: str, name: str) -> None:
    """A file or folder that is not there; a Hub name (owner/name) or a corpus may be anything."""
    path = Path(name).expanduser()
    looks_like_one = name.endswith(ROW_FILES) or name.count("/") > 1 or name.startswith((".", "/", "~"))
    if looks_like_one and not (path.exists() or os.path.exists(name.partition(":")[0]) or re.search(r"://|\*", name)):
        raise _missing(told, name)


def _missing(told: str, name: str) -> WrongFlag:
    """What to say of a file or folder that is not there."""
    path = Path(name).expanduser()
    if not path.parent.is_dir():
        return WrongFlag(f"{told}: there is no {name}, and no folder {path.parent}. Check the path.")
    near = get_close_matches(path.name, sorted(os.listdir(path.parent)), n=1)
    remedy = (
        f"Did you mean {path.parent / near[0]}?" if near else "Check the path; relative ones start at " + os.getcwd()
    )
    return WrongFlag(f"{told}: there is no {name}. {remedy}")


def nearest_choice(message: str) -> str:
    """argparse's message about a value, in one line and with the choice that is probably meant."""
    found = re.fullmatch(r"argument (--\w+)\S*: invalid choice: '?(.*?)'? \(choose from (.*)\)", message, re.DOTALL)
    if found:
        choices = [choice.strip().strip("'\"") for choice in found[3].split(",")]
        return f"{found[1]} is not {found[2]!r}. {_meant(found[2], choices)}"
    found = re.fullmatch(r"argument (--\w+)\S*: invalid (\w+) value: (.*)", message)
    if found and found[2] in _NUMBERS:
        return f"{found[1]} takes {_NUMBERS[found[2]][0]}; got {found[3]}."
    found = re.fullmatch(r"Some specified arguments are not used by the HfArgumentParser: \[(.*)\]", message)
    if found:
        return f"{found[1]} is no flag, and no flag before it takes it. Put a value with spaces in quotes."
    found = re.fullmatch(r"argument (--\w+)\S*: (.*)", message, re.DOTALL)
    return f"{found[1]}: {found[2]}" if found else message


# ---- what is wrong with the file behind --config ----


def check_flags(
    argv: Sequence[str],
    flags: Mapping[str, Flag],
    former: Mapping[str, str],
    refused: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Refuse what is wrong with a command line and with the file behind its `--config`, if there is one.

    Args:
        argv: with spaces between flags and values, and names of today.
        former: former name of a flag -> that of today, for the file.

    Returns:
        What the file says, by the names of today.

    Raises:
        WrongFlag: a wrong name, a wrong value, or a flag that is missing.
    """
    if argv and not argv[0].startswith("-"):
        raise WrongFlag(f"{argv[0]!r} is no flag, and no flag before it takes it. Put a value with spaces in quotes.")
    check_words(argv, flags, refused)
    settings = _checked_file(argv, flags, former, refused) if CONFIG in argv else {}
    given = {word[2:].replace("-", "_") for word in argv if word.startswith("--")} | settings.keys()
    if missing := [flag for flag in flags.values() if not flag.default and flag.name not in given]:
        names = ", ".join(f"--{one.name}" for one in missing)
        add = " ".join(f"--{one.name} {_wants(one)}" for one in missing)
        are = "is" if len(missing) == 1 else "are"
        raise WrongFlag(f"{names} {are} missing. Add {add}; {HELP_ALL} says more.")
    return settings


def _checked_file(
    argv: Sequence[str], flags: Mapping[str, Flag], former: Mapping[str, str], refused: Mapping[str, str] | None
) -> dict[str, Any]:
    path, settings = _settings_of(argv)
    where = f" in {path}"
    settings = {former.get(name, name): value for name, value in settings.items()}
    check_names((f"--{name}" for name in settings), {*flags, "env"}, refused, where)
    for name, value in settings.items():
        if name in flags:
            _check_setting(flags[name], value, where)
    return settings


def _settings_of(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The file and what it says."""
    import yaml

    path = next(iter(argv[argv.index(CONFIG) + 1 :]), "--")
    if path.startswith("--"):
        raise WrongFlag(f"{CONFIG} has no value. Name a YAML file behind it.")
    if os.path.isdir(path):
        raise WrongFlag(f"{CONFIG}: {path} is a folder. Name a YAML file.")
    if not os.path.exists(path):
        raise _missing(CONFIG, path)
    with open(path, encoding="utf-8") as file:
        try:
            found: Any = yaml.safe_load(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise WrongFlag(
                f"{CONFIG} {path} is not YAML: {_in_a_line(error)}. Write lines of the form `flag: value`."
            ) from error
    if not isinstance(found, dict):
        raise WrongFlag(f"{CONFIG} {path} holds no flags. Write lines of the form `flag: value`.")
    return path, {str(name): value for name, value in found.items()}


def _in_a_line(error: Exception) -> str:
    """What a reader of YAML says, with the line and without a picture of it."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"{problem}, line {mark.line + 1}" if mark and problem else " ".join(str(error).split())


def _check_setting(flag: Flag, value: Any, where: str) -> None:
    told = f"--{flag.name}{where}"
    if value is None:
        if "None" not in flag.kind and flag.default != "None":
            raise WrongFlag(f"{told} has no value. Write one behind it, or take the line out.")
    elif isinstance(value, dict):
        if not re.search(r"dict|list\[str", flag.kind):
            raise WrongFlag(f"{told} takes {_takes(flag)}; got lines of `name: value`. Write it as {flag.name}: VALUE.")
    elif isinstance(value, bool) and "bool" not in flag.kind:
        raise WrongFlag(
            f"{told} is {value}: unquoted no, off, yes and on are truth values in YAML. Write it in quotes, like "
            f"{flag.name}: 'no'."
        )
    elif value != []:
        check_values(flag, [str(part) for part in (value if isinstance(value, list) else [value])], where)


def _takes(flag: Flag) -> str:
    kind = _kinds(flag)[0]
    return "true or false" if kind == "bool" else _NUMBERS[kind][0] if kind in _NUMBERS else "one value"


def as_word(flag: Flag, value: Any) -> Any:
    """A value of a file as the command line would give it, where YAML takes it for something else."""
    kinds = _kinds(flag)
    if kinds == ["str"] and isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and kinds in (["list[int]"], ["list[float]"]):
        return [_NUMBERS[kinds[0][5:-1]][1](str(part)) for part in value]
    return value


# ---- reading ----

Arguments = TypeVar("Arguments")


def read_flags(kind: type[Arguments], argv: Sequence[str]) -> Arguments:
    """A dataclass filled from the command line as `audiorl.flags.parse` fills it, without importing what that needs.

    Its fields are of the kinds that `check_values` knows: bool, int, float, str, and lists of them. What is wrong ends
    the program.
    """
    flags, former = flags_of((kind,)), former_flags((kind,))
    argv = switched_off(renamed(with_spaces(argv), former), flags)
    if asked := {*HELP, HELP_ALL} & set(argv):
        print(help_page(os.path.basename(sys.argv[0]), flags, everything=HELP_ALL in asked), end="")
        raise SystemExit(0)
    try:
        settings = check_flags(argv, flags, former)
    except WrongFlag as error:
        stop(str(error), MISTYPED)
    found = {name: _read_setting(flags[name], value) for name, value in settings.items() if name in flags}
    for word, values in _by_flag(argv):
        name = word[2:].replace("-", "_")
        if name in flags:
            found[name] = _read_words(flags[name], values)
    return kind(**found)


def _read_words(flag: Flag, values: Sequence[str]) -> Any:
    kinds = _kinds(flag)
    if kinds == ["bool"]:
        return not values or values[0].lower() in TRUTH[::2]
    if kinds[0].startswith("list"):
        return as_word(flag, list(values))
    return _NUMBERS[kinds[0]][1](values[0]) if kinds[0] in _NUMBERS else values[0]


def _read_setting(flag: Flag, value: Any) -> Any:
    if value is None or isinstance(value, dict):
        return value
    return _read_words(flag, [str(part) for part in value] if isinstance(value, list) else [str(value)])
