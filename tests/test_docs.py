"""The code of every page, run as it stands on tiny models in place of those named; docs/README.md has the rules."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import soundfile
import torch
import transformers
import yaml
from peft import LoraConfig

import audiorl
from audiorl.datasets import corpus
from audiorl.losses import ADVANTAGES, POLICY_LOSSES, PREFERENCE_LOSSES
from audiorl.models.registry import FAMILIES
from audiorl.rewards import REWARDS
from tests import page_commands, page_folder
from tests.code_blocks import ROOT, Block, blocks_of, commands_of, pages, same_print
from tests.hub_server import taken_for_the_hub
from tests.tiny_models import saved, tiny_whisper
from tests.trainers.pair_rows import config, pair_rows
from tests.trainers.pair_rows import trainer as pair_trainer

LANGUAGES = ("python", "bash", "json", "yaml", "toml", "text", "math")
PRINTED = "printed"  # title of a text block that is what the block before it prints

# ---- what does not run as it stands, each with its reason; a stale entry is a failure ----

# how a command begins -> why it is not run
NOT_RUN = {
    "pip install": "changes the environment; .ci/run does it",
    "python3 -m venv": "changes the environment; .ci/run does it",
    ". .venv/bin/activate": "changes the environment",
    "pytest": "is what runs this",
    "ruff": "run by .ci/run",
    "mypy": "run by .ci/run",
    "mkdocs build": "run by .ci/run and by tests/test_site.py",
    "mkdocs serve": "does not end",
    "torchrun examples/dpo_whisper.py": "the whole demo takes minutes: tests/demo/test_demo_checkpoint.py, slow",
    "audiorl grpo --model_name_or_path openai/whisper-small --dataset_name train.jsonl --output_dir grpo --language "
    "english --rollout_engine vllm": "vLLM has an environment of its own: tests/engines, slow",
    "torchrun --nnodes=2": "several machines: tests/trainers/test_parallel.py, slow; its flags are parsed",
    "torchrun --nnodes 2": "several machines: tests/trainers/test_elastic.py, slow; its flags are parsed",
    "accelerate launch --config_file examples/accelerate_configs/multi_node.yaml": "likewise",
    "audiorl grpo --model_name_or_path openai/whisper-small --language english --dataset_name train.jsonl --output_dir "
    "out-judged": "needs a server: tests/rewards/test_judge.py",
    "audiorl evaluate --endpoint": "needs a server: tests/evaluation/test_endpoint.py",
    "audiorl evaluate --model_name_or_path served --endpoint": "needs a server: tests/test_serving.py, slow",
    "transformers serve": "does not end: tests/test_serving.py, slow",
    "vllm serve": "needs vLLM",
}
# page -> (as it stands, as it is run, why)
CUTS = {
    "examples/README.md": [
        ("--optim paged_adamw_32bit", "--optim adamw_torch", "a GPU's optimizer"),
        ("--adalora_tinit 200 --adalora_tfinal 1000", "--adalora_tinit 1 --adalora_tfinal 1", "four steps, not 1000"),
        ("--reward_threshold 0.5", "--reward_threshold 0", "a random model gets no half of the words"),
    ],
    "docs/pages/tutorial.md": [
        ("count=480", "count=24", "the whole takes minutes: tests/test_tutorial.py, slow"),
        ("count=240", "count=24", "likewise"),
        ("num_generations=8", "num_generations=2", "likewise"),
        ("num_train_epochs=4", "max_steps=2, logging_steps=1", "likewise"),
    ],
    "docs/pages/data.md": [
        ("--history_characters 600", "--history_characters 12", "a tiny model's prompt has 24 places"),
    ],
    "docs/pages/rewards.md": [
        ("consensus --reward_threshold 0.7", "consensus_cer --reward_threshold 0", "random models agree on nothing"),
        ("consensus --min_chosen_reward 0.7", "consensus_cer --min_chosen_reward 0", "likewise"),
    ],
    "docs/pages/families.md": [("processor, 12)", "processor, 1)", "the tiny model hears 2 s")],
    "audiorl/demo/README.md": [("count=300", "count=3", "speech for 300 clips takes a minute")],
}
# page -> why it takes minutes
SLOW: dict[str, str] = {
    "docs/pages/trainers/recipes.md": "six stages; tests/commands/test_tune.py runs as many on rows of its own",
}


def orpo_rows(folder: Path) -> None:
    """Rows as another project writes them: an array, Chinese, one of them with timestamps."""
    row = {"chosen": "你好世界", "rejected": "你好", "language": "Chinese"}
    paths = [f"clips/{i + 1:04}.wav" for i in range(4)]
    rows = [{"audio": {"path": path}, "duration": soundfile.info(folder / path).duration, **row} for path in paths]
    rows[0] |= {"chosen": "<|0.00|>你好<|0.84|>", "rejected": "<|0.00|>你<|0.84|>"}
    (folder / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    test = [{**row, "text": row["chosen"]} for row in rows]
    (folder / "test.json").write_text(json.dumps(test), encoding="utf-8")


def tuned_model(folder: Path) -> None:
    """The outcome of a run that the page does not show."""
    for part in tiny_whisper("multilingual"):
        part.save_pretrained(folder / "tuned")


def two_runs(folder: Path) -> None:
    steps = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    pair_trainer(folder / "out-tuned", **steps).train()
    base = transformers.WhisperForConditionalGeneration.from_pretrained(saved(tiny_whisper(), folder / "base"))
    pair_trainer(folder / "out-adapter", trainer_model=base, trainer_peft_config=LoraConfig(r=2), **steps).train()


# page -> what its folder holds beside the rows of all pages
PREPARED: dict[str, Callable[[Path], None]] = {
    "README.md": tuned_model,
    "examples/README.md": orpo_rows,
    "docs/pages/serving.md": two_runs,
}

# ---- what a block must leave behind: (page, words that it has) -> a look at the page's names ----


def first_example_tuned(names: dict[str, Any]) -> None:
    assert names["trainer"].state.global_step == 3  # epochs of one batch
    assert len(names["pairs"].rows) == 4


def grpo_tuned(names: dict[str, Any]) -> None:
    state = names["trainer"].state
    assert state.global_step == 3
    assert "rewards/hallucination/mean" in state.log_history[-1]


def subclass_trains(names: dict[str, Any]) -> None:
    model, processor = tiny_whisper()
    trainer = names["LengthNormalisedMargin"](
        model, args=config("subclass", max_steps=2), train_dataset=pair_rows(4), processing_class=processor
    )
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    result = trainer.train()
    assert 0.1 < result.training_loss < 10  # a ratio of probabilities per token
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in model.parameters()]))


def rewards_as_written(names: dict[str, Any]) -> None:
    assert names["table"].total == pytest.approx([1.5, 0.5])
    assert names["table"].parts["short"] == [0.5, 0.5]


def adalora_written(_: dict[str, Any]) -> None:
    assert json.loads(Path("output/whisper-tiny/adapter_config.json").read_text())["peft_type"] == "ADALORA"


def measured_and_reported(_: dict[str, Any]) -> None:
    assert "WER" in Path("tuned/README.md").read_text()
    assert all(Path("tuned", name).stat().st_size for name in ("metrics.jsonl", "report.html", "model.safetensors"))


CHECKS: dict[tuple[str, str], Callable[[dict[str, Any]], None]] = {
    ("README.md", "mine_pairs("): first_example_tuned,
    ("docs/pages/trainers/grpo.md", "GRPOConfig("): grpo_tuned,
    ("README.md", "class LengthNormalisedMargin"): subclass_trains,
    ("audiorl/rewards/README.md", "table.total"): rewards_as_written,
    ("examples/README.md", "orpo_whisper.py"): adalora_written,
    ("docs/pages/quickstart.md", "--report_html true"): measured_and_reported,
}

# ---- running ----


def cut(page: str) -> str:
    """The page's text as it is run: one of `CUTS` for another, line by line the same length."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for stands, run, _ in CUTS.get(page, ()):
        text = text.replace(stands, run)
    return text


