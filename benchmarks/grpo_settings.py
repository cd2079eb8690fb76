"""What do GRPO's samples teach, and which settings use them better? One fold, after the same two minutes of SFT.

    export AUDIORL_TEST_DATA=/path/to/shared
    python benchmarks/grpo_settings.py time --out loo                                # on a quiet machine
    python benchmarks/grpo_settings.py run --out loo --seeds 0 --processes 2
    python benchmarks/grpo_settings.py tell --out loo --record benchmarks/results/grpo_settings.json

The fold, the rows and the first phase are those of `leave_one_out.py`: speaker 1919 is measured, 1993 looked at, and
all arms begin with the same weights. Then each arm has --minutes CPU minutes: nothing, SFT once more, or GRPO
with one thing changed (the number of samples, the learning rate, how advantages are scaled, two steps for each rollout,
flat groups sampled again, the harder half of the clips with more samples, easier clips first, no supervised term).
Minutes become steps by what `time` measured for that very arm; measure all arms in one run, because a machine's speed
changes from hour to hour by more than the arms differ. An arm that differs in the learning rate alone, or in the order
of rows, takes the seconds of the one that it differs from. The first phase's steps are those of `leave_one_out.py`.

`tell` prints for each arm: steps, WER of the measured speaker (the last weights, not those of the best look: what is
asked is what the steps do), the difference to more SFT with a bootstrap over clips, the WER of K = 8 samples and of the
best of them, entropy, how far the decoder moved, and of training: the reward's standard deviation within a group and
the share of groups without any, first and last quarter. Its last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from leave_one_out import (
    CHECKPOINT,
    Rows,
    by_speaker,
    drift,
    fold,
    key,
    known_units,
    pairs_of,
    seconds_for_a_step,
    seconds_known,
    signs,
    steps_in,
    tuned,
    two_sided,
    with_seconds,
)
from measuring import environment, report
from wer_after_tuning import Phase, build, checkpoint, grpo, sft

from audiorl.evaluation import count_errors
from audiorl.files import whole_file

MEASURED = "1919"
FIRST = sft(share=0.5)  # of leave_one_out's four minutes
FIRST_MINUTES = 4.0
BASE = "GRPO"
MORE_SFT = "SFT goes on"
STOPS = "SFT stops"
RESAMPLES = 10_000


class Arm(NamedTuple):
    """What follows the first phase; nothing, if it has no phase."""

    phase: Phase | None
    rows: Callable[[Rows, Phase], list[dict[str, Any]]] = Rows.__call__
    seconds_of: str | None = None  # the arm whose steps cost as much


def hardness(rows: Rows) -> dict[str, float]:
    """Clip -> WER of the worst of four samples of the checkpoint, as mined for the pairs; 0 if all were right."""
    pairs = [row for name in rows.train for row in pairs_of(rows.root, rows.out, name, rows.seed)]
    return {row["id"]: row["rejected_wer"] for row in pairs}


def harder_half(rows: Rows, phase: Phase) -> list[dict[str, Any]]:
    easy_first = easier_first(rows, phase)
    return easy_first[len(easy_first) // 2 :]


def easier_first(rows: Rows, phase: Phase) -> list[dict[str, Any]]:
    wer = hardness(rows)
    return sorted(rows(phase), key=lambda row: wer.get(row["id"], 0.0))


def changed(**settings: Any) -> Phase:
    return grpo(**{"sft_weight": 0.3, **settings})


ARMS: dict[str, Arm] = {
    STOPS: Arm(None),
    MORE_SFT: Arm(sft()),
    BASE: Arm(changed()),
    "K = 4": Arm(changed(num_generations=4)),
    "K = 16": Arm(changed(num_generations=16)),
    "learning rate 5e-6": Arm(changed(learning_rate=5e-6), seconds_of=BASE),
    "learning rate 5e-5": Arm(changed(learning_rate=5e-5), seconds_of=BASE),
    "learning rate 1e-4": Arm(changed(learning_rate=1e-4), seconds_of=BASE),
    "advantages not scaled": Arm(changed(scale_rewards="none"), seconds_of=BASE),
    "two steps a rollout": Arm(changed(num_iterations=2)),
    "flat groups again": Arm(changed(dynamic_sampling_tries=3)),
    "harder half, K = 16": Arm(changed(num_generations=16), harder_half, "K = 16"),
    "easier clips first": Arm(changed(train_sampling_strategy="sequential"), easier_first, BASE),
    "no supervised term": Arm(changed(sft_weight=0.0)),
}


def measured_rows(root: Path, out: Path, seed: int) -> tuple[Rows, list[dict[str, Any]], list[dict[str, Any]]]:
    """What is trained on, looked at, measured."""
    speakers = by_speaker(root)
    train, looked_at = fold(speakers, MEASURED)
    return Rows(root, out, train, seed), speakers[looked_at], speakers[MEASURED]


def own(out: Path) -> Path:
    """The folder of this benchmark, with its units and its own `seconds.json`."""
    return out / "grpo_settings"


def measure_steps(root: Path, out: Path, names: Sequence[str]) -> None:
    """Write into `seconds.json` what a step of these arms costs now."""
    torch.set_num_threads(1)
    rows, known = measured_rows(root, out, 0)[0], seconds_known(own(out))
    own(out).mkdir(parents=True, exist_ok=True)
    for phase in filter(None, (ARMS[name].phase for name in names if ARMS[name].seconds_of is None)):
        known[key(phase)] = seconds_for_a_step(root, phase, rows(phase))
        print(f"{known[key(phase)]:.2f} CPU s for a step of {key(phase)}", flush=True)
        with whole_file(own(out) / "seconds.json", encoding="utf-8") as file:
            json.dump(known, file, indent=1)


def unit_path(out: Path, minutes: float, seed: int, name: str) -> Path:
    plain = name.lower().replace(" = ", "").replace(", ", "-").replace(" ", "_")
    return own(out) / "units" / f"{minutes:g}min-{plain}-{seed}.json"


def run_arm(root: Path, out: Path, minutes: float, seed_and_name: tuple[int, str]) -> str:
    """One arm; writes its JSON and says what came of it."""
    torch.set_num_threads(1)
    seed, name = seed_and_name
    rows, looked_at, measured = measured_rows(root, out, seed)
    found: dict[str, Any] = {}
    if name == CHECKPOINT:
        model, processor = checkpoint(root)
    else:
        arm = ARMS[name]
        costs_as = ARMS[arm.seconds_of or name].phase
        first = steps_in(out, FIRST_MINUTES, FIRST)
        then = 0 if costs_as is None else steps_in(own(out), minutes, costs_as)
        found = tuned(
            root,
            [FIRST] if arm.phase is None else [FIRST, arm.phase],
            lambda phase: rows(phase) if phase is FIRST else arm.rows(rows, phase),
            looked_at,
            seed,
            lambda phase: first if phase is FIRST else then,
            out / "first_phases",
            choose=False,
        )
        model, processor = found.pop("model"), found.pop("processor")
    judge = build(model, processor, sft(), measured, seed, 1)
    said = judge.decode(measured)
    found |= {"method": name, "speaker": MEASURED, "seed": seed, "minutes": minutes, **said._asdict()}
    found["signs"] = {"drift": drift(model, root), **signs(judge, model.eval())}
    path = unit_path(out, minutes, seed, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, encoding="utf-8") as file:
        json.dump(found, file)
    wer = count_errors(said.transcripts, said.hypotheses, normalise="lower").wer
    return f"{path.stem}: WER {100 * wer:.1f} %, steps {found.get('steps')}"


# ---- what the arms say together ----


def quarters(curve: Sequence[Mapping[str, float]], name: str) -> tuple[float, float] | None:
    """Means over the first and the last quarter of the logged values; None where nothing was logged."""
    values = [entry[name] for entry in curve if name in entry]
    part = max(1, len(values) // 4)
    return (float(np.mean(values[:part])), float(np.mean(values[-part:]))) if values else None


def summary(units: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """arm -> what `tell` prints, means over seeds."""
    by: dict[str, list[dict[str, Any]]] = {}
    for _, unit in sorted(units.items()):
        by.setdefault(unit["method"], []).append(unit)
    counted = {
        name: [count_errors(u["transcripts"], u["hypotheses"], normalise="lower") for u in units]
        for name, units in by.items()
    }
    words = np.asarray(next(iter(counted.values()))[0].words, dtype=float)
    errors = {name: np.mean([each.errors for each in of], axis=0) for name, of in counted.items()}
    drawn = np.random.default_rng(0).integers(len(words), size=(RESAMPLES, len(words)))
    told = {}
    for name, of in by.items():
        one: dict[str, Any] = {
            "seeds": sorted(unit["seed"] for unit in of),
            "steps": of[0].get("steps"),
            "wer": float(errors[name].sum() / words.sum()),
            "by_seed": [each.wer for each in counted[name]],
            **{
                kind: float(np.mean([getattr(each, kind).sum() for each in counted[name]]) / words.sum())
                for kind in ("substitutions", "deletions", "insertions")
            },
            **{sign: float(np.mean([unit["signs"][sign] for unit in of])) for sign in of[0]["signs"]},
        }
        for value in ("reward", "reward_std", "frac_reward_zero_std", "entropy"):
            found = [quarters(unit["curve"][-1], value) for unit in of if "curve" in unit]
            if found and None not in found:
                one[f"training {value}"] = np.mean(found, axis=0).tolist()  # type: ignore[arg-type]
        if MORE_SFT in errors and name not in (MORE_SFT, CHECKPOINT):
            differences = (errors[name] - errors[MORE_SFT])[drawn].sum(1) / words[drawn].sum(1)
            one["against_more_sft"] = {
                "difference": one["wer"] - float(errors[MORE_SFT].sum() / words.sum()),
                "interval": np.quantile(differences, [0.025, 0.975]).tolist(),
                "p": two_sided(differences),
            }
        told[name] = one
    return told


def table(told: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| arm | steps | WER (by seed) | against more SFT | WER of samples, of the best of 8 "
        "| reward's deviation in a group | flat groups | drift |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(told, key=lambda name: told[name]["wer"]):
        one = told[name]
        test, spread, flat = (
            one.get(k) for k in ("against_more_sft", "training reward_std", "training frac_reward_zero_std")
        )
        cells = [
            name,
            ", ".join(map(str, one["steps"] or [])),
            f"{100 * one['wer']:.1f} % ({', '.join(f'{100 * wer:.1f}' for wer in one['by_seed'])})",
            f"{100 * test['difference']:+.1f}, p = {test['p']:.2g}" if test else "",
            f"{100 * one['sample_wer']:.1f}, {100 * one['best_sample_wer']:.1f} %",
            f"{spread[0]:.2f}, {spread[1]:.2f}" if spread else "",
            f"{100 * flat[0]:.0f}, {100 * flat[1]:.0f} %" if flat else "",
            f"{one['drift']:.4f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["time", "run", "tell"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the units, that of leave_one_out.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU minutes after the first phase")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--processes", type=int, default=1, help="arms run at the same time, one thread each")
    parser.add_argument("--record", type=Path, help="JSON with all units; `tell` writes it")
    args = parser.parse_args()
    if "AUDIORL_TEST_DATA" not in os.environ:
        parser.error("AUDIORL_TEST_DATA is not set. Point it at the folder with data/ and models/.")
    root = Path(os.environ["AUDIORL_TEST_DATA"])
    if args.do == "time":
        measure_steps(root, args.out, args.arms)
        return
    own(args.out).mkdir(parents=True, exist_ok=True)
    with_seconds(own(args.out), args.record)
    known = known_units(own(args.out), args.record)
    if args.do == "run":
        jobs = [
            (seed, name)
            for seed in args.seeds
            for name in [CHECKPOINT, *args.arms]
            if (name != CHECKPOINT or seed == args.seeds[0])
            and unit_path(args.out, args.minutes, seed, name).stem not in known
        ]
        with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
            for told in pool.map(partial(run_arm, root, args.out, args.minutes), jobs):
                print(told, flush=True)
        return
    known = {name: unit for name, unit in known.items() if unit["minutes"] == args.minutes}
    told = summary(known)
    print(table(told))
    result = {"benchmark": "grpo_settings", "minutes": args.minutes, **environment("cpu", 1)}
    report({**result, "seconds_for_a_step": seconds_known(own(args.out)), "arms": told}, None)
    if args.record is not None:
        with whole_file(args.record, encoding="utf-8") as file:
            everything = {**result, "seconds_for_a_step": seconds_known(own(args.out)), "arms": told}
            json.dump({**everything, "units": dict(sorted(known.items()))}, file)


if __name__ == "__main__":
    main()
