"""Which method lowers the WER of speakers that it never heard? Eight folds: tune on seven, measure on the eighth.

    AUDIORL_TEST_DATA=/path/to/shared python benchmarks/leave_one_out.py run --out loo --seeds 0 1 --processes 2
    AUDIORL_TEST_DATA=/path/to/shared python benchmarks/leave_one_out.py tell --out loo

Data: all of librispeech-mini, eight speakers, clips up to 11.9 s. Checkpoint: whisper-tiny-regrown, whose training
heard none of them; its encoder is frozen. Every clip is measured once, by a model that never heard its speaker.

Of the seven speakers of a fold, the one after the measured one is looked at: a method trains on the other six for the
same number of CPU minutes (rollouts included; mining counts for nobody), in `LOOKS` equal parts, and keeps the part
after which that speaker's WER was lowest. Nothing else is chosen; settings were fixed before the first run.

`run` writes one JSON for each (minutes, seed, fold, method) under --out and skips those that are there, so it can be
stopped and started again; several processes share the work. `tell` pools the folds: WER with a bootstrap over speakers
and clips, paired tests against the checkpoint and against SFT with Holm's correction over the methods, the spread over
folds, and what changed (substitutions, deletions, insertions). Its last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import environment, report
from transformers import TrainerCallback
from wer_after_tuning import BATCH, CURVE, Phase, build, checkpoint, dpo, grpo, seconds_for_a_step, sft, speech

from audiorl import KTOConfig, KTOTrainer, ORPOConfig, ORPOTrainer, RAFTConfig, RAFTTrainer, mine_pairs
from audiorl.evaluation import Errors, count_errors
from audiorl.files import whole_file
from audiorl.pairs import unpaired_rows

LOOKS = 4
RESAMPLES = 10_000
CHECKPOINT, SFT = "checkpoint", "SFT"
RATE = {"learning_rate": 3e-5}
RAFT = partial(
    Phase,
    partial(RAFTTrainer, reward_funcs="one_minus_wer"),
    RAFTConfig,
    {"num_generations": 8, "max_completion_length": 128, "learning_rate": 2e-5},
)
METHODS: dict[str, list[Phase]] = {
    SFT: [sft()],
    "ORPO": [Phase(ORPOTrainer, ORPOConfig, {"beta": 0.1, **RATE})],
    "DPO + SFT": [dpo(["sigmoid", "sft"], [1.0, 1.0])],
    "SFT, then KTO": [sft(share=0.5), Phase(KTOTrainer, KTOConfig, {"beta": 0.1, **RATE}, 0.5)],
    "RAFT": [RAFT(1.0)],
    "SFT, then GRPO + SFT": [sft(share=0.5), grpo(share=0.5, sft_weight=0.3)],
    "SFT, then MWER + SFT": [
        sft(share=0.5),
        grpo(share=0.5, loss_type="mwer", scale_rewards="none", sft_weight=0.3),
    ],
    "SFT, then RAFT": [sft(share=0.5), RAFT(0.5)],
}


# ---- one unit: a method, a fold, a seed ----


def by_speaker(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Speaker -> rows, speakers in the order of their names."""
    rows = [*speech(root, "train", None), *speech(root, "validation", None)]
    return {name: [row for row in rows if row["speaker"] == name] for name in sorted({row["speaker"] for row in rows})}


def fold(speakers: Mapping[str, Sequence[Any]], measured: str) -> tuple[list[str], str]:
    """The speakers to train on, and the one to look at: the next one behind the measured."""
    names = list(speakers)
    looked_at = names[(names.index(measured) + 1) % len(names)]
    return [name for name in names if name not in (measured, looked_at)], looked_at


def pairs_of(root: Path, out: Path, measured: str, seed: int) -> list[dict[str, Any]]:
    """Pairs mined from the checkpoint on a fold's six speakers; kept beside the units."""
    path = out / "pairs" / f"{measured}-{seed}.jsonl"
    if not path.exists():
        train, _ = fold(speakers := by_speaker(root), measured)
        rows = [row for name in train for row in speakers[name]]
        mined = mine_pairs(*checkpoint(root), rows, num_generations=4, seed=seed, progress=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in mined.rows)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows_for(phase: Phase, texts: list[dict], pairs: Callable[[], list[dict]]) -> list[dict[str, Any]]:
    if phase.config is KTOConfig:
        return unpaired_rows(pairs())
    return pairs() if phase.config.__name__ in ("DPOConfig", "ORPOConfig") else texts


