"""`audiorl tune`: stages one after another, each from the best model; resumed, stopped, refused as the recipe says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from transformers import AutoModelForAudioClassification, WhisperForConditionalGeneration

from audiorl.commands import train, tune
from audiorl.commands.tune import RecipeError, main, read_recipe, run_recipe, shipped_recipes
from audiorl.datasets import register_corpus
from audiorl.datasets.corpus import _KNOWN
from audiorl.report import read_run
from audiorl.trainers.base import SpeechTrainer
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_models import SAMPLING_RATE, saved, tiny_clips, tiny_whisper
from tests.trainers.pair_rows import CHOSEN

STEPS = {
    "use_cpu": True,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "report_to": "none",
    "disable_tqdm": True,
}
GRPO = {"method": "grpo", "num_generations": 2, "max_completion_length": 32, "sft_weight": 0.5}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint, and rows to train and to measure on."""
    folder = tmp_path_factory.mktemp("world")
    saved(tiny_whisper(), folder / "model")
    for name, texts in (("train", CHOSEN[:4]), ("held_out", CHOSEN[4:7])):
        rows = []
        for i, (clip, text) in enumerate(zip(tiny_clips(len(texts)), texts, strict=True)):
            soundfile.write(folder / f"{name}{i}.wav", clip, SAMPLING_RATE)
            rows.append(json.dumps({"audio": f"{name}{i}.wav", "text": text}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


def recipe_file(world: Path, folder: Path, *stages: dict, **top) -> str:
    told = {
        "model_name_or_path": str(world / "model"),
        "dataset_name": str(world / "train.jsonl"),
        "eval_dataset_name": str(world / "held_out.jsonl"),
        "output_dir": str(folder / "out"),
        **STEPS,
        **top,
        "stages": list(stages),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in told.items() if value is not None}))
    return str(path)


def weights(folder: Path) -> torch.Tensor:
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_stages_hand_their_model_on_and_leave_one_report(world, tmp_path, capsys, monkeypatch):
    decoded = []
    decode = SpeechTrainer.decode
    monkeypatch.setattr(SpeechTrainer, "decode", lambda self, rows: decoded.append(self) or decode(self, rows))
    stages = ({"method": "sft"}, {"method": "pairs", "num_generations": 2}, {"method": "dpo"}, GRPO)
    path = recipe_file(world, tmp_path, *stages, keep_best="none")
    main([path])
    out = tmp_path / "out"
    assert len(decoded) == 4  # before the first stage, and after each of three
    ended = json.loads((out / "recipe.json").read_text())["ended"]
    names = ["1-sft", "2-pairs", "3-dpo", "4-grpo"]
    assert [Path(one["folder"]).name for one in ended] == names
    assert [one["model"] for one in ended] == [str(world / "model"), *[str(out / "1-sft")] * 2, str(out / "3-dpo")]
    assert [one["before"] for one in ended[2:]] == [ended[0]["after"], ended[2]["after"]]
    assert json.loads((out / "3-dpo" / "report" / "run.json").read_text())["pairs"] > 0
    assert torch.equal(weights(out / "best"), weights(out / "4-grpo"))
    assert not torch.equal(weights(out / "1-sft"), weights(out / "3-dpo"))
    card = (out / "4-grpo" / "README.md").read_text()
    assert "which came from" in card and "model" in card
    printed = capsys.readouterr().out
    assert printed.splitlines()[-5:] == [
        f"The best model lies in {out / 'best'}, from {out / '4-grpo'}",
        "Next:",
        f"  look    {out / 'report.html'}, the report of all stages",
        f"  check   {out / 'best' / 'README.md'}, the model card",
        f"  push    hf upload my-org/my-model {out / 'best'} . --exclude 'checkpoint-*'",
    ]
    assert printed.count("Next:") == 1 and printed.count("The tuned checkpoint lies in") == 3

    run = read_run(out)
    steps = [log["step"] for log in run.history]
    assert steps == sorted(steps) and max(steps) == 6
    wers = [log["eval_stage_wer"] for log in run.history if "eval_stage_wer" in log]
    assert wers == [ended[0]["before"], ended[0]["after"], ended[2]["after"], ended[3]["after"]]
    assert run.pairs and run.groups and set(names) - {"2-pairs"} <= set(run.facts)
    assert [one["summary"]["wer"] for one in run.evaluation["measurements"]] == [wers[0], wers[-1]]
    (compared,) = run.evaluation["comparisons"]
    assert compared["difference"] == wers[-1] - wers[0] and compared["after_model"] == str(out / "4-grpo")
    assert (out / "report.html").stat().st_size > 10_000

    before = {path: path.stat().st_mtime_ns for path in out.glob("*-*/model.safetensors")}
    assert run_recipe(read_recipe(path))[-1].after == wers[-1] and len(decoded) == 4
    assert {path: path.stat().st_mtime_ns for path in out.glob("*-*/model.safetensors")} == before


