"""Every example on a model of every family, which it is told by `--model_name_or_path` alone; run in this process."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import transformers
from transformers import AutoConfig, AutoModelForSpeechSeq2Seq, AutoProcessor

from audiorl.models import model_class
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper
from tests.tiny_seq2seq import tiny_seq2seq

EXAMPLES = Path(__file__).parents[1] / "examples"
METHODS = ("sft", "dpo", "orpo", "kto", "grpo", "raft")
BUILT: dict[str, Callable[[], tuple[Any, Any]]] = {
    "ctc": tiny_ctc,
    "moonshine": lambda: tiny_seq2seq("moonshine"),
    "canary": lambda: tiny_seq2seq("canary"),
    "audio-llm": lambda: tiny_audio_llm("qwen2_audio"),
    "labels": lambda: tiny_classifier("ast"),
}
# Of the others the families' own tests train the same: they run before a release.
FAST = {
    ("sft", "moonshine"),
    ("kto", "ctc"),
    ("dpo", "ctc"),
    ("orpo", "canary"),
    ("grpo", "moonshine"),
    ("raft", "labels"),
}
CELLS = [
    pytest.param(method, kind, marks=[pytest.mark.slow] * ((method, kind) not in FAST))
    for method in METHODS
    for kind in BUILT
]


def write_rows(folder: Path, texts: list[str], seconds: float = 0.9) -> None:
    """Transcribed clips of `seconds` and less: what SFT learns, and DPO and ORPO make pairs of."""
    lines = []
    for i, clip in enumerate(tiny_clips(len(texts), seconds)):
        soundfile.write(folder / f"{i}.wav", clip, SAMPLING_RATE)
        lines.append({"audio": f"{i}.wav", "text": texts[i], "language": "en"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture
def example(tmp_path, monkeypatch) -> Iterator[Callable[..., Path]]:
    """Runs an example on a model and the rows of `write_rows`; the folder it writes to."""
    monkeypatch.chdir(tmp_path)
    verbosity = transformers.utils.logging.get_verbosity()

    def run(method: str, built: tuple[Any, Any], *flags: str) -> Path:
        for part in built:
            part.save_pretrained("base")
        arguments = [
            *("--model_name_or_path", "base", "--dataset_name", "rows.jsonl", "--eval_dataset_name", "rows.jsonl"),
            *("--output_dir", "out", "--max_steps", "1", "--learning_rate", "1e-2", "--save_strategy", "no"),
            *("--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true"),
        ]
        file = str(EXAMPLES / f"{method}_whisper.py")
        monkeypatch.setattr(sys, "argv", [file, *arguments, *flags])
        runpy.run_path(file, run_name="__main__")
        return tmp_path / "out"

    yield run
    transformers.utils.logging.set_verbosity(verbosity)


def rewarded(method: str, reward: str) -> list[str]:
    if method not in ("grpo", "raft"):
        return []
    return ["--reward_funcs", reward, "--max_completion_length", "36", "--num_generations", "16"]


@pytest.mark.parametrize(("method", "kind"), CELLS)
def test_an_example_tunes_and_measures_whatever_the_name_says(method, kind, example, tmp_path, capsys):
    labels = kind == "labels"
    write_rows(tmp_path, ["one", "two", "seven", "nine"] if labels else ["dog", "a fox", "so", "dogs"])
    out = example(method, BUILT[kind](), *rewarded(method, "exact_match" if labels else "negative_cer"))
    said = capsys.readouterr().out
    assert ("Accuracy after" if labels else "WER after") in said
    model = BUILT[kind]()[0]
    assert model_class(AutoConfig.from_pretrained(out)) is type(model)
    tuned = type(model).from_pretrained(out, dtype=model.dtype)
    moved = [(p - tuned.get_parameter(name)).abs().max() for name, p in model.named_parameters() if p.requires_grad]
    assert max(moved) > 1e-3


def test_one_held_out_clip_is_refused_before_the_run(example, tmp_path, capsys):
    write_rows(tmp_path, ["dog"])
    with pytest.raises(SystemExit):
        example("grpo", tiny_ctc(), *rewarded("grpo", "negative_cer"))
    said = capsys.readouterr()
    assert "needs at least two held-out clips. Measure on more" in said.err and "step" not in said.out


@pytest.mark.parametrize("method", METHODS)
def test_the_window_is_a_flag_of_every_example(method, example, tmp_path):
    """Clips of one second at most, which a Whisper of two seconds is to hear."""
    write_rows(tmp_path, ["dog", "so"])
    flags = ["--audio_window_seconds", "1", *rewarded(method, "negative_cer")]
    out = example(method, tiny_whisper("multilingual"), *flags)
    loaded = AutoModelForSpeechSeq2Seq.from_pretrained(out)
    assert loaded.model.encoder.embed_positions.weight.shape[0] == loaded.config.max_source_positions == 50
    assert AutoProcessor.from_pretrained(out).feature_extractor.chunk_length == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--audio_window_seconds", "1"), "the model hears 1 s"),
        (("--audio_window_seconds", "1", "--use_peft"), "hears 1 s, shortened from 2 s: the adapter would come back"),
    ],
)
def test_what_a_shorter_window_rules_out_is_said_before_anything_is_written(flags, words, example, tmp_path, capsys):
    write_rows(tmp_path, ["dog", "so"], seconds=1.6)
    with pytest.raises(SystemExit) as stopped:
        example("grpo", tiny_whisper("multilingual"), *flags, *rewarded("grpo", "negative_cer"))
    assert stopped.value.code == 1 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
