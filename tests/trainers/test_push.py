"""Pushing over HTTP to a Hub on the loopback interface, and loading from there what was pushed."""

from __future__ import annotations

import json
import logging
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import transformers
from huggingface_hub import snapshot_download
from peft import LoraConfig
from transformers import AutoProcessor, WhisperForConditionalGeneration, pipeline

from audiorl.models import base_model
from audiorl.trainers.checkpoints import is_whole
from audiorl.trainers.hub import PushError, model_files
from tests.hub_server import OWNER, READ_TOKEN, WRITE_TOKEN, hub_server, taken_for_the_hub
from tests.tiny_models import saved, tiny_clips, tiny_whisper
from tests.trainers.pair_rows import trainer as pair_trainer

# huggingface_hub hands httpx the body of an LFS upload under a name that httpx is about to drop
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text:DeprecationWarning")
REPO = f"{OWNER}/tuned"
EXAMPLE = Path(__file__).parents[2] / "examples" / "dpo_whisper.py"
MODEL = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with taken_for_the_hub(monkeypatch, tmp_path) as server:
        yield server


def trainer(tmp_path, **changes):
    """Two steps from a checkpoint on disk, to be pushed at the end, fast enough to say something else afterwards."""
    base = WhisperForConditionalGeneration.from_pretrained(saved(tiny_whisper(), tmp_path / "base"))
    pushed = {"push_to_hub": True, "hub_model_id": REPO, "hub_strategy": "end", "max_steps": 2, "learning_rate": 3e-2}
    return pair_trainer(tmp_path / "out", trainer_model=base, **{**pushed, **changes})


def said(model: str, clip) -> str:
    loaded = pipeline("automatic-speech-recognition", model=model)
    return loaded({"raw": clip, "sampling_rate": 16_000})["text"]


def said_by(made, clip) -> str:
    """The same of a trainer's model as it is in memory."""
    processor = made.processing_class
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    speaks = pipeline("automatic-speech-recognition", model=base_model(made.model), **parts)
    return speaks({"raw": clip, "sampling_rate": 16_000})["text"]


def commits(hub) -> int:
    return sum("/commit/" in line for line in hub.requests)


def files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


# ---- what is pushed, and when ----


def test_what_is_pushed_is_loaded_back_and_says_the_same(hub, tmp_path):
    made = trainer(tmp_path, hub_private_repo=True, save_strategy="steps", save_steps=1)
    clip = tiny_clips(1)[0]
    before = said_by(made, clip)
    made.train()
    made.save_model()
    (tmp_path / "out" / "report.html").write_text("clips of real people")
    (tmp_path / "out" / "skipped_rows.jsonl").write_text("{}")
    assert commits(hub) == 0
    made.push_to_hub()
    assert commits(hub) == 1
    assert hub.repos[REPO].private and hub.repos[REPO].files.keys() == MODEL
    expected = said_by(made, clip)
    assert expected != before
    assert said(REPO, clip) == expected
    back = WhisperForConditionalGeneration.from_pretrained(REPO)
    assert all(torch.equal(p, back.get_parameter(name)) for name, p in made.model.named_parameters())
    assert back.generation_config.max_length == 24
    assert AutoProcessor.from_pretrained(snapshot_download(REPO)).tokenizer.eos_token == "<|endoftext|>"
    card = hub.repos[REPO].files["README.md"].decode()
    assert f'model="{REPO}"' in card


def test_an_adapter_is_pushed_alone_and_a_pipeline_puts_it_on_its_base(hub, tmp_path):
    made = trainer(tmp_path, trainer_peft_config=LoraConfig(r=4))
    made.train()
    made.push_to_hub()
    found = hub.repos[REPO].files.keys()
    assert {"adapter_config.json", "adapter_model.safetensors", "generation_config.json", "README.md"} <= found
    assert "model.safetensors" not in found and "tokenizer.json" in found
    clip = tiny_clips(1)[0]
    assert said(REPO, clip) == said_by(made, clip) != said(str(tmp_path / "base"), clip)


def test_a_merged_adapter_is_a_plain_checkpoint(hub, tmp_path):
    made = trainer(tmp_path, trainer_peft_config=LoraConfig(r=4), hub_merge_adapter=True)
    made.train()
    made.push_to_hub()
    assert hub.repos[REPO].files.keys() == MODEL
    (tmp_path / "base").rename(tmp_path / "gone")
    clip = tiny_clips(1)[0]
    assert said(REPO, clip) == said_by(made, clip)
    card = hub.repos[REPO].files["README.md"].decode()
    assert "library_name: transformers" in card and "has been merged into the weights" in card


