"""States kept on disk: what names them, what they take, and what a kill, a full disk or another process leaves."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from peft import LoraConfig, get_peft_model

from audiorl.audio import load_row_audio
from audiorl.datasets import speech_rows
from audiorl.models import EncoderCache, shorten_window, speech_family
from audiorl.models import encoder_cache as module
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper


def load(row: Any) -> Any:
    return load_row_audio(row, SAMPLING_RATE)


def clips(count: int = 4, **columns: Any) -> Any:
    return speech_rows(
        [{"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, **columns} for clip in tiny_clips(count)]
    )


@pytest.fixture
def whisper() -> tuple[Any, Any]:
    model, processor = tiny_whisper()
    return model, speech_family(model, processor)


def filled(folder: Path, whisper: tuple[Any, Any], rows: Any, **options: Any) -> EncoderCache:
    model, family = whisper
    cache = EncoderCache(folder, family, model, **options)
    cache.fill(model, family, rows, load, progress=False)
    return cache


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.safetensors"))


# ---- what is kept ----


def test_states_are_those_of_the_clip_alone_and_bfloat16_rounds_them(tmp_path, whisper):
    model, family = whisper
    rows = clips(3)
    exact, rounded = (filled(tmp_path, whisper, rows, dtype=dtype) for dtype in ("model", "bfloat16"))
    for row in rows:
        heard = family.features([load(row)])["input_features"]
        with torch.no_grad():
            alone = model.get_encoder()(heard).last_hidden_state[0]
        assert torch.equal(exact.find(row).states, alone)
        assert torch.equal(rounded.find(row).states, alone.to(torch.bfloat16))
    assert len(files(tmp_path)) == 6
    assert exact.find(clips(4)[3]) is None


def test_a_clip_is_encoded_once_whatever_file_it_lies_in(tmp_path, whisper):
    first, second = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(first, tiny_clips(1)[0], SAMPLING_RATE)
    shutil.copy(first, second)
    rows = speech_rows([{"audio": str(first)}, {"audio": str(second)}, {"audio": str(first), "start": 0.1, "end": 0.5}])
    model, family = whisper
    cache = EncoderCache(tmp_path / "states", family, model)
    assert cache.fill(model, family, rows, load, progress=False) == 2
    assert torch.equal(cache.find(rows[0]).states, cache.find(rows[1]).states)
    assert cache.find(rows[2]).samples == round(0.4 * SAMPLING_RATE)
    again = EncoderCache(tmp_path / "states", family, model)
    assert again.fill(model, family, speech_rows([{"audio": str(second)}]), load, progress=False) == 0


def test_a_file_with_another_sound_has_other_states(tmp_path, whisper):
    path, (one, two) = tmp_path / "a.wav", tiny_clips(2)
    soundfile.write(path, one, SAMPLING_RATE)
    rows = speech_rows([{"audio": str(path)}])
    cache = filled(tmp_path / "states", whisper, rows)
    before = cache.find(rows[0]).states
    soundfile.write(path, two, SAMPLING_RATE)
    assert cache.find(rows[0]) is None
    assert not torch.equal(filled(tmp_path / "states", whisper, rows).find(rows[0]).states, before)


def test_another_encoder_has_another_folder_and_another_decoder_has_not(tmp_path, whisper):
    model, family = whisper
    cache = EncoderCache(tmp_path, family, model)
    with torch.no_grad():
        model.get_decoder().layers[0].fc1.weight.add_(1.0)
    assert cache.serves(family, model)
    with torch.no_grad():
        model.get_encoder().layers[0].fc1.weight[0, 0].add_(1e-3)
    assert not cache.serves(family, model)
    shorter, processor = tiny_whisper("multilingual")
    paths = [EncoderCache(tmp_path, speech_family(shorter, processor), shorter).path]
    shorten_window(shorter, processor, 1)
    paths.append(EncoderCache(tmp_path, speech_family(shorter, processor), shorter).path)
    assert len({*paths, cache.path}) == 3


def test_silence_is_kept_for_those_who_allow_it(tmp_path, whisper):
    rows = speech_rows([{"audio": {"array": 0 * tiny_clips(1)[0], "sampling_rate": SAMPLING_RATE}}])
    model, family = whisper
    cache = EncoderCache(tmp_path, family, model)
    cache.fill(model, family, rows, lambda row: load_row_audio(row, SAMPLING_RATE, allow_silence=True), progress=False)
    assert cache.find(rows[0]) is None and cache.find(rows[0], silent=True).silent


# ---- room ----


def test_the_room_is_told_before_and_is_what_states_take(tmp_path, caplog):
    model, processor = tiny_ctc()
    family = speech_family(model, processor)
    cache, told = EncoderCache(tmp_path, family, model, dtype="model"), []
    cache._room = lambda *given: told.append(EncoderCache._room(cache, *given)) or told[-1]
    cache.fill(model, family, (rows := clips(5)), load, progress=False)
    taken = sum(cache.find(row).nbytes for row in rows)
    assert told == [pytest.approx(taken, rel=0.05)]
    assert "5 of 5 clips" in caplog.text


def test_too_little_room_is_refused_before_anything_is_encoded(tmp_path, whisper, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(2**30, 2**30 - 1000, 1000))
    with pytest.raises(ValueError, match=r"states of 4 clips would take .* free\. Name a folder on a larger disk"):
        filled(tmp_path, whisper, clips())
    assert files(tmp_path) == []


def test_a_disk_that_fills_up_stops_with_what_to_do(tmp_path, whisper, monkeypatch):
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="make room and start again"):
        filled(tmp_path, whisper, clips(1))


# ---- kills and other processes ----


def test_what_a_killed_process_leaves_is_never_read_and_is_removed(tmp_path, whisper, monkeypatch):
    rows, replace, moved = clips(), os.replace, []

    def dies(source: str, target: str) -> None:
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, whisper, rows)
    monkeypatch.undo()
    (part,) = tmp_path.rglob("*.part")
    # as of a process that is gone, and as half a file
    dead = part.with_name(part.name.replace(f".{os.getpid()}.", ".999999999."))
    part.rename(dead)
    dead.write_bytes(dead.read_bytes()[:100])
    elsewhere = dead.with_name(f"{'0' * 64}@another-machine.999999999.part")
    elsewhere.touch()
    model, family = whisper
    cache = EncoderCache(tmp_path, family, model)
    assert [cache.find(row) is None for row in rows].count(True) == 2
    assert cache.fill(model, family, rows, load, progress=False) == 2
    whole = filled(tmp_path / "whole", whisper, rows)
    assert all(torch.equal(cache.find(row).states, whole.find(row).states) for row in rows)
    assert list(tmp_path.rglob("*.part")) == [elsewhere]


def test_processes_fill_one_folder_together(tmp_path, whisper):
    rows = clips()
    model, family = whisper
    both = [EncoderCache(tmp_path, family, model) for _ in range(2)]
    found = [
        cache.fill(model, family, rows.select(range(rank, 4, 2)), load, processes=2, progress=False)
        for rank, cache in enumerate(both)
    ]
    assert found == [2, 2] and all(cache.find(row) for cache in both for row in rows)


def test_a_damaged_file_is_named(tmp_path, whisper):
    rows = clips(1)
    cache = filled(tmp_path, whisper, rows)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"{path.name}.* Delete the file"):
        cache.find(rows[0])


# ---- refused ----


def test_encoders_that_their_weights_do_not_tell_apart_are_refused(tmp_path, whisper, monkeypatch):
    model, family = whisper
    with pytest.raises(ValueError, match=r"encoder_cache_dtype is one of"):
        EncoderCache(tmp_path, family, model, dtype="float16")
    with pytest.raises(ValueError, match="stream"):
        EncoderCache(tmp_path, family, model).fill(model, family, clips().to_iterable_dataset(), load)
    monkeypatch.setattr(family, "encoder_parameters", lambda model: [torch.zeros(3, dtype=torch.int8)])
    with pytest.raises(ValueError, match="quantised"):
        EncoderCache(tmp_path, family, model)
    monkeypatch.undo()
    decoder = get_peft_model(model, LoraConfig(target_modules=r".*decoder.*q_proj"))
    EncoderCache(tmp_path, family, decoder)
    whole, _ = tiny_whisper()
    adapted = get_peft_model(whole, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"an adapter has layers in it .*q_proj\)\. Put the adapter into the decoder"):
        EncoderCache(tmp_path, family, adapted)


def test_whispers_own_search_needs_the_audio(tmp_path, whisper):
    model, family = whisper
    cache = filled(tmp_path, whisper, (rows := clips(1)))
    with pytest.raises(ValueError, match=r"return_timestamps.*Decode without encoder_cache"):
        family.transcribe(model, cache.join([cache.find(rows[0])]), return_timestamps=True)
