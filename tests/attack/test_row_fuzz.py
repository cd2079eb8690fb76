"""A fuzzer of rows: types, texts and bytes mutated from a fixed seed.

Each row is refused with its place, in words and with a remedy, or it is trained with exactly its text and finite
features. No exception but `BadRowsError` leaves the library, and no row takes long. A few hundred rows run with the
suite, 20,000 with `pytest -m slow tests/attack/test_row_fuzz.py`; both print their figures.

The oracle of a text reads tokens without the library: bytes of the byte-level alphabet, or the symbols of a CTC
vocabulary.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datasets import IterableDataset
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from audiorl.audio import load_audio
from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, check_rows, drop_bad_rows, speech_rows
from audiorl.models import speech_family
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper

SEED = 20261129
# Of the processor's time, not of the clock: other processes share the machine.
MOST_SECONDS = 2.0
# A row that waits for something uses no processor; after so long it counts as hanging.
HANGING = 60
COLUMNS = ("chosen", "rejected")
ROWS_TOGETHER = 16
FORMS = ("file", "array", "list", "stream")
# ---- what rows are made of ----

WORDS = "the quick brown fox jumps over a lazy dog she had your dark suit in greasy wash water all year".split()
CHARACTERS = (
    *"abcXYZ019 .,!?'\"-_/\\|<>[](){}&%$#@*+=~`^:;\t\n\r\0\x01\x1b\x7f\x85\xa0",
    *"äßéÅİıſﬁ你好ん한नमสवัสدİ\u0301\u0308\u200b\u200d\u200e\u202e\u2028\u2060\ufeff\ufffd\uffff",
    *"\U0001f600\U0001f468\U0010ffff\ud800\udbff\udc00\udfff",
)
SPECIALS = (
    "<|endoftext|>",
    "<|en|>",
    "<|startoftranscript|>",
    "<|0.00|>",
    "<|0.20|>",
    "<|30.00|>",
    "<pad>",
    "<unk>",
    "|",
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308),
    *(math.nan, math.inf, -math.inf, "", " ", "\0", "nan", "null", "0.3", "en", "german", "asr", "translate"),
    *(
        [],
        [[]],
        ["a"],
        [1, "a", None],
        {},
        {"a": 1},
        {"a": {"b": []}},
        {"path": None},
        {"bytes": None},
        {"array": None},
    ),
    *("\ud800", ["\udc00"], {"\ud800": 1}, {"a\0": 1}, {"": ""}, "a" * 3000, "你" * 500, "<|en|>"),
)
PATHS = (
    *("", ".", "..", "/", "gone.wav", "a\0.wav", "\ud800.wav", "\udce9.wav", "/dev/zero", "/dev/stdin", "/dev/full"),
    *(
        "/proc/self/mem",
        "/proc/kmsg",
        "/proc/self/environ",
        "/sys/kernel/notes",
        "/proc/self/fd/0",
        "a/" * 2500,
        "x" * 300,
    ),
    *("file:///proc/self/mem", "file:///gone.wav", "foo://bar.wav", "://", "data:", "data:audio/wav;base64,", "data:x"),
    *(
        "data:audio/wav;base64,AAA",
        "data:audio/wav;base64,é",
        "unusable-audio:",
        'unusable-audio:["a", "b"]',
        "~/a.wav",
    ),
    *("unusable-audio:{", "memory://a.wav", "a.raw", "%s%n", "nul", "C:\\a.wav", "rows.jsonl", "pipe"),
)
NAMES = ("audi", "Audio", "text", "chosen ", "", "a\0b", "\ud800", "duration", "offset", "prompt", "hotwords", "meta")
CONTAINERS = (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"))


class Mutator:
    """Rows that were good once; the same seed gives the same ones."""

    def __init__(self, seed: int, folder: Path):
        self.rng = random.Random(seed)
        self.folder = folder
        self.clips = [clip[: SAMPLING_RATE // 2] for clip in tiny_clips(4)]
        self.files = [
            _encoded(clip, kind, subtype) for clip, (kind, subtype) in zip(self.clips * 2, CONTAINERS, strict=False)
        ]
        for place, content in enumerate(self.files):
            (folder / f"{place}.bin").write_bytes(content)
        os.mkfifo(folder / "pipe")  # opened to be read, it would wait for ever

    def row(self, form: str) -> dict[Any, Any]:
        rng = self.rng
        row: dict[Any, Any] = {
            "audio": f"{rng.randrange(len(self.files))}.bin" if form != "stream" else self._path(),
            "chosen": " ".join(rng.choices(WORDS, k=rng.randint(1, 3))),
            "rejected": " ".join(rng.choices(WORDS, k=rng.randint(1, 4))),
            "language": rng.choice(("en", "german", "zh")),
        }
        if form == "list":
            row["audio"] = self._path()
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            rng.choice((self._audio, self._audio, self._text, self._text, self._value, self._column))(row, form)
        return row

    def line(self, row: dict[Any, Any]) -> bytes:
        """A row as JSON, one in eight with damaged bytes."""
        names = {str(name): value for name, value in row.items()}
        line = json.dumps(names, ensure_ascii=self.rng.random() < 0.7).encode(errors="surrogatepass")
        return self.damaged(line) if self.rng.random() < 0.12 else line

    def damaged(self, content: bytes) -> bytes:
        rng, damaged = self.rng, bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(damaged) + 1) if rng.random() < 0.5 else rng.randrange(min(len(damaged), 64) + 1)
            what = rng.random()
            if what < 0.5 and at < len(damaged):
                damaged[at] = rng.choice((rng.randrange(256), 0, 255, damaged[at] ^ (1 << rng.randrange(8))))
            elif what < 0.7:
                del damaged[at : at + rng.choice((1, 4, 100, len(damaged)))]
            elif what < 0.9:
                damaged[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
            else:
                damaged[at:at] = damaged[at : at + rng.choice((4, 64))]
        return bytes(damaged)

    def _path(self) -> str:
        return str(self.folder / f"{self.rng.randrange(len(self.files))}.bin")

    def _audio(self, row: dict[Any, Any], form: str) -> None:
        rng = self.rng
        content = self.damaged(rng.choice(self.files))
        if (kind := rng.randrange(6)) == 0:
            row["audio"] = rng.choice(PATHS)
        elif kind == 1:
            row["audio"] = rng.choice(VALUES)
        elif kind == 2 and form in ("list", "stream"):
            row["audio"] = rng.choice((content, {"bytes": content, "path": rng.choice(PATHS)}, self._array()))
        elif kind == 3:
            row["audio"] = "data:audio/wav;base64," + base64.b64encode(content).decode()
        else:
            name = f"{rng.randrange(64)}.damaged"
            (self.folder / name).write_bytes(content)
            row["audio"] = {"path": str(self.folder / name)} if rng.random() < 0.3 else str(self.folder / name)

    def _array(self) -> dict[str, Any]:
        rng = self.rng
        samples: Any = np.array(rng.choice(self.clips))
        change = rng.randrange(7)
        if change == 0:
            samples = (samples * rng.choice((1e20, 3e38, 1e-30, 32767))).astype(rng.choice((np.float32, np.float64)))
        elif change == 1:
            samples[rng.randrange(len(samples))] = rng.choice((math.nan, math.inf, 1e30))
        elif change == 2:
            samples = samples.reshape(rng.choice(((2, -1), (-1, 2), (1, -1), (1, 1, -1), (80, -1), (-1, 40))))
        elif change == 3:
            samples = (samples * 30000).astype(rng.choice((np.int16, np.int64, np.uint8, np.complex64, np.str_)))
        elif change == 4:
            samples = rng.choice(([], [[]], ["a"], [[1, 2], [3]], None, 5, b"ab"))
        rate = rng.choice(
            (SAMPLING_RATE, SAMPLING_RATE, 8000, 44100, 1, 0, -1, 7.5, "16000", None, True, 2**31 - 1, 10**30)
        )
        return {"array": samples, "sampling_rate": rate}

    def _text(self, row: dict[Any, Any], form: str) -> None:
        rng = self.rng
        name = rng.choice((*COLUMNS, *COLUMNS, "language", "task", "prompt"))
        text = str(row.get(name, ""))
        pieces = [rng.choice(CHARACTERS) for _ in range(rng.choice((1, 1, 3, 12)))]
        if rng.random() < 0.2:
            pieces.append(rng.choice(SPECIALS))
        at = rng.randrange(len(text) + 1)
        row[name] = rng.choice((text[:at] + "".join(pieces) + text[at:], "".join(pieces), text * rng.choice((2, 40))))
        if rng.random() < 0.1:
            row["chosen"] = rng.choice((str.upper, str.title, lambda text: text + "  ", str))(str(row.get("rejected")))

    def _value(self, row: dict[Any, Any], form: str) -> None:
        rng = self.rng
        value = (
            rng.choice(VALUES) if form != "list" or rng.random() < 0.8 else rng.choice((b"a", object(), (1, 2), {1, 2}))
        )
        names = (*COLUMNS, "language", "task", "duration", "offset", "prompt", "hotwords", "id")
        row[rng.choice(names)] = value
        if rng.random() < 0.2:
            row["duration"] = rng.choice((0.5, 0.45, 1, 3600, -1, 1e-9, 500))

    def _column(self, row: dict[Any, Any], form: str) -> None:
        rng = self.rng
        if rng.random() < 0.5:
            row.pop(rng.choice(list(row)), None)
        else:
            name = rng.choice(NAMES) if form != "list" or rng.random() < 0.8 else rng.choice((5, None, b"a", (1,)))
            row[name] = rng.choice(VALUES)


def _encoded(clip: np.ndarray, kind: str, subtype: str) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, clip, SAMPLING_RATE, format=kind, subtype=subtype)
    return content.getvalue()


# ---- the oracle of texts ----


def spelled_by_bytes(tokenizer: Any) -> Callable[[list[int]], str]:
    """Token ids -> text by the byte-level alphabet; special tokens, timestamps among them, say nothing."""
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}

    def spell(ids: list[int]) -> str:
        tokens = [token for token in tokenizer.convert_ids_to_tokens(ids) if not re.fullmatch(r"<\|[^|]*\|>", token)]
        return bytes(byte_of[character] for token in tokens for character in token).decode()

    return spell


def spelled_by_symbols(tokenizer: Any) -> Callable[[list[int]], str]:
    symbols = {i: symbol for symbol, i in tokenizer.get_vocab().items()}
    silent = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    return lambda ids: "".join(symbols[i] for i in ids if i not in silent).replace("|", " ")


def exact(text: str) -> str:
    """What of a text a byte-level model has to write: all of it but the blanks around it and its timestamps."""
    without = re.sub(r"\s*<\|\d+\.\d\d\|>\s*", "", text)
    return text.strip() if without == text else re.sub(r"\s", "", without)


def same_bytes(text: str, told: str) -> bool:
    return exact(text) == (told.strip() if re.sub(r"<\|\d+\.\d\d\|>", "", text) == text else re.sub(r"\s", "", told))


def same_letters(text: str, told: str) -> bool:
    """CTC vocabularies have one case and one blank."""
    return " ".join(text.split()).upper() == told.upper()


@dataclass
class Target:
    """A family of models with its oracle."""

    name: str
    family: Any
    spell: Callable[[list[int]], str]
    same: Callable[[str, str], bool]


def targets() -> Iterator[Target]:
    model, processor = tiny_whisper("multilingual")
    yield Target("tiny Whisper", speech_family(model, processor), spelled_by_bytes(processor.tokenizer), same_bytes)
    model, processor = tiny_ctc()
    yield Target("tiny CTC", speech_family(model, processor), spelled_by_symbols(processor.tokenizer), same_letters)
    released = Path(os.environ.get("AUDIORL_TEST_DATA", "")) / "models" / "whisper-layouts" / "tiny"
    if released.is_dir():
        model = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(released))
        processor = WhisperProcessor.from_pretrained(released)
        spell = spelled_by_bytes(processor.tokenizer)
        yield Target("released Whisper", speech_family(model, processor), spell, same_bytes)


# ---- one run ----


@dataclass
class Figures:
    """What became of the rows."""

    rows: int = 0
    read: int = 0  # refused while the source was read
    checked: int = 0  # refused by the check
    decoded: int = 0  # refused when the clip was decoded
    trained: int = 0
    slowest: float = 0.0  # processor seconds of one row
    slow_row: str = ""
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        refused = self.read + self.checked + self.decoded
        kinds = "".join(f"\n  {count:6,} x {kind}" for kind, count in self.kinds.most_common(12))
        return (
            f"{self.rows:,} rows: {self.trained:,} trained with exactly their text, {refused:,} refused by their place "
            f"({self.read:,} when read, {self.checked:,} when checked, {self.decoded:,} when decoded), "
            f"{len(self.wrong)} wrong; slowest row {self.slowest:.2f} s; "
            f"{len(self.kinds)} kinds of faults, the most "
            f"frequent:{kinds}"
        )


class Attack:
    """Mutated rows through sources, check and collator of the targets in turn."""

    def __init__(self, seed: int, folder: Path):
        self.folder, self.mutator, self.figures = folder, Mutator(seed, folder), Figures()
        self.targets = list(targets())
        self.turn = 0
        load_audio({"array": tiny_clips(1)[0], "sampling_rate": 8000}, SAMPLING_RATE)  # the first one loads numba

    def run(self, rows: int) -> Figures:
        while (wanted := rows - self.figures.rows) > 0:
            form, target = FORMS[self.turn % len(FORMS)], self.targets[self.turn // len(FORMS) % len(self.targets)]
            self.turn += 1
            given = [self.mutator.row(form) for _ in range(min(ROWS_TOGETHER, wanted))]
            self.figures.rows += len(given)
            place = f"{form}, {target.name}"
            try:
                with self.watched(len(given)):
                    self.batch(given, form, target)
            except Exception as error:  # any other than the one kind that may come
                self.wrong(f"{place}: {type(error).__name__}: {error!s:.300}")
        return self.figures

    def batch(self, given: list[dict[Any, Any]], form: str, target: Target) -> None:
        read = {"file": self.from_file, "array": self.from_file, "list": self.from_list, "stream": self.from_stream}[
            form
        ]
        for texts, rows in read(given, form):
            streamed = isinstance(rows, list)
            faults = [] if streamed else self.check(rows, target)
            bad = {fault.row_id for fault in faults}
            self.figures.checked += len(bad)
            self.note(faults)
            kept = rows if streamed or not faults else drop_bad_rows(rows, [f for f in faults if f.row_id >= 0], None)
            collate = SpeechCollator(target.family, COLUMNS, distinct=True)
            for row in kept:
                self.train(row, texts[row["row_id"]], collate, target, streamed=streamed)

    def check(self, rows: Any, target: Target) -> list[Any]:
        faults = check_rows(rows, **target.family.limits._asdict(), text_columns=COLUMNS, distinct=True, num_threads=2)
        missing = [fault for fault in faults if fault.row_id < 0]
        if missing:  # a column that no row of these has: the whole source is refused
            self.figures.checked += len(rows)
            self.note(missing)
            raise _WholeSourceError
        return faults

    def train(
        self, row: Any, given: dict[Any, Any], collate: SpeechCollator, target: Target, *, streamed: bool
    ) -> None:
        try:
            with self.watched(1, f"batch {self.turn - 1}, {row['where']} ({target.name}): {given.get('audio')!r:.200}"):
                batch = collate([row])
        except BadRowsError as error:
            self.note(error.faults)
            if {fault.where for fault in error.faults} != {row["where"]}:
                self.wrong(f"faults of another place than {row['where']}: {error}")
            self.figures.checked += streamed
            self.figures.decoded += not streamed
            return
        except Exception as error:  # any other than the one kind that may come
            shown = {name: f"{value!r:.200}" for name, value in given.items()}
            self.wrong(f"{row['where']} ({target.name}): {type(error).__name__}: {error!s:.300}, of {shown}")
            return
        tokens, keep = batch.tokens[0, :, 1:], batch.keep[0]
        for place, name in enumerate(COLUMNS):
            told = target.spell(tokens[place][keep[place]].tolist())
            if not isinstance(given.get(name), str) or not target.same(given[name], told):
                self.wrong(
                    f"{row['where']} ({target.name}): {name} is {given.get(name)!r:.200}, trained as {told!r:.200}"
                )
                return
        if not torch.isfinite(batch.audio.float()).all():
            self.wrong(f"{row['where']} ({target.name}): features that are not finite of {given.get('audio')!r:.200}")
            return
        self.figures.trained += 1

    # ---- sources ----

    def from_list(self, given: list[dict[Any, Any]], form: str) -> Iterator[tuple[list[dict], Any]]:
        yield from self.as_far_as_columns(given, lambda: speech_rows(given))

    def from_stream(self, given: list[dict[Any, Any]], form: str) -> Iterator[tuple[list[dict], Any]]:
        yield given, list(speech_rows(IterableDataset.from_generator(_again, gen_kwargs={"rows": _Rows(given)})))

    def from_file(self, given: list[dict[Any, Any]], form: str) -> Iterator[tuple[list[dict], Any]]:
        """Lines that do not parse are refused with their places; without them the file is read."""
        lines = [self.mutator.line(row) for row in given]
        self.figures.rows -= sum(not line.strip() for line in lines)  # damaged to nothing, which is no row
        lines = [line for line in lines if line.strip()]
        path = self.folder / f"rows.{'json' if form == 'array' else 'jsonl'}"
        while lines:
            if form == "array":
                path.write_bytes(b"[\n" + b",\n".join(line.replace(b"\n", b" ") for line in lines) + b"\n]")
            else:
                path.write_bytes(b"\n".join(line.replace(b"\n", b" ") for line in lines))
            try:
                rows = speech_rows(path)
            except BadRowsError as error:
                self.note(error.faults)
                places = {int(fault.where.removeprefix(f"{path}:")) - 1 - (form == "array") for fault in error.faults}
                # of an array the fault may show on the line behind
                bad = {min(place, len(lines) - 1) for place in places}
                self.figures.read += len(bad)
                lines = [line for place, line in enumerate(lines) if place not in bad]
                continue
            except ValueError as error:
                if not _says_what_to_do(error) or str(path) not in str(error):
                    raise
                self.figures.read += len(lines)
                self.figures.kinds["the whole file: " + str(error).replace(str(path), "F")[:60]] += len(lines)
                return
            texts = (
                [json.loads(line) for line in lines if line.strip()]
                if form == "file"
                else json.loads(path.read_bytes())
            )
            yield from self.as_far_as_columns(texts, lambda rows=rows: rows)
            return

    def as_far_as_columns(self, given: list[dict], read: Callable[[], Any]) -> Iterator[tuple[list[dict], Any]]:
        try:
            yield given, read()
        except _WholeSourceError:
            return

    # ---- bookkeeping ----

    def note(self, faults: Any) -> None:
        for fault in faults:
            self.figures.kinds[re.sub(r"'.*'|\".*\"|\d+", "…", fault.problem)[:80]] += 1
            if not fault.where or not fault.problem or not fault.remedy.endswith("."):
                self.wrong(f"a fault without place, problem or remedy: {fault!r}")

    def wrong(self, told: str) -> None:
        self.figures.wrong.append(f"batch {self.turn - 1}: {told}")

    @contextmanager
    def watched(self, rows: int, shown: str = "") -> Iterator[None]:
        """Stop a hang, and remember the slowest row."""

        def hanging(*_: Any) -> None:
            raise TimeoutError(f"hangs for more than {HANGING} s")

        before, start = signal.signal(signal.SIGALRM, hanging), time.process_time()
        left = signal.alarm(HANGING)
        try:
            yield
        finally:
            signal.alarm(left)
            signal.signal(signal.SIGALRM, before)
            spent = (time.process_time() - start) / rows
            if spent > self.figures.slowest:
                self.figures.slowest, self.figures.slow_row = spent, shown


class _WholeSourceError(Exception):
    """Every row lacks a column."""


class _Rows:
    """Rows that `datasets` takes for the same every time: its fingerprint would pickle every value."""

    def __init__(self, rows: list[dict[Any, Any]]):
        self.rows = rows

    def __reduce__(self) -> Any:
        return _Rows, ([],)


def _again(rows: _Rows) -> Iterator[dict[Any, Any]]:
    yield from rows.rows


def _says_what_to_do(error: ValueError) -> bool:
    return str(error).count(". ") >= 1 or str(error).count("; ") >= 1


def attacked(rows: int, folder: Path, capsys: Any) -> None:
    figures = Attack(SEED, folder).run(rows)
    with capsys.disabled():
        print(f"\nattack on rows: {figures}")
        for told in figures.wrong[:8]:
            print(f"WRONG {told}")
    assert not figures.wrong
    assert figures.slowest < MOST_SECONDS, figures.slow_row
    assert figures.trained > figures.rows / 10
    assert figures.trained + figures.read + figures.checked + figures.decoded == figures.rows


def test_hundreds_of_mutated_rows_are_refused_or_trained_to_the_letter(tmp_path, capsys):
    attacked(320, tmp_path, capsys)


@pytest.mark.slow
def test_twenty_thousand_mutated_rows_are_refused_or_trained_to_the_letter(tmp_path, capsys):
    attacked(20_000, tmp_path, capsys)
