"""Files of every container and codec, damaged at random: each is a clip or a fault, soon, and never anything else."""

from __future__ import annotations

import json
import os
import random
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest

from audiorl.audio import AudioFault, audio_seconds, load_audio

pytest.importorskip("av")

from audio_formats import clip, forms

FILES = 13_000
SEED = 20
# Seconds of CPU; a whole clip takes some milliseconds.
LONGEST = 2.0
RATE = 16_000


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The file with bytes flipped, set, cut off, taken out, repeated or put in."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        # the start, where the structure is, more often than the rest
        at = chance.randrange(min(len(changed), chance.choice([64, 512, len(changed)])) or 1)
        how = chance.choice(["flip", "flip", "byte", "word", "cut", "out", "twice", "in"])
        if how == "flip":
            changed[at] ^= 1 << chance.randrange(8)
        elif how == "byte":
            changed[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif how == "word":
            changed[at : at + 4] = chance.choice([bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", chance.randbytes(4)])
        elif how == "cut":
            del changed[max(at, 1) :]
        elif how == "out":
            del changed[at : at + chance.choice([1, 4, 100, 5000])]
        elif how == "twice":
            changed[at:at] = changed[at : at + chance.choice([1, 4, 100, 5000])]
        else:
            changed[at:at] = chance.randbytes(chance.choice([1, 4, 100, 5000]))
        if not changed:
            return b"\0"
    return bytes(changed)


def judge(content: bytes) -> tuple[str, float]:
    """What becomes of a file, and how long that takes."""
    start = time.process_time()
    found = []
    for read in (audio_seconds, lambda source: len(load_audio(source, RATE))):
        try:
            found.append(f"read {read(content) >= 0}")
        except AudioFault:
            found.append("refused")
        except Exception:
            found.append(traceback.format_exc())
    return " / ".join(found), time.process_time() - start


def in_a_fork(contents: list[bytes], folder: Path) -> list[tuple[str, float]]:
    """The verdicts; a crash ends the fork, and the file that it was at is the first without one."""
    out = folder / "verdicts.jsonl"
    out.write_text("")
    process = os.fork()
    if not process:
        with open(out, "w") as file:
            for content in contents:
                print(json.dumps(judge(content)), file=file, flush=True)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    verdicts = [tuple(json.loads(line)) for line in out.read_text().splitlines()]
    if len(verdicts) < len(contents):
        verdicts.append((f"crash, status {status}", 0.0))
    return verdicts


def written() -> list[tuple[str, bytes]]:
    """A short clip in every form that can be written here, by its name."""
    found = []
    for form in forms():
        try:
            found.append((f"{form.container} {form.codec}", form.write(clip()[:8000])))
        except Exception as error:  # of whichever encoder lacks
            print(f"{form.container} {form.codec} is not written: {error}")
    assert len(found) > 80
    return found


@pytest.mark.slow
def test_damaged_files_are_clips_or_faults_and_take_no_time(tmp_path, capfd):
    whole = written()
    chance = random.Random(SEED)
    kinds: Counter[str] = Counter()
    wrong, slowest = [], (0.0, "")
    for name, content in whole:
        contents = [damaged(content, chance) for _ in range(FILES // len(whole) + 1)]
        while contents:
            verdicts = in_a_fork(contents, tmp_path)
            for place, (verdict, seconds) in enumerate(verdicts):
                slowest = max(slowest, (seconds, name))
                kinds[verdict if verdict.startswith(("read", "refused")) else "wrong"] += 1
                if seconds > LONGEST or not verdict.startswith(("read", "refused")) or "Traceback" in verdict:
                    (tmp_path / f"wrong-{len(wrong)}").write_bytes(contents[place])
                    wrong.append(f"{name}: {verdict}, {seconds:.1f} s")
            contents = contents[len(verdicts) :]
    with capfd.disabled():
        print(f"\n{sum(kinds.values()):,} files of {len(whole)} forms: {dict(kinds)}; slowest {slowest}")
    assert not wrong, "\n".join(wrong[:20])