def tuned(
    root: Path,
    phases: Sequence[Phase],
    rows: Callable[[Phase], list[dict]],
    looked_at: list[dict],
    seed: int,
    minutes: float,
) -> dict[str, Any]:
    """Train in equal parts, and go back to the part after which the speaker looked at had the lowest WER."""
    model, processor = checkpoint(root)
    steps, seconds, curve, looks = [], 0.0, [], []
    best: tuple[float, dict[str, torch.Tensor]] | None = None
    for phase in phases:
        own = rows(phase)
        share = minutes * phase.share
        count = max(1, round(60 * share / seconds_for_a_step(root, phase, own, seed)))
        trainer = build(model, processor, phase, own, seed, count)
        parts = max(1, round(LOOKS * phase.share))
        ends = [round(count * part / parts) for part in range(1, parts + 1)]
        clock = _LookingClock(trainer, looked_at, ends)
        trainer.add_callback(clock)
        trainer.train()
        seconds += clock.seconds
        steps.append(count)
        curve.append([{name: entry[name] for name in CURVE if name in entry} for entry in trainer.state.log_history])
        for wer, weights in clock.looks:
            looks.append(wer)
            if best is None or wer < best[0]:
                best = wer, weights
    assert best is not None
    model.load_state_dict(best[1])
    return {"model": model, "processor": processor, "steps": steps, "seconds": seconds, "curve": curve, "looks": looks}


class _LookingClock(TrainerCallback):
    """CPU seconds of training without those of looking, and the weights at each look."""

    def __init__(self, trainer: Any, rows: list[dict], ends: Sequence[int]):
        self.trainer, self.rows, self.ends = trainer, rows, set(ends)
        self.looks: list[tuple[float, dict[str, torch.Tensor]]] = []
        self.seconds = -time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step not in self.ends:
            return
        self.seconds += time.process_time()
        said = self.trainer.decode(self.rows)
        self.trainer.model.train()
        wer = count_errors(said.transcripts, said.hypotheses, normalise="lower").wer
        weights = {name: value.detach().clone() for name, value in self.trainer.model.state_dict().items()}
        self.looks.append((wer, weights))
        self.seconds -= time.process_time()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds += time.process_time()


def run_unit(root: Path, out: Path, minutes: float, seed: int, measured: str, method: str) -> str:
    """One method on one fold; writes its JSON and says what came of it."""
    path = unit_path(out, minutes, seed, measured, method)
    if path.exists():
        return f"{path.stem}: there already"
    torch.set_num_threads(1)
    speakers = by_speaker(root)
    train, looked_at = fold(speakers, measured)
    texts = [row for name in train for row in speakers[name]]
    found: dict[str, Any] = {}
    if method == CHECKPOINT:
        model, processor = checkpoint(root)
    else:
        pairs = partial(pairs_of, root, out, measured, seed)
        rows = partial(rows_for, texts=texts, pairs=pairs)
        found = tuned(root, METHODS[method], rows, speakers[looked_at], seed, minutes)
        model, processor = found.pop("model"), found.pop("processor")
    said = build(model, processor, sft(), texts, seed, 1).decode(speakers[measured])
    found |= {"method": method, "speaker": measured, "looked_at": looked_at, "seed": seed, "minutes": minutes}
    found |= {"ids": [row["id"] for row in speakers[measured]], **said._asdict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, encoding="utf-8") as file:
        json.dump(found, file)
    wer = count_errors(said.transcripts, said.hypotheses, normalise="lower").wer
    return f"{path.stem}: WER {100 * wer:.1f} %, steps {found.get('steps')}"


def unit_path(out: Path, minutes: float, seed: int, measured: str, method: str) -> Path:
    name = method.lower().replace(" + ", "+").replace(", then ", "-then-").replace(" ", "_")
    return out / "units" / f"{minutes:g}min-{measured}-{name}-{seed}.json"


Unit = tuple[float, int, str, str]  # minutes, seed, measured speaker, method


def units(root: Path, minutes: float, seeds: Sequence[int], methods: Sequence[str]) -> Iterator[Unit]:
    """Seeds outermost, then folds: whatever is there when the run is stopped is as balanced as can be."""
    for seed in seeds:
        for measured in by_speaker(root):
            for method in [CHECKPOINT, *methods]:
                if method != CHECKPOINT or seed == seeds[0]:
                    yield minutes, seed, measured, method


