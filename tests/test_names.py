"""Every name that pages and examples mention is there: flags, commands, config fields, rewards, losses, Python names.

1. Where a name stands says what it has to be: a flag of the command that a line starts, a field of the config that is
   called, a reward behind `--reward_funcs`, a loss behind `--loss_type`.
2. Any other name in `code` on a page is a word of the code: what is defined, called or written as a text there.

`ELSEWHERE` lists names of other projects. `test_rooms.py` looks after modules and files, `test_docs.py` runs blocks.
"""

from __future__ import annotations

import ast
import pkgutil
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache

import pytest

import audiorl
from audiorl.cli import COMMANDS
from audiorl.command_line import CLASSES, HELP, HELP_ALL, flags_in_source
from audiorl.elsewhere import ARGUMENTS, COLUMNS, LOSSES, ORPO_REFUSED, SETTINGS
from audiorl.losses import LOSS_PRESETS, ODDS_RATIO_LOSSES, POLICY_LOSSES, PREFERENCE_LOSSES, UNPAIRED_LOSSES
from audiorl.rewards import reward_names
from tests.code_blocks import ROOT, blocks_of, commands_of, pages

LOSS_NAMES = {*PREFERENCE_LOSSES, *POLICY_LOSSES, *UNPAIRED_LOSSES, *ODDS_RATIO_LOSSES, *LOSS_PRESETS, "rollout"}
REWARD_NAMES = {*reward_names(), "judge"}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What pages name of other projects, programs and formats, by where it is from
ELSEWHERE: Mapping[str, str] = {
    "torch, accelerate": "FULL_STATE_DICT SHARDED_STATE_DICT fsdp_cpu_ram_efficient_loading max_memory_allocated "
    "malloc_trim",
    "transformers, trl": "GenerationMixin WhisperForConditionalGeneration DataCollatorSpeechSeq2SeqWithPadding "
    "adamw_torch_fused prepare_dataset trainable_token_indices set_num_lookahead_tokens Seq2SeqTrainer ParakeetForTDT "
    "StepAudio2ForCausalLM use_bias_correction_kl total_flos samples_per_second steps_per_second",
    "halo-forge, batch-opt-rlhf-asr": "AudioRAFTConfig AudioProcessor AudioSample adapter_type halo_forge max_duration "
    "to_rlvr_format model_name trainer_output",
    "what a reader writes": "my_rewards my_module digits_right StepAudioFamily MyModelForX source_end",
}
# Of pip, mkdocs, hf and benchmarks, and of other projects that pages compare with; launchers are asked for theirs
OTHER_FLAGS = {
    *("--dist", "--only", "--table", "--strict", "--minutes", "--lr-decay", "--dry-run", "--normaliser", "--cycles"),
    *("--model", "--exclude", "--rdzv_endpoint"),
    "--learning_rat",  # an example of a mistake
}
# an example that is no command
DISTILLATION = (
    "audiorl.flags.RowScriptArguments",
    "audiorl.trainers.distillation.DistillationConfig",
    CLASSES["sft"][2],
)
KNOWN_FLAGS = {
    name: {f"--{flag}" for flag in flags_in_source(paths)[0]}
    for name, paths in {**CLASSES, "distil": DISTILLATION}.items()
}
ALWAYS = {"--config", HELP_ALL, *HELP}


def flags_of(command: str) -> set[str]:
    """The flags of a command: fields of dataclasses, or written out in its module beside those of the methods."""
    if command in KNOWN_FLAGS:
        return KNOWN_FLAGS[command]
    source = (ROOT / "audiorl" / "commands" / f"{command}.py").read_text(encoding="utf-8")
    written = set(re.findall(r'"(--\w+)"', source))
    written |= {f"--{name}" for name in re.findall(r"^    (\w+): [^=\n]*= field\(", source, re.MULTILINE)}
    return written if "add_argument" in source else written.union(*KNOWN_FLAGS.values())


# ---- what the names are where they stand ----


def missing_in_command(words: list[str]) -> Iterator[str]:
    """What a line of a shell names and `audiorl` has not."""
    scripts = (i for i, word in enumerate(words) if re.fullmatch(r"examples/\w+\.py", word))
    start = 0 if words[:1] == ["audiorl"] else next(scripts, None)
    if start is None or words == ["audiorl"]:
        return
    if words[start] == "audiorl":
        command = words[start + 1]
        if command.startswith("-") or command == "import" or re.fullmatch(r"[A-Z.]+", command):
            return
        if command not in COMMANDS:
            yield f"audiorl {command}"
            return
    else:
        command = words[start].removeprefix("examples/").split("_")[0]
        if command not in KNOWN_FLAGS:  # NAME_whisper.py
            return
    known = flags_of(command) | ALWAYS
    for word in words[start + 1 :]:
        flag = word.split("=")[0].replace("-", "_").replace("__", "--", 1)
        if word.startswith("--") and not {flag, flag.replace("--no_", "--"), word} & known:
            yield f"{word} of audiorl {command}"
    yield from missing_values(words)


