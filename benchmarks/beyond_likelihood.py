"""Where rewards may pay because likelihood cannot say what is wanted: keywords, hallucination, noise, no transcripts.

    export AUDIORL_TEST_DATA=/path/to/shared
    python benchmarks/leave_one_out.py time --out loo
    python benchmarks/beyond_likelihood.py run --out loo --study keywords --seeds 0 1 --processes 2
    python benchmarks/beyond_likelihood.py tell --out loo --study keywords --record FILE.json

The folds, the checkpoint, the speaker that is looked at and the kept states are those of `leave_one_out.py`. A method's
steps are what fits --minutes at the cost that `time` measured for its trainer, so methods of one trainer take the same
number of steps.

keywords        the three rarest words of each clip, by the texts of the six training speakers, are its keywords. SFT,
                SFT on rows repeated for each keyword that no other training clip has, and SFT then GRPO with three
                rewards. Keyword F1, character error rate of keywords, WER.
hallucination   in tuning 3 in 10 clips are silence, noise at three levels or a made-up kind of music; measured on
                speech, on 40 such clips, and on speech cut in the middle. Words on what is no speech, words that loop,
                words beyond the transcript of a cut clip, WER. What is looked at are speech and ten such clips.
noise           white noise at 0 to 15 dB in 8 of 10 training clips or none; measured clean and with pink noise, which
                tuning never has, at 10, 5 and 0 dB.
no_transcripts  half of the measured speaker's clips to adapt to, without their texts, the other half to measure, and
                the other way round. No other speaker is trained on, and none looked at: the last weights count. The
                ceiling is SFT on the true transcripts.

Every figure is a ratio of sums over clips. Intervals and p-values are of the bootstrap over speakers and clips, paired
against SFT (in a study without it, against the checkpoint) and against the nearest method without a reward, with Holm's
correction over the methods of a study.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from leave_one_out import (
    CHECKPOINT,
    CYCLE,
    SFT,
    Rows,
    by_speaker,
    draws,
    drift,
    fold,
    holm,
    kept_states,
    known_units,
    rates,
    seconds_known,
    tuned,
    two_sided,
)
from measuring import environment, report
from wer_after_tuning import BATCH, Phase, build, checkpoint, grpo, sft

from audiorl import ORPOConfig, ORPOTrainer, RAFTConfig, RAFTTrainer
from audiorl.audio import load_audio
from audiorl.augment.transforms import pink_noise, white_noise
from audiorl.evaluation import count_errors
from audiorl.files import whole_file
from audiorl.rewards.hallucination import Case, repeated_units
from audiorl.text.error_rates import TextPair, split_units
from audiorl.text.keywords import count_keywords, entity_errors, keyword_index

RATE = 16_000
KEYWORDS_A_CLIP = 3
WITHOUT_SPEECH = 0.3  # share of tuning clips
MEASURED_WITHOUT_SPEECH = 40
LOOKED_AT_WITHOUT_SPEECH = 10
NOISE_LEVELS = (-60, -40, -25)  # dB of full scale
SNRS = (10, 5, 0)


class Task(NamedTuple):
    """What a unit is: one method on one measured speaker, or on half of that speaker's clips."""

    root: Path
    out: Path
    measured: str
    seed: int
    half: int | None = None


