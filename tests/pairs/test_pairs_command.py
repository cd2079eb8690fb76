"""`audiorl pairs` as a person runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from datasets import Dataset

from audiorl.commands.pairs import main
from tests.closed_pipe import ClosedPipe
from tests.pairs.mining_rows import rows_on_disk
from tests.tiny_models import tiny_whisper


@pytest.fixture
def data(tmp_path):
    return rows_on_disk(tmp_path, 5)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("base")
    for part in tiny_whisper():
        part.save_pretrained(folder)
    return str(folder)


def test_pairs_are_mined_and_told_and_a_second_call_tells_them_again(base, data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    argv = ["--model_name_or_path", base, "--dataset_name", str(data), "--output_dir", str(out)]
    argv += ["--num_generations", "2", "--temperature", "0.8", "1.2", "--batch_size", "3", "--save_dataset"]
    main(argv)
    told = capsys.readouterr().out
    assert "pairs from 5 clips" in told and "WER before tuning" in told and str(out / "pairs.jsonl") in told
    rows = [json.loads(line) for line in (out / "hypotheses.jsonl").read_text().splitlines()]
    assert all(sum(row["copies"]) == 4 and row["decoded"] is not None for row in rows)
    assert (out / "pairs" / "state.json").exists() and (out / "hypotheses" / "state.json").exists()
    main(argv)
    assert capsys.readouterr().out == f"{out} was finished before, and nothing is mined again.\n{told}"
    monkeypatch.setenv("RANK", "1")
    main(argv)
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("RANK")
    with pytest.raises(ValueError, match="begun with other settings"):
        main([*argv, "--seed", "1"])


def test_a_folder_of_other_weights_or_rows_is_refused_though_their_names_are_the_same(base, data, tmp_path, capsys):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(base, model)
    argv = ["--model_name_or_path", str(model), "--dataset_name", str(data), "--output_dir", str(out)]
    argv += ["--num_generations", "2"]
    main(argv)
    text = data.read_text()
    data.write_text(text.replace("all year", "all day"))
    with pytest.raises(ValueError, match=r"begun with other settings: .*train.jsonl has other content than then"):
        main(argv)
    data.write_text(text)
    main(argv)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-100] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match=r"model has other content than then. Go on with those, or choose another"):
        main(argv)


def test_pairs_are_written_though_nobody_reads_what_is_printed(data, tmp_path, monkeypatch):
    argv = ["--source", "synthetic", "--dataset_name", str(data), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    with pytest.raises(BrokenPipeError):
        main([*argv, "--save_dataset"])
    assert (tmp_path / "out" / "pairs" / "state.json").exists()


def test_pairs_of_beams_without_the_wer_before(base, data, tmp_path, capsys):
    argv = ["--model_name_or_path", base, "--dataset_name", str(data), "--output_dir", str(tmp_path / "out")]
    main(
        [*argv, "--source", "beams", "--num_generations", "3", "--reward_funcs", "negative_wer", "--measure_wer", "no"]
    )
    assert "WER before" not in capsys.readouterr().out
    row = json.loads((tmp_path / "out" / "hypotheses.jsonl").read_text().splitlines()[0])
    assert set(row["origins"]) == {"beam@1"} and list(row["reward_parts"]) == ["negative_wer"]


def test_synthetic_pairs_without_a_model_are_pushed(data, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(Dataset, "push_to_hub", lambda self, name, private: pushed.append((len(self), name, private)))
    argv = ["--source", "synthetic", "--dataset_name", str(data), "--output_dir", str(tmp_path / "out")]
    main([*argv, "--limit", "4", "--num_generations", "2", "--push_to_hub", "--hub_dataset_id", "me/pairs"])
    assert pushed == [(8, "me/pairs", True)]


def test_bad_rows_are_skipped_on_request(data, tmp_path):
    data.write_text(data.read_text().replace('"all year"', '""'))
    argv = ["--source", "synthetic", "--dataset_name", str(data), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=r"train\.jsonl:2: text is empty"):
        main(argv)
    main([*argv, "--on_bad_rows", "skip"])
    assert len((tmp_path / "out" / "skipped_rows.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["left_out"] == {"rows that cannot be used": 1}


def test_what_cannot_work_is_told_before_anything_is_loaded(data, tmp_path, capsys):
    argv = ["--dataset_name", str(data), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="samples and beams need a model"):
        main(argv)
    with pytest.raises(ValueError, match="--hub_dataset_id"):
        main([*argv, "--source", "synthetic", "--push_to_hub"])
    for wrong, told in ((["--stratgy", "nbest"], "--strategy"), (["--strategy", "worst"], "transcript_vs_worst")):
        with pytest.raises(SystemExit) as ended:
            main([*argv, "--source", "synthetic", *wrong])
        assert ended.value.code == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "broken.jsonl").write_text('{"audio": "0.wav", "text": "a"}\n{"audio": \n')
    with pytest.raises(ValueError, match=r"broken\.jsonl:2"):
        main(["--source", "synthetic", "--dataset_name", str(tmp_path / "broken.jsonl"), "--output_dir", str(tmp_path)])


def test_filters_that_leave_no_pair_are_told(data, tmp_path):
    argv = ["--source", "synthetic", "--dataset_name", str(data), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="There are no pairs"):
        main([*argv, "--min_margin", "50"])


def test_importing_the_command_loads_neither_torch_nor_transformers():
    code = "import audiorl.commands.pairs, sys; print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
