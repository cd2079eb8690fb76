"""A row that is one speaker of a call: the same channel is checked, trained on, mined, measured, sent and played."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, check_rows, export_rows, speech_rows
from audiorl.evaluation import Endpoint, read_document
from audiorl.evaluation.transcription import load_clip
from audiorl.models import speech_family
from audiorl.pairs import MiningConfig, MiningFolder, mine_into
from audiorl.report.audio import PageAudio
from audiorl.report.page import page_data
from audiorl.report.run_folder import KeptAudio, leave_pairs, read_run
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from tests.evaluation.server import serving
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper
from tests.trainers.pair_rows import CHOSEN, REJECTED, settings

LENGTH = 9600
AGENT, CUSTOMER = (clip[:LENGTH] for clip in tiny_clips(2))
CALL = np.stack([AGENT, CUSTOMER], axis=1)
CHANNELS = (0, 1, "mix")
EXPECTED = (AGENT, CUSTOMER, (AGENT + CUSTOMER) / 2)


def call_bytes() -> bytes:
    content = io.BytesIO()
    soundfile.write(content, CALL, SAMPLING_RATE, format="WAV", subtype="FLOAT")
    return content.getvalue()


@pytest.fixture
def calls(tmp_path) -> Path:
    """Three rows of one file: agent, customer, both."""
    (tmp_path / "call.wav").write_bytes(call_bytes())
    lines = [
        {"audio": "call.wav", "channel": channel, "text": CHOSEN[i], "language": "english"}
        for i, channel in enumerate(CHANNELS)
    ]
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def family():
    return speech_family(*tiny_whisper("multilingual"))


def test_the_collator_and_the_evaluation_hear_the_channel(calls):
    rows, known = list(speech_rows(calls)), family()
    assert [row["channel"] for row in rows] == list(CHANNELS)
    alone = [
        {**row, "channel": None, "audio": {"array": clip, "sampling_rate": SAMPLING_RATE}}
        for row, clip in zip(rows, EXPECTED, strict=True)
    ]
    batch, expected = (SpeechCollator(known, ("text",))(some) for some in (rows, alone))
    assert torch.equal(batch.audio, expected.audio)
    for row, clip in zip(rows, EXPECTED, strict=True):
        assert load_clip(row, row["where"], known) == pytest.approx(clip)


@pytest.mark.parametrize("source", ["file", "arrays", "bytes", "stream"])
def test_rows_of_every_form_keep_their_channel(calls, source):
    audio = {"arrays": {"array": CALL, "sampling_rate": SAMPLING_RATE}, "bytes": {"bytes": call_bytes(), "path": None}}
    rows = [{"audio": audio.get(source), "channel": i, "text": CHOSEN[i]} for i in (0, 1)]
    found = list(speech_rows(rows if source in audio else calls))[:2]
    if source == "stream":
        found = list(speech_rows(speech_rows(calls).to_iterable_dataset()))[:2]
    for row, clip in zip(found, EXPECTED, strict=False):
        assert load_clip(row, "here", family()) == pytest.approx(clip, abs=1e-6)


def test_a_channel_that_is_not_there_is_a_bad_row_of_the_check_and_of_a_trainer(calls):
    rows = [
        {"audio": str(calls.parent / "call.wav"), "channel": channel, "chosen": CHOSEN[i], "rejected": REJECTED[i]}
        for i, channel in enumerate(("1", "2", "left", "0"))
    ]
    faults = check_rows(
        speech_rows(rows),
        text_columns=("chosen", "rejected"),
        tokenize=lambda text, row: None,
        max_seconds=None,
        distinct=True,
    )
    assert [fault.row_id for fault in faults] == [1, 2]
    assert "has 2 channels, 0 to 1; the row asks for channel 2" in faults[0].problem
    assert "channel is 'left'" in faults[1].problem
    model, processor = tiny_whisper()
    args = DPOConfig(**settings(calls.parent / "out"))
    with pytest.raises(BadRowsError, match="channel is 'left'"):
        DPOTrainer(model, args=args, train_dataset=rows, processing_class=processor)
    skipping = DPOConfig(**settings(calls.parent / "out"), on_bad_rows="skip")
    trainer = DPOTrainer(model, args=skipping, train_dataset=rows, processing_class=processor)
    assert trainer.train_dataset["channel"] == ["1", "0"]
    trainer.train()


def test_mined_pairs_are_of_the_same_channel(calls, tmp_path):
    model, processor = tiny_whisper("multilingual")
    config = MiningConfig(num_generations=3, batch_size=3, strategy="transcript_vs_each")
    with MiningFolder(tmp_path / "mined", {}, rank=0, world=1) as folder:
        mine_into(folder, model, processor, speech_rows(calls), config=config, progress=False)
    pairs = speech_rows(tmp_path / "mined" / "pairs.jsonl")
    channels = {row["chosen"]: row["channel"] for row in pairs}
    assert channels and all(channels[text] == CHANNELS[CHOSEN.index(text)] for text in channels)


def test_an_endpoint_is_sent_the_channel_alone(calls):
    rows = list(speech_rows(calls))
    with serving(lambda heard, before: (200, json.dumps({"text": "x"}), {})) as server:
        list(Endpoint(server.url, "m", requests_in_flight=1).transcribe(rows, None, progress=False))
    sent = [soundfile.read(io.BytesIO(heard.content), dtype="float32")[0] for heard in server.heard]
    for samples, clip in zip(sent[:2], EXPECTED, strict=False):
        assert samples == pytest.approx(clip, abs=1e-4)
    assert sent[2].shape == CALL.shape  # the file as it is
    assert [heard.file_name for heard in server.heard] == ["audio.wav", "audio.wav", "call.wav"]


def played(content: str) -> float:
    """Loudest frequency of an embedded clip, as a share of its rate."""
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(content)))
    return float(np.abs(np.fft.rfft(samples)).argmax() / len(samples))


def test_the_page_plays_the_channel(tmp_path):
    time = np.arange(16_000) / 16_000
    two = 0.3 * np.stack([np.sin(2 * np.pi * hertz * time) for hertz in (400, 1200)], axis=1)
    soundfile.write(tmp_path / "two.wav", two, 16_000)
    in_file = {"bytes": None, "path": str(tmp_path / "two.wav")}
    in_row = {"bytes": (tmp_path / "two.wav").read_bytes(), "path": None}
    rows = [
        {"audio": audio, "channel": channel, "where": "row", "row_id": i, "chosen": "a", "rejected": "b"}
        for i, (audio, channel) in enumerate([(in_file, 0), (in_file, "1"), (in_row, 0), (in_row, 1)])
    ]
    leave_pairs(tmp_path, rows, KeptAudio(tmp_path))
    page = PageAudio(tmp_path / "page.html", 10**6)
    found = page_data(read_run(tmp_path), "calls", page)["pairs"]
    heard = [16_000 * played(page.embedded[pair["audio"]["embedded"]].content) for pair in found]
    assert heard == pytest.approx([400, 1200, 400, 1200], abs=5)
    linked = PageAudio(tmp_path / "page.html", 0)
    page_data(read_run(tmp_path), "calls", linked)
    assert "2 of these are a channel" in linked.describe()


def test_exported_rows_are_read_again_with_their_channel(calls, tmp_path):
    assert export_rows(speech_rows(calls), tmp_path / "out.jsonl", progress=False) == 3
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line.get("channel") for line in lines] == [0, 1, "mix"]
    assert "channel" not in lines[0]["metadata"]


def test_an_evaluation_document_names_the_channel(calls, tmp_path):
    from audiorl.commands import evaluate

    model, processor = tiny_whisper("multilingual")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    output = tmp_path / "result.json"
    evaluate.main(
        ["--model_name_or_path", str(tmp_path / "model"), "--dataset_name", str(calls), "--output", str(output)]
    )
    clips = read_document(output)["measurements"][0]["clips"]
    assert [clip["channel"] for clip in clips] == [0, 1, None]