def missing_values(words: list[str]) -> Iterator[str]:
    """Rewards and losses behind their flags that are not known; dotted paths are a reader's own."""
    for flag, known in (("--reward_funcs", REWARD_NAMES), ("--loss_type", LOSS_NAMES)):
        for place in (i for i, word in enumerate(words) if word == flag):
            for value in words[place + 1 :]:
                if value.startswith("-") or not re.fullmatch(r"[\w.]+", value):
                    break
                if "." not in value and value not in known and not value.isupper():
                    yield f"{value} of {flag}"


@cache
def public(name: str) -> object | None:
    """A class or function of audiorl by its bare name, whichever room offers it."""
    rooms = ["audiorl", *(f"audiorl.{room.name}" for room in pkgutil.iter_modules(audiorl.__path__) if room.ispkg)]
    for room in rooms:
        found = getattr(pkgutil.resolve_name(room), name, None)
        if found is not None:
            return found
    return None


def missing_in_python(source: str) -> Iterator[str]:
    """Keywords of configs, names of losses and rewards in Python that are not there."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).split(".")[-1]
        config = public(name) if name.endswith(("Config", "Settings", "Arguments")) else None
        for keyword in node.keywords:
            if config is not None and is_dataclass(config) and keyword.arg is not None:
                former = getattr(config, "former_names", {})
                if keyword.arg not in {*former, *(one.name for one in fields(config))}:
                    yield f"{name}({keyword.arg}=...)"
            known = {"loss_type": LOSS_NAMES, "reward_funcs": REWARD_NAMES}.get(keyword.arg or "")
            yield from (f"{keyword.arg}={text!r}" for text in texts_of(keyword.value) if known and text not in known)
        if name in ("RewardSet", "load_reward") and node.args:
            yield from (f"{name}({text!r})" for text in texts_of(node.args[0]) if text not in REWARD_NAMES)


def texts_of(node: ast.expr) -> list[str]:
    """The texts of a list, or a text alone; without dotted paths, which are a reader's own."""
    parts = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    return [
        part.value
        for part in parts
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and "." not in part.value
    ]


def spans_of(text: str) -> list[str]:
    """The `code` of a page's sentences, without its blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def missing_on(page: str) -> list[str]:
    missing: list[str] = []
    text = (ROOT / page).read_text(encoding="utf-8")
    own = set(re.findall(r'(?:def |\[")(\w+)', text))  # losses and rewards that the page itself defines
    for block in blocks_of(page):
        if block.language == "bash":
            for command in commands_of(block):
                missing += missing_in_command(shlex.split(command))
        elif block.language == "python":
            missing += [name for name in missing_in_python(block.code) if not own & set(re.findall(r"'(\w+)'", name))]
    known = set().union(*map(flags_of, {*COMMANDS, *KNOWN_FLAGS}), ALWAYS, OTHER_FLAGS)
    known |= {f"--{name}" for name in SETTINGS} | ORPO_REFUSED.keys() | flags_of_launchers()
    if page.startswith("benchmarks/"):
        sources = (path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
        known |= {flag for source in sources for flag in re.findall(r'"(--[\w-]+)"', source)}
    for span in spans_of(text):
        words = span.split()
        missing += missing_in_command(words)
        missing += [flag for flag in re.findall(r"(?<!\S)--\w[\w-]*", span) if flag not in known]
        missing += missing_values(words)
        missing += [name for name in names_in(span) if name not in words_of_the_code()]
    return missing


@cache
def flags_of_launchers() -> frozenset[str]:
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    parsers = (launch_command_parser(), get_args_parser())
    names = {name for parser in parsers for action in parser._actions for name in action.option_strings}
    return frozenset(names | {name.replace("-", "_").replace("__", "--", 1) for name in names})


@cache
def words_of_others() -> frozenset[str]:
    """Fields of the configs of TRL and transformers, and transformers' types of models."""
    import trl
    from transformers import GenerationConfig, Seq2SeqTrainingArguments, models
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    configs = [Seq2SeqTrainingArguments, trl.DPOConfig, trl.GRPOConfig, trl.KTOConfig, trl.SFTConfig, trl.ModelConfig]
    found = {one.name for config in configs for one in fields(config)} | {config.__name__ for config in configs}
    found |= {*CONFIG_MAPPING_NAMES, *CONFIG_MAPPING_NAMES.values()}
    return frozenset(
        found | vars(GenerationConfig()).keys() | {one.name for one in pkgutil.iter_modules(models.__path__)}
    )


