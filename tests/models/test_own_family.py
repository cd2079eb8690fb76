"""A family of one's own by name: `--family`, an entry point, `use_family`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import soundfile
from transformers import AutoConfig

from audiorl import cli
from audiorl.models import FAMILIES, registered_family, use_family
from tests.code_blocks import blocks_of
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import SAMPLING_RATE, tiny_clips

PAGE = "docs/pages/extending/family.md"
USE = ["--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true", "--max_steps", "1"]


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """The module of the page, in the working folder; what it registers is taken back."""
    (code,) = (block.code for block in blocks_of(PAGE) if block.title == "my_family.py")
    (tmp_path / "my_family.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    before = dict(FAMILIES)
    yield tmp_path
    FAMILIES.clear()
    FAMILIES.update(before)
    sys.modules.pop("my_family", None)


@pytest.fixture
def checkpoint(own_module) -> Path:
    """A checkpoint that transformers does not know by itself, and three rows."""
    model, processor = tiny_ctc()
    model.save_pretrained("ours")
    processor.save_pretrained("ours")
    config = json.loads(Path("ours/config.json").read_text())
    config |= {"model_type": "our_ctc", "architectures": ["OurForCTC"]}
    Path("ours/config.json").write_text(json.dumps(config))
    rows = []
    for i, clip in enumerate(tiny_clips(3)):
        soundfile.write(f"{i}.wav", clip, SAMPLING_RATE)
        rows.append(json.dumps({"audio": f"{i}.wav", "text": "a fox"}))
    Path("rows.jsonl").write_text("\n".join(rows))
    return own_module / "ours"


def test_commands_take_it_by_its_path(checkpoint, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--model_name_or_path", "ours", "--dataset_name", "rows.jsonl"])
    assert "our_ctc" in capsys.readouterr().err
    named = ["--model_name_or_path", "ours", "--family", "my_family.OurFamily", "--dataset_name", "rows.jsonl"]
    cli.main(["sft", *named, "--output_dir", "tuned", "--freeze_encoder", "true", *USE])
    assert Path("tuned/model.safetensors").is_file()
    assert type(AutoConfig.from_pretrained("tuned")).__name__ == "OurConfig"
    cli.main(["evaluate", "--model_name_or_path", "tuned", *named[2:]])
    assert "WER" in capsys.readouterr().out
    cli.main(["pairs", *named, "--output_dir", "pairs", "--num_generations", "2"])
    assert Path("pairs/pairs.jsonl").is_file()


def test_a_package_offers_one_under_the_name_of_the_class(own_module, monkeypatch):
    record = own_module / "ours-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[audiorl.families]\nLetterCTC = my_family:OurFamily\n")
    monkeypatch.syspath_prepend(str(own_module))
    letters = type("LetterCTC", (), {})
    assert registered_family(letters, "letters").__name__ == "OurFamily"
    assert registered_family(type("Other", (), {}), "letters") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_family.OurFamilly", "The module of the family .*OurFamilly' has no such name"),
        ("my_family.OurConfig", r"is no subclass of audiorl\.models\.SpeechFamily. Pass --family"),
        ("OurFamily", "is not known. Pass --family my_module"),
        ("audiorl.models.ctc.WaveformCTCFamily", r"does not say which models it serves\. Write serves"),
    ],
)
def test_what_is_no_family_of_ones_own_is_told(own_module, name, message):
    with pytest.raises(ValueError, match=message):
        use_family(name)