def test_merging_without_an_adapter_is_refused_when_the_trainer_is_built(hub, tmp_path):
    with pytest.raises(ValueError, match=r"this model has none\. Pass peft_config"):
        trainer(tmp_path, hub_merge_adapter=True)


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [
        pytest.param("every_save", set(), marks=pytest.mark.slow),
        pytest.param("checkpoint", {"last-checkpoint"}, marks=pytest.mark.slow),
        ("all_checkpoints", {"checkpoint-1", "checkpoint-2", "checkpoint-3"}),
    ],
)
def test_checkpoints_are_pushed_as_asked_and_survive_their_rotation(hub, tmp_path, strategy, folders):
    made = trainer(
        tmp_path,
        hub_strategy=strategy,
        hub_always_push=True,
        max_steps=3,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
    )
    made.train()
    repo = hub.repos[REPO]
    assert {path.partition("/")[0] for path in repo.files if "/" in path} == folders
    assert {path for path in repo.files if "/" not in path} == MODEL
    assert "Training in progress, step 3" in repo.messages
    back = snapshot_download(REPO)
    for folder in folders:
        assert is_whole(Path(back) / folder)
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"checkpoint-3", "report"}
    weights = WhisperForConditionalGeneration.from_pretrained(REPO)
    assert all(torch.equal(p, weights.get_parameter(name)) for name, p in made.model.named_parameters())


# ---- failures ----


@pytest.mark.parametrize(
    ("token", "faults", "words"),
    [
        (None, {}, ["401", "hf auth login"]),
        pytest.param(READ_TOKEN, {}, ["403", "may write"], marks=pytest.mark.slow),
        (WRITE_TOKEN, {"/commit/": "cut"}, ["Check the connection"]),
        (WRITE_TOKEN, {"PUT /lfs/": 403}, ["model.safetensors"]),
    ],
)
def test_a_failing_push_leaves_the_model_and_the_line_that_pushes_it(
    hub, tmp_path, monkeypatch, caplog, token, faults, words
):
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    hub.faults.update(faults)
    made = trainer(tmp_path)
    made.train()
    with pytest.raises(PushError) as failure:
        made.push_to_hub()
    message = str(failure.value)
    assert all(word in message for word in words)
    assert token is None or token not in message + caplog.text
    assert ("Training goes on" in caplog.text) == (token != WRITE_TOKEN)
    kept = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert all(torch.equal(p, kept.get_parameter(name)) for name, p in made.model.named_parameters())
    line = message.splitlines()[-1].split()
    assert line[:2] == ["hf", "upload"] and str(tmp_path / "out") in line


def test_the_line_of_a_failed_push_pushes_the_same_files(hub, tmp_path):
    hub.faults["/commit/"] = "cut"
    made = trainer(tmp_path, hub_private_repo=True)
    made.train()
    with pytest.raises(PushError) as failure:
        made.push_to_hub()
    (tmp_path / "out" / "notes.json").write_text("{}")
    hub.faults.clear()
    hub.repos.clear()
    from huggingface_hub.cli.hf import main

    words = shlex.split(str(failure.value).splitlines()[-1])
    monkey = pytest.MonkeyPatch()
    monkey.setattr(sys, "argv", words)
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
    finally:
        monkey.undo()
    assert hub.repos[REPO].files.keys() == MODEL and hub.repos[REPO].private


def test_a_checkpoint_that_was_not_pushed_goes_out_at_the_end(hub, tmp_path, caplog):
    made = trainer(
        tmp_path, hub_strategy="all_checkpoints", save_strategy="steps", save_steps=1, save_total_limit=1, max_steps=2
    )
    hub.faults["/preupload/"] = 403
    made.train()
    assert "checkpoint-1" in caplog.text and "pushing is tried again" in caplog.text
    assert hub.repos[REPO].files == {}
    with pytest.raises(PushError) as failure:
        made.push_to_hub()
    assert [line.split()[-1] for line in str(failure.value).splitlines()[2:]] == ["checkpoint-1", "checkpoint-2"]
    hub.faults.clear()
    made.push_to_hub()
    folders = {path.partition("/")[0] for path in hub.repos[REPO].files if "/" in path}
    assert folders == {"checkpoint-1", "checkpoint-2"}


@pytest.mark.parametrize("name", ["a/b/c", "my model"])
def test_a_name_that_no_repository_can_have_is_refused_when_the_trainer_is_built(hub, tmp_path, name):
    with pytest.raises(ValueError, match=r"hub_model_id names a repository.*Rename it"):
        trainer(tmp_path, hub_model_id=name)


def test_pushing_is_possible_without_the_flag(hub, tmp_path):
    made = trainer(tmp_path, push_to_hub=False)
    made.push_to_hub(model_name="My model", tags="home", token=WRITE_TOKEN)
    card = hub.repos[REPO].files["README.md"].decode()
    assert f'model="{REPO}"' in card and "# My model\n" in card and "- home" in card