# ---- what the units say together ----


def pooled(out: Path, minutes: float) -> dict[str, dict[str, list[tuple[Errors, dict]]]]:
    """method -> speaker -> (errors, unit) of each seed; methods that lack a fold are left out, and named."""
    found: dict[str, dict[str, list[tuple[Errors, dict]]]] = {}
    for path in sorted((out / "units").glob(f"{minutes:g}min-*.json")):
        unit = json.loads(path.read_text(encoding="utf-8"))
        errors = count_errors(unit["transcripts"], unit["hypotheses"], normalise="lower")
        found.setdefault(unit["method"], {}).setdefault(unit["speaker"], []).append((errors, unit))
    folds = set(found.get(CHECKPOINT, {}))
    lacking = {name: sorted(folds - set(by)) for name, by in found.items() if set(by) != folds}
    for name, speakers in lacking.items():
        print(f"{name} is left out: no run yet for {', '.join(speakers)}")
    return {name: by for name, by in found.items() if name not in lacking}


def clip_errors(units: Sequence[tuple[Errors, dict]]) -> np.ndarray:
    """(clips,) errors of one speaker's clips, the mean over seeds."""
    return np.mean([errors.errors for errors, _ in units], axis=0)


Draw = list[tuple[str, np.ndarray]]  # speakers with places of their clips


def draws(words: Mapping[str, np.ndarray], resamples: int = RESAMPLES, seed: int = 0) -> list[Draw]:
    """Speakers with replacement, and of each of them clips with replacement."""
    generator, names = np.random.default_rng(seed), list(words)

    def clips_of(name: str) -> np.ndarray:
        return generator.integers(len(words[name]), size=len(words[name]))

    return [
        [(name, clips_of(name)) for name in (names[place] for place in generator.integers(len(names), size=len(names)))]
        for _ in range(resamples)
    ]


def rates(errors: Mapping[str, np.ndarray], words: Mapping[str, np.ndarray], drawn: Sequence[Draw]) -> np.ndarray:
    """(resamples,) WER of each draw."""

    def total(of: Mapping[str, np.ndarray], draw: Draw) -> float:
        return sum(of[name][clips].sum() for name, clips in draw)

    return np.array([total(errors, draw) / total(words, draw) for draw in drawn])