def test_pairs_of_a_corpus_are_measured_on_its_own_test_split(world, tmp_path):
    class Mine:
        name = "mine"

        def rows(self, split, language):
            lines = (world / f"{'train' if split == 'train' else 'held_out'}.jsonl").read_text().splitlines()
            return [{**row, "audio": str(world / row["audio"])} for row in map(json.loads, lines)]

    register_corpus(Mine())
    stages = ({"method": "sft"}, {"method": "pairs", "num_generations": 2}, {"method": "dpo"})
    path = recipe_file(world, tmp_path, *stages, dataset_name="mine:train", eval_dataset_name=None)
    try:
        ended = run_recipe(read_recipe(path))
    finally:
        del _KNOWN["mine"]
    assert [one.after is None for one in ended] == [False, True, False]
    measured = [json.loads((tmp_path / "out" / name / "evaluation.json").read_text()) for name in ("1-sft", "3-dpo")]
    first, last = ([clip["transcript"] for clip in one["measurements"][1]["clips"]] for one in measured)
    assert first == last and len(last) == 3


def test_where_no_stage_made_it_better_the_report_alone_comes_next():
    recipe = tune.Recipe("r.yaml", "out", "base", (), "wer", "continue")
    worse = tune.Ended("sft", "out/1-sft", "base", {}, 60.0, before=0.1, after=0.2, kept=False)
    assert str(tune.closing(recipe, [worse])).split("\n")[-3:] == [
        "No stage made it better: the model to use is still base.",
        "Next:",
        "  look    out/report.html, the report of all stages",
    ]
    mined = tune.Ended("pairs", "out/1-pairs", "base", {}, 60.0)
    assert "Next:" not in str(tune.closing(recipe, [mined]))


def test_a_stage_that_was_interrupted_goes_on_from_its_checkpoint(world, tmp_path, monkeypatch):
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = recipe_file(world, tmp_path / "whole", {"method": "sft"}, GRPO)
    cut = recipe_file(world, tmp_path / "cut", {"method": "sft"}, GRPO)
    run_recipe(read_recipe(whole))
    save = SpeechTrainer._save_checkpoint

    def interrupted(self, *args):
        save(self, *args)
        if "2-grpo" in self.args.output_dir:
            raise KeyboardInterrupt

    monkeypatch.setattr(SpeechTrainer, "_save_checkpoint", interrupted)
    with pytest.raises(SystemExit):
        run_recipe(read_recipe(cut))
    assert len(json.loads((tmp_path / "cut" / "out" / "recipe.json").read_text())["ended"]) == 1
    monkeypatch.setattr(SpeechTrainer, "_save_checkpoint", save)
    ended = run_recipe(read_recipe(cut))
    assert [one.method for one in ended] == ["sft", "grpo"]
    assert torch.equal(weights(tmp_path / "cut" / "out" / "2-grpo"), weights(tmp_path / "whole" / "out" / "2-grpo"))


@pytest.mark.parametrize("on_worse", ["continue", "stop"])
def test_a_stage_that_makes_it_worse_is_not_handed_on(world, tmp_path, monkeypatch, capsys, on_worse):
    measured = iter([0.5, 0.4, 0.4, 0.6, 0.4, 0.3])  # before and after of three stages

    class Rates:
        def __init__(self):
            self.before, self.after = (type("Rate", (), {"wer": next(measured)}) for _ in range(2))

    run_method = train.run_method
    rated = lambda *args, **options: run_method(*args, **options)._replace(comparison=Rates())  # noqa: E731
    monkeypatch.setattr(train, "run_method", rated)
    stages = [{"method": "sft", "name": name, "max_steps": 1} for name in ("good", "bad", "better")]
    ended = run_recipe(read_recipe(recipe_file(world, tmp_path, *stages, on_worse=on_worse)))
    out = tmp_path / "out"
    assert [one.kept for one in ended][:2] == [True, False]
    assert "2-bad" in capsys.readouterr().out
    if on_worse == "stop":
        assert len(ended) == 2 and torch.equal(weights(out / "best"), weights(out / "1-good"))
    else:
        assert ended[2].model == str(out / "1-good")
        assert torch.equal(weights(out / "best"), weights(out / "3-better"))