def test_a_bad_name_that_is_found_at_the_end_loses_nothing_either(hub, tmp_path):
    made = trainer(tmp_path, push_to_hub=False, hub_model_id="a/b/c")
    with pytest.raises(PushError, match="Mend that"):
        made.push_to_hub()
    assert (tmp_path / "out" / "model.safetensors").exists()


# ---- secrets ----


def test_no_file_and_no_line_holds_the_token(hub, tmp_path, caplog, capfd, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    caplog.set_level(logging.DEBUG)
    made = trainer(
        tmp_path,
        hub_token=WRITE_TOKEN,
        hub_strategy="checkpoint",
        save_strategy="steps",
        save_steps=1,
        report_to="tensorboard",
        run_name=f"run with {WRITE_TOKEN[:9]}",
    )
    made.train()
    made.push_to_hub()
    assert made.args.hub_token == WRITE_TOKEN
    assert "last-checkpoint/optimizer.pt" in hub.repos[REPO].files
    assert list((tmp_path / "out").rglob("*tfevents*")) and list((tmp_path / "out").rglob("training_args.bin"))
    assert files_with(WRITE_TOKEN, tmp_path / "out") == []
    assert not any(WRITE_TOKEN.encode() in data for data in hub.repos[REPO].files.values())
    said_aloud = capfd.readouterr()
    assert WRITE_TOKEN not in said_aloud.out + said_aloud.err + caplog.text


def test_the_files_of_a_model_are_told_from_those_of_a_run(tmp_path):
    names = [*MODEL, "optimizer.pt", "trainer_state.json", "training_args.bin", "report.html", "rng_state.pth"]
    for name in names:
        (tmp_path / name).write_text("")
    for name in ("runs", "ref", "helper"):
        (tmp_path / name).mkdir()
    (tmp_path / "ref" / "adapter_config.json").write_text("{}")
    (tmp_path / "helper" / "adapter_config.json").write_text("{}")
    found = model_files(str(tmp_path), [*names, "runs", "ref", "helper"])
    assert set(found) == MODEL | {"helper"}


# ---- the example ----


def run_example(tmp_path: Path, *flags: str) -> list[str]:
    """Its words, after a checkpoint and rows have been written for it."""
    saved(tiny_whisper(), tmp_path / "base")
    lines = []
    for i, clip in enumerate(tiny_clips(4)):
        soundfile.write(tmp_path / f"{i}.wav", clip, 16_000)
        text = {"text": "the lazy dog", "chosen": "the lazy dog", "rejected": f"dog {i}"}
        lines.append({"audio": f"{i}.wav", **text})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = str(tmp_path / "pairs.jsonl")
    return [
        *(str(EXAMPLE), "--model_name_or_path", str(tmp_path / "base"), "--dataset_name", rows),
        *("--eval_dataset_name", rows, "--output_dir", str(tmp_path / "out"), "--max_steps", "1"),
        *("--per_device_train_batch_size", "2", "--report_to", "none", "--use_cpu", "true", "--save_strategy", "no"),
        *("--push_to_hub", "true", "--hub_model_id", REPO, *flags),
    ]


def test_the_example_ends_with_1_and_the_line_where_its_push_fails(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", run_example(tmp_path, "--hub_token", READ_TOKEN, "--disable_tqdm", "true"))
    monkeypatch.delenv("HF_TOKEN")
    verbosity = transformers.utils.logging.get_verbosity()
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLE), run_name="__main__")
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    told = capsys.readouterr()
    assert ended.value.code == 1
    assert "WER after" in told.out and "Traceback" not in told.err
    assert f"hf upload {REPO} {tmp_path / 'out'} ." in told.err and "403" in told.err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| WER |" in card and "4 clips of pairs.jsonl" in card and "on pairs.jsonl by audiorl" in card
    assert READ_TOKEN not in told.out + told.err and files_with(READ_TOKEN, tmp_path) == []
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_example_pushes_once_as_a_person_runs_it(tmp_path):
    """In a process of its own, with nothing but the environment pointing to the Hub."""
    import os

    with hub_server() as server:
        environment = {
            **os.environ,
            **{"HF_ENDPOINT": server.endpoint, "HF_TOKEN": WRITE_TOKEN, "HF_HUB_OFFLINE": "0"},
            **{"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        }
        done = subprocess.run(
            [sys.executable, *run_example(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert commits(server) == 1 and server.repos[REPO].files.keys() == MODEL
        assert WRITE_TOKEN not in done.stdout + done.stderr and files_with(WRITE_TOKEN, tmp_path) == []
        code = f'from transformers import pipeline; pipeline("automatic-speech-recognition", model="{REPO}")'
        loaded = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert loaded.returncode == 0, loaded.stderr