def names_in(span: str) -> Iterator[str]:
    """Names that only code has: snake_case and CamelCase words of a span that is no path, address or command."""
    if "/" in span or "://" in span or span.startswith("-") or " " in span.strip():
        return
    for name in re.findall(r"(?<![\w.-])[A-Za-z_][\w.]*(?![\w-])", span):
        if name.endswith((".py", ".yaml", ".json", ".jsonl")):  # files
            continue
        for part in name.split("."):
            part = re.sub(r"^(eval|train)_", "", part)  # what stands in front of a metric
            if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+|[A-Z][a-z]+\w*[A-Z]\w*", part):
                yield part


@cache
def words_of_the_code() -> frozenset[str]:
    """Every name and every word of a text in the code; comments and docstrings do not count."""
    found: set[str] = {word for names in ELSEWHERE.values() for word in names.split()}
    found |= {*SETTINGS, *ARGUMENTS, *LOSSES, *COLUMNS, *(name for names in COLUMNS.values() for name in names)}
    files = (
        path
        for top in ("audiorl", "benchmarks", "docs", "examples", "tests")
        for path in (ROOT / top).rglob("*.py")
        if not path.name.startswith("test_")
    )
    for path in files:
        found.add(path.stem)
        found |= words_in(path.read_text(encoding="utf-8"))
    found |= {path.name.split(".")[0] for top in ("audiorl", "examples", "tests") for path in (ROOT / top).rglob("*")}
    for page in pages():  # what the page's own blocks define
        for block in blocks_of(page):
            if block.language in ("python", "json", "yaml", "toml"):
                found |= set(re.findall(r"[A-Za-z_]\w*", block.code))
    flags = {name.removeprefix("--") for names in KNOWN_FLAGS.values() for name in names}
    flags |= {
        choice for paths in CLASSES.values() for flag in flags_in_source(paths)[0].values() for choice in flag.choices
    }
    return frozenset(found | flags | words_of_others() | {name.strip("-") for name in flags_of_launchers()})


def words_in(source: str) -> set[str]:
    """The names and words of a source, without comments and docstrings."""
    lines = [re.sub(r"(^|\s)# .*", "", line) for line in source.splitlines()]
    for body in bodies(ast.parse(source).body):
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return set(re.findall(r"[A-Za-z_]\w*", "\n".join(lines)))


def bodies(body: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """The body of a module, and those of its classes and functions."""
    if body:
        yield body
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from bodies(node.body)


# ---- the tests ----


@pytest.mark.parametrize("page", pages())
def test_every_name_on_a_page_is_there(page):
    assert missing_on(page) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_name_in_an_example_is_there(path):
    source = path.read_text(encoding="utf-8")
    missing = list(missing_in_python(source))
    for line in (ast.get_docstring(ast.parse(source)) or "").replace("\\\n", " ").splitlines():
        if line.strip().startswith("torchrun"):
            missing += missing_in_command(line.split())
    for span in re.findall(r"`([^`\n]+)`", source):
        missing += [name for name in names_in(span) if name not in words_of_the_code()]
        missing += missing_in_command(span.split())
    assert missing == []


def test_every_public_name_loads():
    for room in ("", *(f".{room.name}" for room in pkgutil.iter_modules(audiorl.__path__) if room.ispkg)):
        module = pkgutil.resolve_name(f"audiorl{room}")
        for name in getattr(module, "__all__", ()):
            assert getattr(module, name) is not None, (module.__name__, name)


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("audiorl grpo --reward_funcs keyword_score", "keyword_score of --reward_funcs"),
        ("audiorl grpo --reward_funcs one_minus_wer my_module.mine", None),
        ("audiorl dpo --loss_type sigmoyd", "sigmoyd of --loss_type"),
        ("audiorl dpo --samples 3", "--samples of audiorl dpo"),
        ("torchrun examples/raft_whisper.py --num_cycles 2 --no_such 1", "--no_such of audiorl raft"),
        ("audiorl train --beta 1", "audiorl train"),
    ],
)
def test_a_stale_name_in_a_command_is_found(words, missing):
    assert list(missing_in_command(words.split())) == ([] if missing is None else [missing])


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("DPOConfig(beta=0.1, output_dir='x')", None),
        ("DPOConfig(betta=0.1)", "DPOConfig(betta=...)"),
        ("audiorl.GRPOConfig(loss_type='grpoo')", "loss_type='grpoo'"),
        ("GRPOTrainer('m', reward_funcs=['keyword_score'])", "reward_funcs='keyword_score'"),
        ("RewardSet(['keyword_score', 'my.own'])", "RewardSet('keyword_score')"),
        ("RAFTConfig(samples_per_prompt=3)", None),
    ],
)
def test_a_stale_name_in_python_is_found(source, missing):
    assert list(missing_in_python(source)) == ([] if missing is None else [missing])


def test_a_stale_name_in_a_sentence_is_found():
    known = words_of_the_code()
    assert [name for name in names_in("keyword_score") if name not in known] == ["keyword_score"]
    assert [name for name in names_in("OnlineTrainer.train") if name not in known] == ["OnlineTrainer"]
    assert [name for name in names_in("DPOConfig.loss_type") if name not in known] == []
