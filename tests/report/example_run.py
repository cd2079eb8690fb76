"""A run's folder as a trainer leaves it, made up: two systems, three speakers, pairs, groups, nasty texts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from audiorl.evaluation.significance import Decoded
from audiorl.report.run_folder import Systems, leave_evaluation, leave_facts

SPEAKERS = ("1919", "2035", "3170")
WORDS = "long pepper is the produce of a different plant from that which makes black half ripe flower heads".split()
# Shown as they stand, never run and never the end of the page.
SCRIPT = '<script>document.title="run"</script><img src=x onerror=\'document.title="run"\'>'
NASTY = (f"long {SCRIPT} pepper", "a &amp; b </script><!-- <script> \u2028 end", '"quoted" \\u003c back\\slash')


def texts(count: int, seed: int = 0) -> tuple[list[str], list[str], list[str]]:
    """Transcripts, and what is heard before (more errors) and after (fewer); the last three hold markup."""
    rng = random.Random(seed)
    true = [" ".join(rng.choices(WORDS, k=rng.randint(3, 14))) for _ in range(count - len(NASTY))] + list(NASTY)

    def heard(text: str, share: float) -> str:
        words = []
        for word in text.split(" "):
            kind = rng.random() / share
            words += {0: [], 1: [rng.choice(WORDS)], 2: [word, "oh"]}.get(int(3 * kind), [word])
        return " ".join(words)

    return true, [heard(text, 0.35) for text in true], [heard(text, 0.2) for text in true]


def write_clip(path: Path, hertz: float = 440.0, seconds: float = 1.0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(16_000 * seconds)) / 16_000
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * hertz * time), 16_000)
    return str(path)


def write_evaluation(folder: Path, count: int, audio: list[str]) -> None:
    """What the end of a run writes of `count` clips; the first ones have a file, the others an address."""
    folder.mkdir(parents=True, exist_ok=True)
    true, *heard = texts(count)
    rng = random.Random(1)
    rows = [
        {
            **{
                "id": f"clip-{i:05d}",
                "where": f"validation.jsonl:{i + 1}",
                "text": true[i],
                "speaker": SPEAKERS[i % 3],
            },
            **{
                "duration": round(rng.uniform(1, 15), 2),
                "audio": audio[i] if i < len(audio) else "https://example/a.wav",
            },
        }
        for i in range(count)
    ]
    rows = [{**row, "audio": {"path": row["audio"], "bytes": None}} for row in rows]
    systems = Systems("base", "tuned", "validation.jsonl", {"num_beams": 1})
    leave_evaluation(folder, rows, Decoded(true, heard[0]), Decoded(true, heard[1]), systems, normalise="basic")


def history(steps: int = 40) -> list[dict[str, Any]]:
    """Logs of a run with rewards, one of them not a number."""
    logs: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        fade = 0.93**step
        record = {
            "loss": fade + 0.02 * (step % 3),
            "reward": 0.8 - 0.5 * fade,
            "entropy": 0.4 + fade,
            "kl": 0.05 * (1 - fade),
        }
        record |= {"rewards/one_minus_wer/mean": 0.7 - 0.5 * fade, "rewards/keywords/mean": 0.9 - 0.3 * fade}
        record |= {"grad_norm": float("nan") if step == 7 else 1 + fade, "learning_rate": 1e-4 * (1 - step / steps)}
        logs.append({**record, "wer": 0.3 + 0.3 * fade, "epoch": step / steps, "step": step})
        if step % 10 == 0:
            logs.append(
                {"eval_wer": 0.25 + 0.2 * fade, "eval_cer": 0.1 + 0.1 * fade, "epoch": step / steps, "step": step}
            )
    return [*logs, {"train_runtime": 12.5, "train_loss": 0.3, "epoch": 1.0, "step": steps}]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder: Path, count: int = 30, clips: int = 6) -> Path:
    """A run's folder with `count` evaluated clips; the first `clips` of them have audio."""
    audio = [write_clip(folder / "speech" / f"a <b> {i}.wav", 300.0 + 40 * i) for i in range(clips)]
    write_evaluation(folder, count, audio)
    leave_facts(folder, {"trainer": "GRPOTrainer", "model": "demo", "wer_normaliser": "none", "pairs": 1200})
    write_lines(folder / "metrics.jsonl", history())
    row = {"row_id": 0, "where": "train.jsonl:1", "seconds": 1.0, "audio": audio[0]}
    pair = {"chosen": "long pepper is a plant", "rejected": f"long paper is plant {SCRIPT}"}
    write_lines(folder / "report" / "pairs.jsonl", [{**row, **pair} for _ in range(45)])
    write_lines(folder / "report" / "groups.jsonl", [_group(row, step, kept=step == 30) for step in range(1, 31)])
    for step in (20, 40):
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(exist_ok=True)
        state = {"global_step": step, "best_global_step": 40, "log_history": []}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "checkpoint-30").mkdir(exist_ok=True)
    return folder


def write_three(file: Path, count: int = 12) -> Path:
    """What `audiorl evaluate` writes of three models, the last decoded with more beams; clips are addresses."""
    write_evaluation(file.parent / "of-a-run", count, [])
    document = json.loads((file.parent / "of-a-run" / "evaluation.json").read_text(encoding="utf-8"))
    first, second = document["measurements"]
    names = ("openai/whisper-small", "runs/tuned", "served")
    document["measurements"] = [
        {**measured, "model": name, "decoding": {"num_beams": 4 if name == "served" else 1, "batch_size": 16}}
        for name, measured in zip(names, (first, second, first), strict=True)
    ]
    compared = document["comparisons"][0]
    document["comparisons"] = [{**compared, "before": 0, "after": place} for place in (1, 2)]
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def write_recipe(folder: Path) -> Path:
    """A recipe's folder: a stage that helps, one that mines pairs, one that makes it worse and is not kept."""
    write_evaluation(folder, 12, [])
    write_evaluation(folder / "1-sft", 12, [])
    stages = (("1-sft", 0.4, 0.25, True), ("2-pairs", None, None, True), ("3-orpo", 0.25, 0.3, False))
    ended = [
        {
            "method": name[2:],
            "folder": f"elsewhere/{name}",
            "before": before,
            "after": after,
            "kept": kept,
            "seconds": 90,
        }
        for name, before, after, kept in stages
    ]
    (folder / "recipe.json").write_text(json.dumps({"ended": ended}), encoding="utf-8")
    logs = [{"step": step, "loss": 1 / step, "stage": "1-sft" if step < 50 else "3-orpo"} for step in range(10, 90, 10)]
    write_lines(folder / "metrics.jsonl", logs)
    return folder


def _group(row: dict[str, Any], step: int, kept: bool) -> dict[str, Any]:
    """Four hypotheses, the first without a reward; with `kept`, it is said that the second was learnt from."""
    said = ["long pepper is a plant", "long pepper a plant", "long paper is a a plant", SCRIPT]
    hypotheses = [
        {
            "text": text,
            "reward": 1 - k / 4 if k else None,
            "rewards": {"one_minus_wer": 1 - k / 4, "keywords": None},
            **({"kept": k == 1} if kept else {}),
        }
        for k, text in enumerate(said)
    ]
    return {**row, "step": step, "transcript": "long pepper is a plant", "hypotheses": hypotheses}