REFUSED = [
    ([], {}, "has no stages. Write a list under `stages:`"),
    ([{"method": "sfft"}], {}, "stage 1 has the method 'sfft', which is not known. Did you mean 'sft'"),
    ([{"learning_rate": 1e-3}], {}, "stage 1 has no method. There are sft"),
    ([{"method": "sft", "lerning_rate": 1}], {}, r"stage 1 \(sft\) has no setting 'lerning_rate'. Did you mean 'learn"),
    ([{"method": "sft", "output_dir": "x"}], {}, "output_dir, which the recipe decides"),
    ([{"method": "sft"}], {"bta": 1}, "no stage has a setting 'bta'"),
    ([{"method": "sft"}], {"num_generations": 4}, "no stage has a setting 'num_generations'"),
    ([{"method": "sft"}], {"keep_best": "cer"}, "keep_best is wer or none; got 'cer'"),
    ([{"method": "sft"}], {"keep_best": "wer", "eval_dataset_name": None}, "there are none. Add eval_dataset_name"),
    ([{"method": "sft"}], {"model_name_or_path": None}, "names no model"),
    ([{"method": "sft"}], {"output_dir": None}, "does not say where to write"),
    ([{"method": "sft"}], {"push_to_hub": True}, "push_to_hub belongs to one stage"),
]


@pytest.mark.parametrize(("stages", "top", "message"), REFUSED)
def test_what_does_not_fit_is_told_with_its_stage(world, tmp_path, stages, top, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe(recipe_file(world, tmp_path, *stages, **top))


def test_values_are_checked_in_all_stages_before_the_first_begins(world, tmp_path, capsys):
    path = recipe_file(world, tmp_path, {"method": "sft"}, {**GRPO, "loss_type": "grpoo"})
    with pytest.raises(SystemExit):
        main([path])
    told = capsys.readouterr().err
    assert "Did you mean 'grpo'" in told and told.strip().endswith(f"This is in stage 2 (grpo) of {path}.")
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_changed_does_not_go_on_as_the_old_one(world, tmp_path):
    main([recipe_file(world, tmp_path, {"method": "sft"})])
    with pytest.raises(RecipeError, match=r"stage 1 \(sft\) .* learning_rate = 0.001, and now asks for 0.5"):
        main([recipe_file(world, tmp_path, {"method": "sft", "learning_rate": 0.5})])
    with pytest.raises(RecipeError, match=r"1 finished stages|started from"):
        main([recipe_file(world, tmp_path, {"method": "sft"}), "--model_name_or_path", "openai/whisper-tiny"])


def test_flags_behind_the_name_override_those_at_the_top(world, tmp_path):
    flags = tune._flags(["--max_steps", "1", "--bf16=false", "--columns", "audio=a", "text=b", "--report_html"])
    assert flags == {"max_steps": 1, "bf16": False, "columns": ["audio=a", "text=b"], "report_html": True}
    assert tune._flags(["--no-freeze_encoder", "--seed", "3"]) == {"freeze_encoder": False, "seed": 3}
    recipe = read_recipe(recipe_file(world, tmp_path, {"method": "sft"}), {"max_steps": 7})
    assert recipe.stages[0].settings["max_steps"] == 7
    with pytest.raises(RecipeError, match="'7' follows no flag"):
        tune._flags(["7"])


def test_shipped_recipes_are_valid_and_listed(capsys):
    assert "sft_grpo" in shipped_recipes()
    for name in shipped_recipes():
        recipe = read_recipe(name)
        assert recipe.demo and recipe.stages[0].method == "sft"
        for stage in recipe.stages:
            tune._parse(recipe, stage, recipe.model)
    main(["--help"])
    assert "sft_grpo" in capsys.readouterr().out
    with pytest.raises(RecipeError, match=r"no recipe sft_grop\. Did you mean 'sft_grpo'"):
        read_recipe("sft_grop")


@pytest.mark.slow
def test_two_processes_tune_as_one(world, tmp_path):
    found = []
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        batch = {"per_device_train_batch_size": 4 // count, "optim": "sgd", "max_grad_norm": 0.0}
        path = recipe_file(world, tmp_path / str(count), {"method": "sft"}, {"method": "orpo"}, **batch)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        done = subprocess.run([*launch, "-m", "audiorl", "tune", path], capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(weights(tmp_path / str(count) / "out" / "best"))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_the_answers_of_a_classifier_are_counted_as_labels(tmp_path):
    saved(tiny_classifier("ast"), tmp_path / "model")
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "model")
    labels = list(model.config.id2label.values())
    rows = []
    for i, clip in enumerate(tiny_clips(4)):
        soundfile.write(tmp_path / f"{i}.wav", clip, SAMPLING_RATE)
        rows.append(json.dumps({"audio": f"{i}.wav", "text": labels[i % len(labels)]}))
    for name in ("train", "held_out"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    path = recipe_file(tmp_path, tmp_path, {"method": "sft"}, {"method": "sft", "name": "again"})
    run_recipe(read_recipe(path))
    found = read_run(tmp_path / "out").evaluation
    assert found["settings"]["task"] == "labels"
    assert all(one["summary"]["unit"] == "label" and one["labels"] for one in found["measurements"])