def why_not_run(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if is_listed(command, start)), None)


def is_listed(command: str, start: str) -> bool:
    # a script without arguments is the demo; with some it is not
    return command == start if start.startswith("torchrun examples/") else command.startswith(start)


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def registries_as_they_were() -> Iterator[None]:
    """Pages register what is their own."""
    corpus.list_corpora()  # which fills the last
    registries = (ADVANTAGES, FAMILIES, POLICY_LOSSES, PREFERENCE_LOSSES, REWARDS, corpus._KNOWN)
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.fixture
def names() -> Iterator[dict[str, Any]]:
    """The names of the page's python blocks, in a module so that its classes can be found again."""
    module, others = types.ModuleType("page"), set(sys.modules)
    sys.modules["page"] = module
    yield vars(module)
    for name in set(sys.modules) - others:
        file = getattr(sys.modules[name], "__file__", None)
        if name == "page" or (file and not Path(file).exists()) or (file and Path(file).parent == Path.cwd()):
            del sys.modules[name]


@pytest.fixture
def folder(request, tmp_path, monkeypatch, saved_models) -> Path:
    """The working folder of a page, see `page_folder`; a Hub on this machine where the page pushes."""
    page = request.getfixturevalue("page")
    folder = tmp_path / "work"
    folder.mkdir()
    code = "\n".join(block.code for block in blocks_of(page, cut(page)))
    page_folder.write_rows(folder)
    page_folder.save_data_sets(folder, code)
    page_folder.link_models(folder, code, saved_models)
    page_folder.write_copies(tmp_path / "corpora", code)
    PREPARED.get(page, lambda _: None)(folder)
    monkeypatch.setenv("AUDIORL_CORPORA", str(tmp_path / "corpora"))
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "warning")  # `audiorl` sets it
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    if "push_to_hub" in code:
        request.getfixturevalue("hub")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with taken_for_the_hub(monkeypatch, tmp_path / "hub") as server:
        yield server


