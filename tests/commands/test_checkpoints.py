"""`audiorl checkpoints`: which a run has, which is best, and its model copied or pushed as it was trained."""

from __future__ import annotations

import json
import os

import pytest
import torch
from peft import LoraConfig
from transformers import AutoProcessor, WhisperForConditionalGeneration

from audiorl.commands.checkpoints import main
from audiorl.report import Checkpoint, pick_checkpoint, run_checkpoints
from audiorl.trainers.hub import PushError
from tests.hub_server import OWNER, READ_TOKEN, taken_for_the_hub
from tests.tiny_models import saved, tiny_whisper
from tests.trainers.pair_rows import pair_rows, trainer

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text:DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three checkpoints, each measured; the weights of each are told apart."""
    folder = tmp_path_factory.mktemp("checkpoints") / "out"
    every = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "eval_wer": True}
    made = trainer(folder, trainer_eval_dataset=pair_rows(2), max_steps=3, **every)
    made.train()
    return folder


def test_the_table_has_step_loss_and_wer_of_each(run, capsys):
    main([str(run)])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["checkpoint", "step", "loss", "WER"]
    assert [line.split()[:2] for line in lines] == [[f"checkpoint-{n}", str(n)] for n in (1, 2, 3)]
    logs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wers = {log["step"]: log["eval_wer"] for log in logs if "eval_wer" in log}
    assert {found.step: found.wer for found in run_checkpoints(run)} == {step: {"": wer} for step, wer in wers.items()}


def test_the_model_of_the_best_is_copied_and_loads(run, tmp_path, capsys):
    served = tmp_path / "served"
    main([str(run), "--pick", "eval_loss", "--copy_to", str(served)])
    best = min(run_checkpoints(run), key=lambda found: found.eval_loss)
    assert f"Picked by eval_loss: {run / best.name}" in capsys.readouterr().out
    assert not {"optimizer.pt", "trainer_state.json", "training_args.bin", "audiorl_checkpoint.json"} & set(
        os.listdir(served)
    )
    assert (served / "README.md").is_file()
    back = WhisperForConditionalGeneration.from_pretrained(served)
    there = WhisperForConditionalGeneration.from_pretrained(run / best.name)
    assert all(torch.equal(p, there.get_parameter(name)) for name, p in back.named_parameters())
    assert AutoProcessor.from_pretrained(served).tokenizer.eos_token == "<|endoftext|>"
    with pytest.raises(ValueError, match=r"it exists already. Name a new folder"):
        main([str(run), "--pick", "last", "--copy_to", str(served)])


def test_an_adapter_is_merged_into_its_base(run, tmp_path):
    base = WhisperForConditionalGeneration.from_pretrained(saved(tiny_whisper(), tmp_path / "base"))
    every = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1, "learning_rate": 1e-1}
    made = trainer(tmp_path / "out", trainer_model=base, trainer_peft_config=LoraConfig(r=4), **every)
    made.train()
    pick = [str(tmp_path / "out"), "--pick", "last"]
    main([*pick, "--copy_to", str(tmp_path / "adapter")])
    main([*pick, "--copy_to", str(tmp_path / "merged"), "--merge_adapter"])
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    plain = WhisperForConditionalGeneration.from_pretrained(tmp_path / "merged")
    wanted = made.model.merge_and_unload().get_parameter("model.decoder.layers.0.self_attn.q_proj.weight")
    torch.testing.assert_close(plain.model.decoder.layers[0].self_attn.q_proj.weight, wanted)
    assert AutoProcessor.from_pretrained(tmp_path / "merged").tokenizer.eos_token == "<|endoftext|>"
    with pytest.raises(ValueError, match=r"holds a whole model and no adapter\. Leave --merge_adapter out"):
        main([str(run), "--pick", "last", "--copy_to", str(tmp_path / "x"), "--merge_adapter"])


def test_the_model_of_a_step_is_pushed(run, tmp_path, monkeypatch, capsys):
    with taken_for_the_hub(monkeypatch, tmp_path) as hub:
        push = [str(run), "--pick", "2", "--push_to_hub", "--hub_model_id", f"{OWNER}/second"]
        main(push)
        assert "Its model was pushed: " in capsys.readouterr().out
        repo = hub.repos[f"{OWNER}/second"]
        assert repo.private and "optimizer.pt" not in repo.files and "model.safetensors" in repo.files
        assert repo.files["model.safetensors"] == (run / "checkpoint-2" / "model.safetensors").read_bytes()
        with pytest.raises(PushError, match=r"Nothing is lost.*\n  hf upload .*checkpoint-2") as caught:
            main([*push, "--hub_token", READ_TOKEN])
        assert READ_TOKEN not in str(caught.value)


def test_a_damaged_one_is_not_served(run, tmp_path):
    copy = tmp_path / "copy"
    os.system(f"cp -r {run} {copy}")
    with open(copy / "checkpoint-3" / "model.safetensors", "r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"not whole: model.safetensors has 100 bytes.*Pick another step"):
        main([str(copy), "--pick", "last", "--copy_to", str(tmp_path / "served")])
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--copy_to", "x"], "--copy_to takes one checkpoint, and none is picked"),
        (["--pick", "last", "--push_to_hub"], "Pass --hub_model_id"),
        (["--pick", "last", "--merge_adapter"], "--merge_adapter changes what --copy_to writes, and nothing is copied"),
        (["--pick", "best"], "picked by wer, eval_loss, last or a step of 1, 2, 3; got 'best'"),
        (["--pick", "9"], "a step of 1, 2, 3; got '9'"),
    ],
)
def test_what_contradicts_itself_is_told_with_the_flag(run, flags, message):
    with pytest.raises(ValueError, match=message):
        main([str(run), *flags])


def test_checkpoints_of_an_earlier_run_are_told_apart_and_not_picked_for_it(tmp_path, capsys, caplog):
    every = {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 2, "eval_wer": True}
    trainer(tmp_path, trainer_eval_dataset=pair_rows(2), max_steps=4, save_steps=2, **every).train()
    assert "earlier run" not in caplog.text
    trainer(tmp_path, max_steps=1, save_strategy="no", learning_rate=2e-3).train()
    assert "holds checkpoints of an earlier run (steps 2, 4), and this one begins anew" in caplog.text
    with pytest.raises(ValueError, match=r"of an earlier run, at steps 2, 4; the last run wrote none"):
        main([str(tmp_path), "--pick", "last"])
    trainer(tmp_path, max_steps=3, save_strategy="steps", save_steps=3, learning_rate=2e-3).train()
    capsys.readouterr()
    main([str(tmp_path), "--pick", "last"])
    said = capsys.readouterr().out
    assert said.count("(of an earlier run)") == 2 and said.strip().endswith("checkpoint-3")
    with pytest.raises(ValueError, match="No checkpoint has a WER"):  # the earlier ones have
        main([str(tmp_path), "--pick", "wer"])
    found = {one.step: one for one in run_checkpoints(tmp_path)}
    states = {step: json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text()) for step in (2, 4)}
    for step, state in states.items():  # what is told of them is theirs, not the last run's
        assert found[step].eval_loss == state["log_history"][-1]["eval_loss"]
    main([str(tmp_path), "--pick", "4"])


def test_a_run_that_goes_on_is_the_same_run(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1}
    trainer(tmp_path, max_steps=1, **settings).train()
    trainer(tmp_path, max_steps=2, **settings).train(resume_from_checkpoint=True)
    assert [(found.step, found.earlier) for found in run_checkpoints(tmp_path)] == [(1, False), (2, False)]


def test_what_was_measured_of_other_weights_is_set_aside(tmp_path):
    measured, earlier = tmp_path / "evaluation.json", tmp_path / "evaluation.earlier.json"
    settings = {"save_strategy": "steps", "save_steps": 1}
    trainer(tmp_path, max_steps=1, **settings).train()
    measured.write_text("{}")
    trainer(tmp_path, max_steps=1, **settings).train(resume_from_checkpoint=True)
    assert measured.exists()  # nothing more was trained
    trainer(tmp_path, max_steps=2, **settings).train(resume_from_checkpoint=True)
    assert not measured.exists() and earlier.exists()


def test_a_folder_without_checkpoints_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"holds no checkpoint-N folder.*--save_steps"):
        main([str(tmp_path)])


def checkpoint(step, eval_loss=None, wer=None, accuracy=None):
    return Checkpoint(f"checkpoint-{step}", step, 1.0, eval_loss, wer or {}, False, accuracy or {})


def test_of_several_sets_the_mean_of_labels_the_accuracy_and_nan_never():
    nan = float("nan")
    known = [checkpoint(1, nan, {"a": 0.2, "b": 0.4}), checkpoint(2, 0.5, {"a": 0.1, "b": 0.45}), checkpoint(3, 0.5)]
    assert pick_checkpoint(known, "wer").step == 2 and pick_checkpoint(known, "eval_loss").step == 2
    answers = [checkpoint(1, accuracy={"": 0.7}), checkpoint(2, accuracy={"": 0.9})]
    assert pick_checkpoint(answers, "wer").step == 2
    with pytest.raises(ValueError, match=r"none was measured at steps 3. Train with --eval_strategy steps --eval_wer"):
        pick_checkpoint(known[2:], "wer")
    unread = Checkpoint("checkpoint-4", None, None, None, {}, False, {})
    assert pick_checkpoint([*known, unread], "last").step == 3