class Fold:
    """The rows of a task."""

    def __init__(self, task: Task):
        self.task = task
        self.speakers = by_speaker(task.root)
        self.train, looked_at = fold(self.speakers, task.measured)
        self.looked_at = self.speakers[looked_at]
        self.rng = np.random.default_rng([*task.measured.encode()])  # of what is measured, whatever the seed

    @cached_property
    def texts(self) -> list[dict[str, Any]]:
        return [row for name in self.train for row in self.speakers[name]]

    @property
    def tested(self) -> list[dict[str, Any]]:
        return self.speakers[self.task.measured]

    def halves(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(to adapt to, to measure): every other clip, `half` says which."""
        assert self.task.half is not None
        return self.tested[self.task.half :: 2], self.tested[1 - self.task.half :: 2]


class Arm(NamedTuple):
    """One method of a study."""

    phases: Sequence[Phase]
    rows: Callable[[Fold, Phase], list[dict[str, Any]]]
    nearest: str = SFT  # without a reward, or without the change that is tested


class Study(NamedTuple):
    arms: dict[str, Arm]
    tests: Callable[[Fold], dict[str, list[dict[str, Any]]]]  # name -> rows that are decoded
    figures: Callable[[str, Mapping[str, Any]], Mapping[str, tuple[float, float]]]  # (test, row) -> figure -> ratio
    looked_at: Callable[[Fold], list[dict[str, Any]]] = lambda folded: folded.looked_at
    halves: tuple[int | None, ...] = (None,)
    minutes: float = 2.0


def then_grpo(rewards: Sequence[str], weights: Sequence[float] | None = None, **settings: Any) -> list[Phase]:
    """Half of the minutes SFT, half GRPO with these rewards and a supervised term."""
    both = {name: settings.pop(name) for name in ("allow_silence", "augmentation") if name in settings}
    online = grpo(share=0.5, sft_weight=0.3, **({} if weights is None else {"reward_weights": list(weights)}), **both)
    trainer = partial(online.trainer.func, reward_funcs=list(rewards))  # type: ignore[attr-defined]
    return [with_settings(sft(share=0.5), **both), online._replace(trainer=trainer)]


def with_settings(phase: Phase, **settings: Any) -> Phase:
    return phase._replace(settings={**phase.settings, **settings})


def texts_of(folded: Fold, phase: Phase) -> list[dict[str, Any]]:
    return folded.texts


def errors_of(row: Mapping[str, Any]) -> tuple[float, float]:
    counted = count_errors([row["text"]], [row["hypothesis"]], normalise="lower")
    return float(counted.errors[0]), float(counted.words[0])


def pair_of(row: Mapping[str, Any]) -> TextPair:
    said = row["hypothesis"].lower()
    return TextPair(split_units(row["text"].lower(), "word"), split_units(said, "word"), "word", said)


# ---- keywords ----


def keyworded(folded: Fold, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their rarest words of four letters and more; how often a word occurs in the training texts counts."""
    seen = Counter(word for row in folded.texts for word in row["text"].split())
    found = []
    for row in rows:
        words = sorted({word for word in row["text"].split() if len(word) > 3}, key=lambda word: (seen[word], word))
        found.append({**row, "keywords": words[:KEYWORDS_A_CLIP]})
    return found


def oftener(folded: Fold, phase: Phase) -> list[dict[str, Any]]:
    """Each row once, and once more for each keyword that occurs nowhere else."""
    seen = Counter(word for row in folded.texts for word in row["text"].split())
    rows = keyworded(folded, folded.texts)
    return [row for row in rows for _ in range(1 + sum(seen[word] == 1 for word in row["keywords"]))]


def keyword_figures(test: str, row: Mapping[str, Any]) -> Mapping[str, tuple[float, float]]:
    pair, found = pair_of(row), {"WER": errors_of(row)}
    if row["keywords"]:
        index = keyword_index(row["keywords"], str.lower, "word")
        hits, true, said = count_keywords(pair, index)
        near = entity_errors(pair, index)
        found["keyword F1"] = (2.0 * hits, float(true + said))
        found["keyword CER"] = (near.errors, float(near.characters))
    return found


def keyworded_texts(folded: Fold, phase: Phase) -> list[dict[str, Any]]:
    return keyworded(folded, folded.texts)


KEYWORDS = Study(
    {
        SFT: Arm([sft()], keyworded_texts),
        "SFT, keywords oftener": Arm([sft()], oftener),
        "SFT, then GRPO + SFT": Arm(then_grpo(["one_minus_wer"]), keyworded_texts),
        "SFT, then GRPO + SFT, keywords": Arm(
            then_grpo(["one_minus_wer", "keywords"], [1.0, 0.5]), keyworded_texts, "SFT, keywords oftener"
        ),
        "SFT, then GRPO + SFT, keyword WER": Arm(
            then_grpo(["one_minus_keyword_wer"]), keyworded_texts, "SFT, keywords oftener"
        ),
    },
    lambda folded: {"speech": keyworded(folded, folded.tested)},
    keyword_figures,
)


# ---- hallucination ----


def without_speech(count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Clips in which nobody speaks, 1 to 10 s: silence, noise at each level, music, in turn."""
    kinds = ["silence", *(f"noise {level} dB" for level in NOISE_LEVELS), "music"]
    rows = []
    for place in range(count):
        kind, samples = kinds[place % len(kinds)], int(RATE * rng.uniform(1, 10))
        if kind == "silence":
            clip = 1e-4 * white_noise(samples, rng)
        elif kind == "music":
            clip = music(samples, rng)
        else:
            clip = (pink_noise if rng.random() < 0.5 else white_noise)(samples, rng)
            clip = clip / np.sqrt(np.mean(clip**2)) * 10 ** (float(kind.split()[1]) / 20)
        audio = {"array": clip.astype(np.float32), "sampling_rate": RATE}
        rows.append({"audio": audio, "text": "", "id": f"{kind} {place}", "kind": kind})
    return rows


def music(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Chords of three decaying tones with overtones, two to the second, and a click on each: (samples,)."""
    clip, length = np.zeros(samples), RATE // 2
    t = np.arange(length) / RATE
    for start in range(0, samples, length):
        root = 110.0 * 2 ** (rng.integers(0, 24) / 12)
        notes = [root * 2 ** (step / 12) for step in (0, rng.integers(3, 5), 7)]
        tone = sum(np.sin(2 * np.pi * note * k * t) / k for note in notes for k in (1, 2, 3)) * np.exp(-3 * t)
        tone[:80] += rng.standard_normal(80)
        clip[start : start + length] += tone[: samples - start]
    return 0.1 * clip / np.abs(clip).max()


def mixed(folded: Fold, phase: Phase) -> list[dict[str, Any]]:
    """Speech with 3 in 10 clips without; the same ones for every method of a fold."""
    rng = np.random.default_rng([folded.task.seed, 1])
    return folded.texts + without_speech(round(len(folded.texts) * WITHOUT_SPEECH / (1 - WITHOUT_SPEECH)), rng)


def hallucinated_pairs(folded: Fold, phase: Phase) -> list[dict[str, Any]]:
    """Pairs mined on speech, and of each clip without speech: nothing against what the checkpoint says of it."""
    if phase.config is not ORPOConfig:
        return mixed(folded, phase)
    task = folded.task
    silent = [row for row in mixed(folded, phase) if not row["text"]]
    model, processor = checkpoint(task.root)
    kept_states(model)
    said = build(model, processor, sft(), folded.texts[:BATCH], task.seed, 1).decode(silent)
    pairs = [
        {"audio": row["audio"], "chosen": "", "rejected": text}
        for row, text in zip(silent, said.hypotheses, strict=True)
        if text.strip()
    ]
    mined = Rows(task.root, task.out, folded.train, task.seed)(phase)
    return [{name: row[name] for name in ("audio", "chosen", "rejected")} for row in mined] + pairs


def cut(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first half of each clip, with the transcript of the whole."""
    clips = [load_audio(row["audio"], RATE) for row in rows]
    return [
        {**row, "audio": {"array": clip[: len(clip) // 2], "sampling_rate": RATE}, "duration": len(clip) // 2 / RATE}
        for row, clip in zip(rows, clips, strict=True)
    ]


def hallucination_tests(folded: Fold) -> dict[str, list[dict[str, Any]]]:
    nothing = without_speech(MEASURED_WITHOUT_SPEECH, folded.rng)
    return {"speech": folded.tested, "no speech": nothing, "cut": cut(folded.tested)}


def hallucination_figures(test: str, row: Mapping[str, Any]) -> Mapping[str, tuple[float, float]]:
    pair = pair_of(row)
    looped = float(len(repeated_units(Case(pair.transcript, pair.hypothesis, pair.opcodes()))))
    if test == "no speech":
        said = float(len(pair.hypothesis))
        return {"words a clip without speech": (said, 1.0), "such clips with words": (float(said > 0), 1.0)}
    if test == "cut":
        inserted = sum(end - start for tag, _, _, start, end in pair.opcodes() if tag == "insert")
        return {"words inserted into cut speech": (float(inserted), float(len(pair.transcript)))}
    return {"WER": errors_of(row), "words that loop": (looped, float(len(pair.transcript)))}


def looked_at_mixed(folded: Fold) -> list[dict[str, Any]]:
    return folded.looked_at + without_speech(LOOKED_AT_WITHOUT_SPEECH, np.random.default_rng([folded.task.seed, 2]))


SILENT = {"allow_silence": True}
HALLUCINATION = Study(
    {
        SFT: Arm([with_settings(sft(), **SILENT)], texts_of),
        "SFT, silence too": Arm([with_settings(sft(), **SILENT)], mixed),
        "ORPO, hallucinated negatives": Arm(
            [Phase(ORPOTrainer, ORPOConfig, {"beta": 0.1, "learning_rate": 3e-5, **SILENT})],
            hallucinated_pairs,
            "SFT, silence too",
        ),
        "SFT, then GRPO + SFT, hallucination": Arm(
            then_grpo(["one_minus_wer", "hallucination"], [1.0, 1.0], **SILENT), mixed, "SFT, silence too"
        ),
    },
    hallucination_tests,
    hallucination_figures,
    looked_at_mixed,
)


# ---- noise ----

NOISY = {"augmentation": {"noise": {"type": "gaussian", "snr_db": [0, 15], "p": 0.8}}}


def noisy(rows: Sequence[dict[str, Any]], snr: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows with pink noise at this ratio to the clip, in dB."""
    found = []
    for row in rows:
        clip = load_audio(row["audio"], RATE)
        noise = pink_noise(len(clip), rng)
        noise *= np.sqrt(np.mean(clip**2) / np.mean(noise**2) * 10 ** (-snr / 10))
        array = (clip + noise).astype(np.float32)
        found.append({**row, "audio": {"array": array, "sampling_rate": RATE}})
    return found


def noise_tests(folded: Fold) -> dict[str, list[dict[str, Any]]]:
    return {"clean": folded.tested, **{f"{snr} dB": noisy(folded.tested, snr, folded.rng) for snr in SNRS}}


NOISE = Study(
    {
        SFT: Arm([sft()], texts_of),
        "SFT, noise added": Arm([with_settings(sft(), **NOISY)], texts_of),
        "SFT, then GRPO + SFT": Arm(then_grpo(["one_minus_wer"]), texts_of),
        "SFT, then GRPO + SFT, noise added": Arm(then_grpo(["one_minus_wer"], **NOISY), texts_of, "SFT, noise added"),
    },
    noise_tests,
    lambda test, row: {f"WER, {test}": errors_of(row)},
    lambda folded: folded.looked_at + noisy(folded.looked_at, 5, np.random.default_rng([folded.task.seed, 3])),
)


# ---- no transcripts ----


def pseudo_labelled(folded: Fold, phase: Phase) -> list[dict[str, Any]]:
    """What the checkpoint says of the clips, taken for true; empty answers are left out."""
    rows, task = folded.halves()[0], folded.task
    model, processor = checkpoint(task.root)
    kept_states(model)
    said = build(model, processor, sft(), rows, task.seed, 1).decode(rows)
    return [{**row, "text": text} for row, text in zip(rows, said.hypotheses, strict=True) if text.strip()]


def untold(folded: Fold, phase: Phase) -> list[dict[str, Any]]:
    return [{"audio": row["audio"]} for row in folded.halves()[0]]


CONSENSUS = {"num_generations": 8, "max_completion_length": 128, "learning_rate": 2e-5}
NEAREST = "SFT on its own transcripts"
NO_TRANSCRIPTS = Study(
    {
        NEAREST: Arm([sft()], pseudo_labelled, CHECKPOINT),
        "RAFT, consensus": Arm(
            [
                Phase(
                    partial(RAFTTrainer, reward_funcs="consensus"),
                    RAFTConfig,
                    {
                        **{"samples_per_prompt": 8, "max_completion_length": 128, "learning_rate": 2e-5},
                        "steps_per_cycle": CYCLE,
                    },
                )
            ],
            untold,
            NEAREST,
        ),
        "GRPO, consensus": Arm([then_grpo(["consensus"])[1]._replace(share=1.0, settings=CONSENSUS)], untold, NEAREST),
        "SFT on the true transcripts": Arm([sft()], lambda folded, phase: folded.halves()[0], NEAREST),
    },
    lambda folded: {"speech": folded.halves()[1]},
    lambda test, row: {"WER": errors_of(row)},
    lambda folded: [],
    halves=(0, 1),
    minutes=0.5,
)

STUDIES = {
    "keywords": KEYWORDS,
    "hallucination": HALLUCINATION,
    "noise": NOISE,
    "no_transcripts": NO_TRANSCRIPTS,
}


# ---- one unit ----


def steps_in(out: Path, minutes: float, phase: Phase) -> int:
    """Steps in the phase's share of the minutes, at what `leave_one_out.py time` measured for its trainer."""
    costs = {json.loads(name)[0]: seconds for name, seconds in reversed(seconds_known(out).items())}
    if phase.config.__name__ not in costs:
        raise SystemExit(f"{out}/seconds.json has no {phase.config.__name__}: run `leave_one_out.py time` first.")
    return max(1, round(60 * minutes * phase.share / costs[phase.config.__name__]))


def unit_path(study: str, task: Task, method: str, minutes: float) -> Path:
    name = method.lower().replace(" + ", "+").replace(", ", "-").replace(" ", "_")
    half = "" if task.half is None else f"-half{task.half}"
    return task.out / study / "units" / f"{minutes:g}min-{task.measured}{half}-{name}-{task.seed}.json"


def run_unit(name: str, minutes: float, task_and_method: tuple[Task, str]) -> str:
    """One method on one fold; writes its JSON and says what came of it."""
    task, method = task_and_method
    path, study = unit_path(name, task, method, minutes), STUDIES[name]
    torch.set_num_threads(1)
    folded, found = Fold(task), {}
    if method == CHECKPOINT:
        model, processor = checkpoint(task.root)
        kept_states(model)
    else:
        arm = study.arms[method]
        rows = partial(arm.rows, folded)
        steps_of, first_phases = partial(steps_in, task.out, minutes), task.out / "first_phases"
        found = tuned(task.root, arm.phases, rows, study.looked_at(folded), task.seed, steps_of, first_phases)
        model, processor = found.pop("model"), found.pop("processor")
    found |= {"method": method, "speaker": task.measured, "half": task.half, "seed": task.seed, "minutes": minutes}
    found |= {"drift": drift(model, task.root), "tests": {}}
    for test, rows in study.tests(folded).items():
        judge = build(model, processor, with_settings(sft(), allow_silence=True), folded.texts[:BATCH], task.seed, 1)
        said = judge.decode(rows)
        kept = [{key: value for key, value in row.items() if key in ("id", "text", "keywords", "kind")} for row in rows]
        found["tests"][test] = [{**row, "hypothesis": text} for row, text in zip(kept, said.hypotheses, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, encoding="utf-8") as file:
        json.dump(found, file)
    told = {
        figure: f"{100 * top.sum() / bottom.sum():.1f} %" for figure, (top, bottom) in ratios(study, [found]).items()
    }
    return f"{name}, {path.stem}: {told}, steps {found.get('steps')}"


# ---- what the units say together ----


def ratios(study: Study, units: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """figure -> (clips,) numerators and denominators, means over units of the same clips (seeds)."""
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for unit in units:
        mine: dict[str, list[tuple[float, float]]] = {}
        for test, rows in unit["tests"].items():
            for row in rows:
                for figure, ratio in study.figures(test, row).items():
                    mine.setdefault(figure, []).append(ratio)
        for figure, values in mine.items():
            found.setdefault(figure, []).append(values)
    return {figure: tuple(np.mean(np.array(values), axis=0).T) for figure, values in found.items()}  # type: ignore[misc]


def by_method(
    study: Study, units: Mapping[str, dict[str, Any]], *, tell: bool = True
) -> dict[str, dict[str, dict[str, Any]]]:
    """method -> speaker -> figure -> (numerators, denominators); methods that lack a fold are left out, and named."""
    grouped: dict[str, dict[str, dict[Any, list[dict]]]] = {}
    for _, unit in sorted(units.items()):
        grouped.setdefault(unit["method"], {}).setdefault(unit["speaker"], {}).setdefault(unit["half"], []).append(unit)
    wanted = {(name, half) for name, halves in grouped.get(CHECKPOINT, {}).items() for half in halves}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for method, speakers in grouped.items():
        there = {(name, half) for name, halves in speakers.items() for half in halves}
        if there != wanted:
            lacking = sorted(f"{name}{'' if half is None else f' half {half}'}" for name, half in wanted - there)
            if tell:
                print(f"{method} is left out: no run yet for {', '.join(lacking)}")
            continue
        found[method] = {}
        for name, halves in speakers.items():
            parts = [ratios(study, halves[half]) for half in sorted(halves, key=str)]
            found[method][name] = {
                figure: tuple(np.concatenate([part[figure][side] for part in parts]) for side in (0, 1))
                for figure in parts[0]
            }
    return found


def summary(study: Study, units: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """figure -> method -> value, interval, value of each seed, paired tests."""
    found = by_method(study, units)
    figures = next(iter(next(iter(found.values())).values()))
    told = {figure: _figure(study, found, figure) for figure in figures}
    for seed in sorted({unit["seed"] for unit in units.values()}):
        mine = {name: unit for name, unit in units.items() if unit["seed"] == seed or unit["method"] == CHECKPOINT}
        for method, by in by_method(study, mine, tell=False).items():
            ran = any(unit["method"] == method and unit["seed"] == seed for unit in units.values())
            for figure in figures if ran and method in found else ():
                told[figure][method].setdefault("by_seed", {})[seed] = _value(by, figure)
    return told


def _value(by: Mapping[str, Mapping[str, Any]], figure: str) -> float:
    """Over all folds."""
    tops, bottoms = (sum(one[figure][side].sum() for one in by.values()) for side in (0, 1))
    return float(tops / bottoms)


def _figure(study: Study, found: Mapping[str, Mapping[str, Mapping[str, Any]]], figure: str) -> dict[str, Any]:
    tops = {method: {name: one[figure][0] for name, one in by.items()} for method, by in found.items()}
    bottoms = {method: {name: one[figure][1] for name, one in by.items()} for method, by in found.items()}
    drawn = draws(tops[CHECKPOINT])
    sampled = {method: rates(tops[method], bottoms[method], drawn) for method in found}
    told: dict[str, Any] = {}
    for method in found:
        value = _value(found[method], figure)
        told[method] = {"value": value, "interval": np.quantile(sampled[method], [0.025, 0.975]).tolist()}
    against = {
        "against_sft": {method: SFT if SFT in found else CHECKPOINT for method in study.arms},
        "against_nearest": {method: arm.nearest for method, arm in study.arms.items()},
    }
    for field, others in against.items():
        pairs = {a: b for a, b in others.items() if a != b and a in found and b in found}
        corrected = holm({a: two_sided(sampled[a] - sampled[b]) for a, b in pairs.items()})
        for a, b in pairs.items():
            difference = sampled[a] - sampled[b]
            told[a][field] = {
                "method": b,
                "difference": told[a]["value"] - told[b]["value"],
                "interval": np.quantile(difference, [0.025, 0.975]).tolist(),
                "p": two_sided(difference),
                "p_holm": corrected[a],
            }
    return told


def table(told: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for each figure, methods in the order of the study."""
    lines = []
    for figure, methods in told.items():
        first = next((one["against_sft"]["method"] for one in methods.values() if "against_sft" in one), SFT)
        lines += [f"\n{figure}\n", f"| method | value (95 %) | by seed | against {first} | against the nearest |"]
        lines.append("|---|---|---|---|---|")
        for method, one in methods.items():
            low, high = one["interval"]
            tests = []
            for field in ("against_sft", "against_nearest"):
                test = one.get(field)
                tests.append(f"{100 * test['difference']:+.1f}, p = {test['p_holm']:.2g}" if test else "")
            value = f"{100 * one['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
            by_seed = ", ".join(f"{100 * each:.1f}" for each in one.get("by_seed", {}).values())
            lines.append(f"| {method} | {value} | {by_seed} | {' | '.join(tests)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["run", "tell"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the units")
    parser.add_argument("--study", required=True, choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--minutes", type=float, default=None, help="CPU minutes of training; default that of the study"
    )
    parser.add_argument("--methods", nargs="+", default=None, help="only these")
    parser.add_argument("--speakers", nargs="+", default=None, help="only these folds")
    parser.add_argument("--processes", type=int, default=1, help="units run at the same time, one thread each")
    parser.add_argument("--record", type=Path, help="JSON with all units; `tell` writes it")
    args = parser.parse_args()
    if "AUDIORL_TEST_DATA" not in os.environ:
        parser.error("AUDIORL_TEST_DATA is not set. Point it at the folder with data/ and models/.")
    root, study = Path(os.environ["AUDIORL_TEST_DATA"]), STUDIES[args.study]
    minutes = study.minutes if args.minutes is None else args.minutes
    if unknown := set(args.methods or ()) - {CHECKPOINT, *study.arms}:
        parser.error(f"--methods {sorted(unknown)} are none of {args.study}: it has {[CHECKPOINT, *study.arms]}.")
    known = known_units(args.out / args.study, args.record)
    if args.do == "run":
        jobs = [
            (task, method)
            for seed in args.seeds
            for measured in args.speakers or by_speaker(root)
            for half in study.halves
            for task in [Task(root, args.out, measured, seed, half)]
            for method in args.methods or [CHECKPOINT, *study.arms]
            if (method != CHECKPOINT or seed == args.seeds[0])
            and unit_path(args.study, task, method, minutes).stem not in known
        ]
        with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
            for told in pool.map(partial(run_unit, args.study, minutes), jobs):
                print(told, flush=True)
        return
    known = {name: unit for name, unit in known.items() if unit["minutes"] == minutes}
    figures = summary(study, known)
    print(table(figures))
    result = {"benchmark": "beyond_likelihood", "study": args.study, "minutes": minutes, **environment("cpu", 1)}
    report({**result, "figures": figures}, None)
    if args.record is not None:
        with whole_file(args.record, encoding="utf-8") as file:
            json.dump({**result, "figures": figures, "units": dict(sorted(known.items()))}, file)


if __name__ == "__main__":
    main()