def two_sided(differences: np.ndarray) -> float:
    """p of the bootstrap, never 0; as in `audiorl.evaluation.paired_bootstrap`."""
    worse, better = (differences >= 0).sum(), (differences <= 0).sum()
    return float(min(1.0, 2 * (1 + min(worse, better)) / (len(differences) + 1)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number (Holm 1979): the smallest times m, the next times m - 1, never falling."""
    corrected, highest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[name] * (len(p_values) - place)))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


def summary(found: Mapping[str, Mapping[str, list[tuple[Errors, dict]]]]) -> dict[str, Any]:
    """method -> pooled WER, interval, tests, folds and kinds of errors."""
    words = {name: np.asarray(units[0][0].words) for name, units in found[CHECKPOINT].items()}
    errors = {method: {name: clip_errors(units) for name, units in by.items()} for method, by in found.items()}
    drawn = draws(words)
    sampled = {method: rates(errors[method], words, drawn) for method in found}
    total = sum(each.sum() for each in words.values())
    told: dict[str, Any] = {}
    for method, by in found.items():
        low, high = np.quantile(sampled[method], [0.025, 0.975])
        told[method] = {
            "wer": sum(each.sum() for each in errors[method].values()) / total,
            "interval": [low, high],
            "seeds": sorted({unit["seed"] for units in by.values() for _, unit in units}),
            "folds": {name: errors[method][name].sum() / words[name].sum() for name in words},
            **{kind: _kind(by, kind) / total for kind in ("substitutions", "deletions", "insertions")},
        }
    for against, field in ((CHECKPOINT, "against_checkpoint"), (SFT, "against_sft")):
        others = [method for method in found if method not in (CHECKPOINT, against)]
        if against in found:
            differences = {method: sampled[method] - sampled[against] for method in others}
            corrected = holm({method: two_sided(found) for method, found in differences.items()})
            for method, values in differences.items():
                low, high = np.quantile(values, [0.025, 0.975])
                told[method][field] = {
                    "difference": told[method]["wer"] - told[against]["wer"],
                    "interval": [low, high],
                    "p": two_sided(values),
                    "p_holm": corrected[method],
                }
    return told


def _kind(by: Mapping[str, list[tuple[Errors, dict]]], kind: str) -> float:
    return sum(float(np.mean([getattr(errors, kind).sum() for errors, _ in units])) for units in by.values())


def table(told: Mapping[str, Any]) -> str:
    """One line for each method, the lowest WER first."""
    lines = [
        "| method | WER (95 %) | folds, lowest to highest | against the checkpoint | against SFT | seeds |\n"
        "|---|---|---|---|---|---|"
    ]
    for method, one in sorted(told.items(), key=lambda pair: pair[1]["wer"]):
        low, high = one["interval"]
        tests = []
        for field in ("against_checkpoint", "against_sft"):
            test = one.get(field)
            tests.append(f"{100 * test['difference']:+.1f}, p = {test['p_holm']:.2g}" if test else "")
        spread = f"{100 * min(one['folds'].values()):.1f} to {100 * max(one['folds'].values()):.1f}"
        wer = f"{100 * one['wer']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        lines.append(f"| {method} | {wer} | {spread} | {' | '.join(tests)} | {len(one['seeds'])} |")
    return "\n".join(lines)


def picture(told: Mapping[str, Any]) -> str:
    """The SVG: a row for each method with its pooled WER, interval and folds."""
    order = sorted(told, key=lambda method: told[method]["wer"])
    values = [v for one in told.values() for v in (*one["folds"].values(), *one["interval"])]
    low, high = min(values), max(values)
    left, width, row = 180, 420, 26

    def across(value: float) -> float:
        return left + width * (value - low) / ((high - low) or 1.0)

    drawn = []
    for place, method in enumerate(order):
        one, y = told[method], 20 + row * place
        dots = "".join(f'<circle cx="{across(v):.1f}" cy="{y}" r="2.5" fill="#999"/>' for v in one["folds"].values())
        (a, b), centre = map(across, one["interval"]), across(one["wer"])
        drawn.append(
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end" font-size="12">{method}</text>{dots}'
            f'<path d="M{a:.1f} {y} H{b:.1f}" stroke="#0072b2" stroke-width="2"/>'
            f'<circle cx="{centre:.1f}" cy="{y}" r="4" fill="#0072b2"/>'
            f'<text x="{left + width + 10}" y="{y + 4}" font-size="12">{100 * one["wer"]:.1f} %</text>'
        )
    height = 20 + row * len(order) + 20
    foot = f'<text x="{left}" y="{height - 8}" font-size="11">WER: pooled with 95 % interval; grey: each speaker</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" font-family="sans-serif" '
        f'fill="#222"><rect width="100%" height="100%" fill="#fff"/>{"".join(drawn)}{foot}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["run", "tell"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the units")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU minutes of training for each method and fold")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--speakers", nargs="+", default=None, help="only these folds")
    parser.add_argument("--processes", type=int, default=1, help="units run at the same time, one thread each")
    parser.add_argument("--record", type=Path, help="tell: file for the JSON of the last line; an SVG beside it")
    args = parser.parse_args()
    if "AUDIORL_TEST_DATA" not in os.environ:
        parser.error("AUDIORL_TEST_DATA is not set. Point it at the folder with data/ and models/.")
    root = Path(os.environ["AUDIORL_TEST_DATA"])
    if args.do == "run":
        jobs = [
            unit
            for unit in units(root, args.minutes, args.seeds, args.methods)
            if args.speakers is None or unit[2] in args.speakers
        ]
        with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
            for told in pool.map(partial(_unit, root, args.out), jobs):
                print(told, flush=True)
        return
    told = summary(pooled(args.out, args.minutes))
    print(table(told))
    if args.record is not None:
        args.record.with_suffix(".svg").write_text(picture(told), encoding="utf-8")
    result = {"benchmark": "leave_one_out", "minutes": args.minutes, "batch": BATCH, "looks": LOOKS}
    report({**result, **environment("cpu", 1), "methods": told}, args.record)


def _unit(root: Path, out: Path, unit: Unit) -> str:
    return run_unit(root, out, *unit)


if __name__ == "__main__":
    main()