def run_block(block: Block, names: dict[str, Any], monkeypatch) -> None:
    """Do with a block what its language asks for."""
    if block.title and block.language not in ("text", "bash"):
        Path(block.title).parent.mkdir(parents=True, exist_ok=True)
        Path(block.title).write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        # lines count as on the page
        exec(compile("\n" * (block.line - 1) + block.code, str(ROOT / block.page), "exec"), names)
    elif block.language == "bash":
        for command in commands_of(block):
            if why_not_run(command) is None:
                page_commands.run(command, monkeypatch)
            elif command.startswith(("torchrun", "accelerate")):
                page_commands.parsed(command)
    elif block.language == "json":
        read_json(block.code)
    elif block.language == "yaml":
        yaml.safe_load(block.code)
    elif block.language == "toml":
        tomllib.loads(block.code)


def read_json(code: str) -> None:
    """One value, or one for each line."""
    try:
        json.loads(code)
    except json.JSONDecodeError:
        for line in code.splitlines():
            json.loads(line)


def slow_ones_marked() -> list[Any]:
    with_code = [page for page in pages() if any(b.language not in ("text", "math") for b in blocks_of(page))]
    return [pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page for page in with_code]


# transformers 5.23 renamed the flag; pages use the name that older ones know as well
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text:DeprecationWarning")
@pytest.mark.usefixtures("folder", "registries_as_they_were")
@pytest.mark.parametrize("page", slow_ones_marked())
def test_the_code_of_the_page_runs(page, names, monkeypatch, capsys):
    printed = ""
    for block in blocks_of(page, cut(page)):
        try:
            if block.title == PRINTED:
                assert same_print(block.code, printed), f"{block.place} shows this, but printed was:\n{printed}"
                continue
            capsys.readouterr()
            run_block(block, names, monkeypatch)
            printed = capsys.readouterr().out
            for (of, words), check in CHECKS.items():
                if of == page and words in block.code:
                    check(names)
        except BaseException as error:
            error.add_note(f"in the block of {block.place}")
            raise


# ---- the lists above, and the pages as a whole ----


def all_commands() -> list[str]:
    return [command for page in pages() for b in blocks_of(page) if b.language == "bash" for command in commands_of(b)]


def test_each_command_that_is_listed_as_not_run_stands_on_a_page():
    commands = all_commands()
    assert [start for start in NOT_RUN if not any(is_listed(command, start) for command in commands)] == []


def test_each_cut_check_and_preparation_has_its_page():
    missing = [(page, old) for page, cuts in CUTS.items() for old, _, _ in cuts if old not in (ROOT / page).read_text()]
    assert missing == []
    for page, words in CHECKS:
        assert sum(words in block.code for block in blocks_of(page)) == 1, words
    assert {*PREPARED, *SLOW} <= set(pages())


@pytest.mark.parametrize("page", pages())
def test_each_block_says_its_language(page):
    assert {block.language for block in blocks_of(page)} <= set(LANGUAGES)


def test_every_public_name_is_in_the_reference():
    named = set()
    for page in (ROOT / "docs" / "pages" / "reference").glob("*.md"):
        named |= set(re.findall(r"^::: audiorl\.(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named - {"losses"} == audiorl._HOMES.keys() | audiorl._FORMER.keys()
