"""Descriptions as dict, JSON, YAML and file; what is wrong with one is said with the nearest right name."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import soundfile

from audiorl.augment import load_augmentation
from audiorl.flags import parse
from audiorl.trainers.dpo import DPOConfig
from tests.trainers.pair_rows import config

SHORT_FORM = {"noise": {"type": "gaussian", "std": 0.01}, "speed": {"factor": 0.9}, "pitch": {"steps": 2}}


def heard(description) -> np.ndarray:
    clip = np.sin(np.arange(4000) / 5).astype(np.float32)
    return load_augmentation(description).clip(clip, 16_000, 0)


def test_dict_json_yaml_and_files_mean_the_same(tmp_path):
    yaml_text = "noise:\n  type: gaussian\n  std: 0.01\nspeed: {factor: 0.9}\npitch: {steps: 2}\n"
    json_file, yaml_file = tmp_path / "a.json", tmp_path / "b.yaml"
    json_file.write_text(json.dumps(SHORT_FORM))
    yaml_file.write_text(yaml_text)
    listed = [{name: settings} for name, settings in SHORT_FORM.items()]
    forms = [
        json.dumps(SHORT_FORM),
        yaml_text,
        str(json_file),
        yaml_file,
        listed,
        "{noise: {std: 0.01}, speed: {factor: 0.9}, pitch: {steps: 2}}",
    ]
    expected = heard(SHORT_FORM)
    assert len(expected) == round(4000 / 0.9)
    for form in forms:
        assert np.array_equal(heard(form), expected)


def test_paths_start_at_the_folder_of_the_description(tmp_path, monkeypatch):
    (tmp_path / "noises").mkdir()
    soundfile.write(tmp_path / "noises" / "a.wav", np.sin(np.arange(9000) / 3), 16_000)
    (tmp_path / "augment.json").write_text('{"noise": {"type": "files", "path": "noises", "snr_db": 5}}')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(heard("../augment.json")) == 4000
    with pytest.raises(ValueError, match="no file or folder noises"):
        heard({"noise": {"type": "files", "path": "noises", "snr_db": 5}})


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"nosie": {"std": 0.1}}, r"no transform 'nosie'. Did you mean 'noise'\?"),
        ({"zebra": {}}, r"no transform 'zebra'. Choose one of noise, speed"),
        ({"speed": {"facter": 0.9}}, r"speed has no setting 'facter'. Did you mean 'factor'\?"),
        ({"speed": {}}, r"speed lacks 'factor'. Write"),
        ({"speed": 0.9}, r"speed is 0.9, not a dict of settings. Write"),
        ({"speed": {"factor": "0.9"}}, r"speed.factor is '0.9', not a number.*Write a number"),
        ({"speed": {"factor": True}}, r"speed.factor is True, not a number"),
        ({"speed": {"factor": [0.9, 1.0, 1.1]}}, r"speed.factor is \[0.9, 1.0, 1.1\], not a number or a range"),
        ({"speed": {"factor": [1.1, 0.9]}}, r"speed.factor.*not in order"),
        ({"speed": {"factor": 0.1}}, r"speed.factor is 0.1, outside 0.5 to 2"),
        ({"speed": {"factor": float("nan")}}, r"speed.factor is nan, outside"),
        ({"speed": {"factor": 0.9, "keep_pitch": "yes"}}, r"speed.keep_pitch is 'yes'. Write true or false"),
        ({"gain": {"db": 3, "p": 1.5}}, r"gain.p is 1.5. Write one number from 0 to 1"),
        ({"pitch": {"steps": 40}}, r"pitch.steps is 40, outside -12 to 12 semitones"),
        ({"noise": {}}, r"noise needs its loudness stated once; got none"),
        ({"noise": {"std": 0.1, "snr_db": 3}}, r"noise needs its loudness stated once; got two"),
        ({"noise": {"type": "gausian", "std": 0.1}}, r"noise.type is 'gausian'.*Did you mean 'gaussian'\?"),
        ({"noise": {"type": "files", "snr_db": 3}}, r"noise from files needs a path and snr_db"),
        ({"noise": {"type": "files", "path": "absent", "snr_db": 3}}, r"noise.path: there is no file or folder absent"),
        ({"noise": {"type": "files", "path": 3, "snr_db": 3}}, r"noise.path is 3. Write the path"),
        ({"noise": {"path": "tests", "snr_db": 3}}, r"the folder tests holds no sound file"),
        ({"noise": {"type": "files", "path": "pyproject.toml", "snr_db": 3}}, r"noise.path: .*is not audio"),
        ({"reverb": {}}, r"reverb takes either decay_seconds or a path.*got neither"),
        ({"time_mask": {"seconds": 0.1, "count": 1.5}}, r"time_mask.count is 1.5. Write one whole number"),
        ({"frequency_mask": {"bins": [0, 2.5]}}, r"frequency_mask.bins is \[0, 2.5\], not a whole number"),
        ({"gain": {"db": 1}, "too_long": "cut"}, r"too_long is 'cut', which is not offered"),
        ([{"speed": {"factor": 0.9}}, {"speed": {"factor": 0.8}}], r"speed is there twice"),
        ([["speed"]], r"holds \['speed'\] \(list\), not a dict"),
        ({}, r"names no transform. Leave it out"),
        ("", r"holds None \(NoneType\), not a dict"),
        ("augment", r"holds 'augment' \(str\), not a dict"),
        ("missing.yaml", r"no file missing.yaml. Check the path"),
        ('{"speed": {"factor": 0.9}', r"(?s)cannot be read from the text.*Correct it"),
        ('{"gain": {"db": 1}, "gain": {"db": 2}}', r"a name is there twice"),
        ("gain: {db: 1}\ngain: {db: 2}", r"a name is there twice"),
        ("noise: {std: 1e-3}", r"'1e-3', not a number.*in YAML 1.0e-3"),
        (7, r"holds 7 \(int\), not a dict"),
    ],
)
def test_bad_descriptions_are_refused_with_the_remedy(description, message):
    with pytest.raises(ValueError, match=message):
        load_augmentation(description)


@pytest.mark.parametrize("description", [{"pitch": {"steps": 1}}, {"speed": {"factor": 0.9, "keep_pitch": True}}])
def test_a_missing_package_is_named_when_the_description_is_read(monkeypatch, description):
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    with pytest.raises(ValueError, match=r'pip install "audiorl\[augment\]"'):
        load_augmentation(description)
    load_augmentation({"speed": {"factor": 0.9}, "noise": {"std": 0.1}})


def test_a_config_with_a_bad_augmentation_is_refused_when_it_is_built(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'noise'"):
        config(tmp_path, augmentation='{"nosie": {"std": 0.01}}')


def test_the_command_line_takes_a_description(tmp_path):
    flags = ["--output_dir", str(tmp_path), "--use_cpu", "True", "--report_to", "none"]
    (args,) = parse([DPOConfig], [], [*flags, "--augmentation", '{"gain": {"db": 3}}'])
    assert np.array_equal(heard(args.augmentation), heard({"gain": {"db": 3}}))
