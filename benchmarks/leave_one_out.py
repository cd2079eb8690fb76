"""Which method lowers the WER of speakers that it never heard? Eight folds: tune on seven, measure on the eighth.

    export AUDIORL_TEST_DATA=/path/to/shared
    python benchmarks/leave_one_out.py time --out loo                                # on a quiet machine
    python benchmarks/leave_one_out.py run --out loo --seeds 0 1 --processes 2
    python benchmarks/leave_one_out.py tell --out loo --record benchmarks/results/leave_one_out.json

Data: all of librispeech-mini, eight speakers, clips up to 11.9 s. Checkpoint: whisper-tiny-regrown, whose training
heard none of them; its encoder is frozen. Every clip is measured once, by a model that never heard its speaker.

Of the seven speakers of a fold, the one after the measured one is looked at: a method trains on the other six for the
same number of CPU minutes (rollouts included; mining counts for nobody), in `LOOKS` equal parts, and keeps the part
after which that speaker's WER was lowest. Nothing else is chosen; settings were fixed before the first run.

`time` measures the CPU seconds of each method's optimizer step once, alone on the machine, and writes them down:
minutes become a number of steps, the same in every fold, so that a unit can be repeated whatever else runs.
`run` then keeps the states of the frozen encoder in memory (`kept_states`): the same numbers, in less than half of the
time that was counted. Methods that begin with the same SFT take it from the first of them. `run` writes one JSON for
each (minutes, seed, fold, method) under --out and skips those that are there or in --record, so it can be stopped and
started again; several processes share the work. `tell` pools the folds: WER with a bootstrap over speakers and clips,
paired tests against the checkpoint and against SFT with Holm's correction over the methods, the spread over folds, and
what changed (substitutions, deletions, insertions). With --against it says what more minutes did. Its last line is
JSON; --record keeps it, with all hypotheses.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import environment, report
from transformers import TrainerCallback
from transformers.modeling_outputs import BaseModelOutput
from wer_after_tuning import BATCH, Phase, build, checkpoint, dpo, grpo, sft, speech, step_starts

from audiorl import DPOConfig, KTOConfig, KTOTrainer, ORPOConfig, ORPOTrainer, RAFTConfig, RAFTTrainer, mine_pairs
from audiorl.evaluation import Errors, count_errors
from audiorl.files import whole_file
from audiorl.models.sampling import rollout_noise
from audiorl.pairs import unpaired_rows
from audiorl.trainers.base import SpeechTrainer

LOOKS = 4
SAMPLES = 8
RESAMPLES = 10_000
FROM_PAIRS = (DPOConfig, ORPOConfig, KTOConfig)
CHECKPOINT, SFT = "checkpoint", "SFT"
RATE = {"learning_rate": 3e-5}
CURVE = (
    *("step", "loss", "reward", "wer", "rewards/margins", "loss/sft", "entropy", "reward_std"),
    *("frac_reward_zero_std", "raft/kept_reward", "raft/kept_clips"),
)
CYCLE = 4  # optimizer steps of RAFT from one sampling to the next
RAFT = partial(
    Phase,
    partial(RAFTTrainer, reward_funcs="one_minus_wer"),
    RAFTConfig,
    {
        **{"samples_per_prompt": 8, "max_completion_length": 128, "learning_rate": 2e-5, "lr_decay_per_cycle": 0.95},
        **{"clips_per_cycle": CYCLE * BATCH, "steps_per_cycle": CYCLE},
    },
)
# Those that begin alike are apart, so that the second one to run finds the first phase of the first
METHODS: dict[str, list[Phase]] = {
    "SFT, then GRPO + SFT": [sft(share=0.5), grpo(share=0.5, sft_weight=0.3)],
    SFT: [sft()],
    "ORPO": [Phase(ORPOTrainer, ORPOConfig, {"beta": 0.1, **RATE})],
    "SFT, then MWER + SFT": [
        sft(share=0.5),
        grpo(share=0.5, loss_type="mwer", scale_rewards="none", sft_weight=0.3),
    ],
    "DPO + SFT": [dpo(["sigmoid", "sft"], [1.0, 1.0])],
    "KTO + SFT": [Phase(KTOTrainer, KTOConfig, {"beta": 0.1, "sft_weight": 1.0, **RATE})],
    "RAFT": [RAFT(1.0)],
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


def pairs_of(root: Path, out: Path, speaker: str, seed: int) -> list[dict[str, Any]]:
    """Pairs mined from the checkpoint on one speaker's clips; kept beside the units, for no fold changes them."""
    path = out / "pairs" / f"{speaker}-{seed}.jsonl"
    if not path.exists():
        torch.set_num_threads(1)
        model, processor = checkpoint(root)
        kept_states(model.requires_grad_(False))
        mined = mine_pairs(model, processor, by_speaker(root)[speaker], num_generations=4, seed=seed, progress=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in mined.rows)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Rows(NamedTuple):
    """What a fold trains on, and with which seed the pairs were mined."""

    root: Path
    out: Path
    train: list[str]  # speakers
    seed: int

    def __call__(self, phase: Phase) -> list[dict[str, Any]]:
        """The rows that a phase reads."""
        if phase.config in FROM_PAIRS:
            pairs = [row for name in self.train for row in pairs_of(self.root, self.out, name, self.seed)]
            return list(unpaired_rows(pairs)) if phase.config is KTOConfig else pairs
        speakers = by_speaker(self.root)
        return [row for name in self.train for row in speakers[name]]


def cycles(phase: Phase, steps: int) -> Phase:
    """RAFT counts in cycles: as many as hold the steps."""
    if phase.config is not RAFTConfig:
        return phase
    return phase._replace(settings={**phase.settings, "num_cycles": -(-steps // CYCLE)})


def key(phase: Phase) -> str:
    """What a step of the phase costs is written down by; its share of the minutes plays no part."""
    return json.dumps([phase.config.__name__, phase.settings], sort_keys=True)


def seconds_for_a_step(root: Path, phase: Phase, rows: list[dict]) -> float:
    """CPU seconds from one optimizer step to another, rollouts included, the encoder run each time."""
    steps = 1 + 2 * CYCLE
    times = step_starts(build(*checkpoint(root), cycles(phase, steps), rows, 0, steps))
    return (times[-1] - times[0]) / (steps - 1)


def measure_steps(root: Path, out: Path, phases: Sequence[Phase]) -> None:
    """Add to `seconds.json` what is not in it."""
    torch.set_num_threads(1)
    path, known = out / "seconds.json", seconds_known(out)
    speakers = by_speaker(root)
    rows = Rows(root, out, fold(speakers, next(iter(speakers)))[0], 0)
    for phase in phases:
        if key(phase) not in known:
            known[key(phase)] = seconds_for_a_step(root, phase, rows(phase))
            print(f"{known[key(phase)]:.2f} CPU s for a step of {key(phase)}", flush=True)
            with whole_file(path, encoding="utf-8") as file:
                json.dump(known, file, indent=1)


def seconds_known(out: Path) -> dict[str, float]:
    path = out / "seconds.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


MOST_STATES = 2000  # 0.9 MB each
_states: dict[bytes, torch.Tensor] = {}  # by the features of a clip, of this process


def kept_states(model: Any) -> Any:
    """The model, whose frozen encoder runs once for each clip of this process."""
    encoder = model.model.encoder
    forward = encoder.forward

    def looked_up(input_features: torch.Tensor, *args: Any, **kwargs: Any) -> BaseModelOutput:
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        clips = [blake2b(each.numpy().tobytes(), digest_size=16).digest() for each in input_features]
        new, fresh = [place for place, clip in enumerate(clips) if clip not in _states], {}
        if new:
            with torch.no_grad():
                found = forward(input_features[new], *args, **kwargs).last_hidden_state
            fresh = dict(zip((clips[place] for place in new), found, strict=True))
            if len(_states) < MOST_STATES:  # augmented clips never come back
                _states.update(fresh)
        return BaseModelOutput(last_hidden_state=torch.stack([_states[c] if c in _states else fresh[c] for c in clips]))

    encoder.forward = looked_up
    return model


class Course(NamedTuple):
    """What one phase did."""

    steps: int
    seconds: float  # CPU, of training alone
    curve: list[dict[str, Any]]
    looks: list[tuple[float, dict[str, torch.Tensor]]]  # WER of the speaker looked at, and the weights then
    weights: dict[str, torch.Tensor]  # the last


def tuned(
    root: Path,
    phases: Sequence[Phase],
    rows: Callable[[Phase], list[dict]],
    looked_at: list[dict],
    seed: int,
    steps_of: Callable[[Phase], int],
    kept: Path,
    *,
    choose: bool = True,
) -> dict[str, Any]:
    """Train in equal parts, and go back to the part after which the speaker looked at had the lowest WER.

    Args:
        looked_at: rows of that speaker; none of them, and the last weights are kept.
        steps_of: how long a phase is.
        kept: folder of first phases. Methods that begin alike begin with the same weights: trained once.
        choose: go back to the best part; else the last weights count.
    """
    model, processor = checkpoint(root)
    kept_states(model)
    courses: list[Course] = []
    for place, phase in enumerate(phases):
        own, count = rows(phase), steps_of(phase)
        first = kept / f"{_fingerprint(key(phase), phase.share, count, own, looked_at, seed)}.pt"
        if place == 0 and first.exists():
            courses.append(Course(*torch.load(first, weights_only=True)))
        else:
            courses.append(course(model, processor, phase, own, looked_at, seed, count))
        if place == 0 and len(phases) > 1 and not first.exists():
            kept.mkdir(parents=True, exist_ok=True)
            with whole_file(first, "wb") as file:
                torch.save(tuple(courses[0]), file)
        model.load_state_dict(courses[-1].weights, strict=False)  # the rest is frozen
    looks = [look for one in courses for look in one.looks]
    if choose and looks:
        model.load_state_dict(min(looks, key=lambda look: look[0])[1], strict=False)
    return {
        **{"model": model, "processor": processor, "steps": [one.steps for one in courses]},
        **{"seconds": sum(one.seconds for one in courses), "curve": [one.curve for one in courses]},
        "looks": [wer for wer, _ in looks],
    }


def course(
    model: Any, processor: Any, phase: Phase, rows: list[dict], looked_at: list[dict], seed: int, count: int
) -> Course:
    """Train the model for `count` steps of one phase."""
    trainer = build(model, processor, cycles(phase, count), rows, seed, count)
    parts = max(1, round(LOOKS * phase.share)) if looked_at else 0
    clock = _LookingClock(trainer, looked_at, [round(count * part / parts) for part in range(1, parts + 1)])
    trainer.add_callback(clock)
    trainer.train()
    curve = [{name: entry[name] for name in CURVE if name in entry} for entry in trainer.state.log_history]
    return Course(count, clock.seconds, curve, clock.looks, _weights(model))


def _weights(model: Any) -> dict[str, torch.Tensor]:
    """What is trained."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def _fingerprint(*parts: Any) -> str:
    """Of JSON, and of waveforms in it by their samples."""

    def samples(value: Any) -> str:
        return blake2b(np.ascontiguousarray(value).tobytes()).hexdigest()

    return blake2b(json.dumps(parts, sort_keys=True, default=samples).encode(), digest_size=16).hexdigest()


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
        self.looks.append((wer, _weights(self.trainer.model)))
        self.seconds -= time.process_time()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds += time.process_time()


def steps_in(out: Path, minutes: float, phase: Phase) -> int:
    """How many steps a phase takes in its share of the minutes."""
    known = seconds_known(out)
    if key(phase) not in known:
        raise SystemExit(f"{out}/seconds.json does not say what a step of {key(phase)} costs: run `time` first.")
    return max(1, round(60 * minutes * phase.share / known[key(phase)]))


def run_unit(root: Path, out: Path, minutes: float, seed: int, measured: str, method: str) -> str:
    """One method on one fold; writes its JSON and says what came of it."""
    path = unit_path(out, minutes, seed, measured, method)
    if path.exists():
        return f"{path.stem}: there already"
    torch.set_num_threads(1)
    speakers = by_speaker(root)
    train, looked_at = fold(speakers, measured)
    rows = Rows(root, out, train, seed)
    found: dict[str, Any] = {}
    if method == CHECKPOINT:
        model, processor = checkpoint(root)
        kept_states(model)
    else:
        steps_of = partial(steps_in, out, minutes)
        found = tuned(root, METHODS[method], rows, speakers[looked_at], seed, steps_of, out / "first_phases")
        model, processor = found.pop("model"), found.pop("processor")
    judge = build(model, processor, sft(), speakers[measured], seed, 1)
    said = judge.decode(speakers[measured])
    found |= {"method": method, "speaker": measured, "looked_at": looked_at, "seed": seed, "minutes": minutes}
    found |= {"ids": [row["id"] for row in speakers[measured]], **said._asdict()}
    found["signs"] = {"drift": drift(model, root), **signs(judge, model.eval())}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, encoding="utf-8") as file:
        json.dump(found, file)
    wer = count_errors(said.transcripts, said.hypotheses, normalise="lower").wer
    return f"{path.stem}: WER {100 * wer:.1f} %, steps {found.get('steps')}"


def drift(model: Any, root: Path) -> float:
    """|w - w0| / |w0| over all weights of the decoder, w0 the checkpoint's."""
    before = checkpoint(root)[0].state_dict()
    pairs = [(value, before[name]) for name, value in model.state_dict().items() if "decoder" in name]
    moved, whole = (sum(float(x.double().square().sum()) for x in each) for each in _apart(pairs))
    return (moved / whole) ** 0.5


def _apart(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [after - before for after, before in pairs], [before for _, before in pairs]


@torch.no_grad()
def signs(judge: SpeechTrainer, model: Any) -> dict[str, float]:
    """What a WER does not show: how sure the model is of true transcripts, and how its samples differ.

    Args:
        judge: holds the measured clips as its training rows.

    Returns:
        nll and entropy, nats for a token of the transcripts; of K = 8 samples for each clip: the WER of all, that of
        each clip's best, and the share of clips whose samples all have as many errors.
    """
    family, sums, counted, samples = judge.family, np.zeros(2), 0, []
    for start in range(0, len(judge.train_dataset), BATCH):
        rows = [judge.train_dataset[i] for i in range(start, min(start + BATCH, len(judge.train_dataset)))]
        batch = judge.data_collator(rows)
        scores = family.score_groups(model, batch)
        sums += [float(torch.where(scores.keep, each, 0.0).sum()) for each in (-scores.logps, scores.entropy)]
        counted += int(scores.keep.sum())
        noise = rollout_noise(batch.row_ids.tolist(), seed=0, step=0, num_generations=SAMPLES, max_tokens=128)
        sampled = family.sample_groups(model, batch, noise, scores.states)
        for row, texts in zip(rows, family.text(sampled.tokens, sampled.keep), strict=True):
            samples.append(count_errors([row["text"]] * SAMPLES, texts, normalise="lower"))
    errors = np.stack([each.errors for each in samples])
    words = sum(each.words[0] for each in samples)
    return {
        **dict(zip(("nll", "entropy"), (sums / counted).tolist(), strict=True)),
        "sample_wer": float(errors.mean(1).sum() / words),
        "best_sample_wer": float(errors.min(1).sum() / words),
        "flat_groups": float((errors == errors[:, :1]).all(1).mean()),
    }


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


Found = dict[str, dict[str, list[tuple[Errors, dict]]]]  # method -> speaker -> errors and unit of each seed


def pooled(units: Mapping[str, dict[str, Any]]) -> Found:
    """method -> speaker -> (errors, unit) of each seed; methods that lack a fold are left out, and named."""
    found: Found = {}
    for _, unit in sorted(units.items()):
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


def paired(differences: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """method -> interval and p of the differences that the draws gave, corrected for the number of methods."""
    corrected = holm({method: two_sided(values) for method, values in differences.items()})
    return {
        method: {
            "interval": np.quantile(values, [0.025, 0.975]).tolist(),
            "p": two_sided(values),
            "p_holm": corrected[method],
        }
        for method, values in differences.items()
    }


def against_itself(found: Found, before: Found) -> dict[str, dict[str, Any]]:
    """method -> how its WER differs from that of the same method after other minutes, clip by clip."""
    words = {name: np.asarray(units[0][0].words) for name, units in found[CHECKPOINT].items()}
    drawn, total = draws(words), sum(each.sum() for each in words.values())
    differences = {
        method: {name: clip_errors(units) - clip_errors(before[method][name]) for name, units in by.items()}
        for method, by in found.items()
        if method in before and method != CHECKPOINT
    }
    tests = paired({method: rates(each, words, drawn) for method, each in differences.items()})
    return {
        method: {"difference": sum(errors.sum() for errors in differences[method].values()) / total, **test}
        for method, test in tests.items()
    }


def summary(found: Found) -> dict[str, Any]:
    """method -> pooled WER, interval, tests, folds and kinds of errors."""
    words = {name: np.asarray(units[0][0].words) for name, units in found[CHECKPOINT].items()}
    errors = {method: {name: clip_errors(units) for name, units in by.items()} for method, by in found.items()}
    drawn = draws(words)
    sampled = {method: rates(errors[method], words, drawn) for method in found}
    total = sum(each.sum() for each in words.values())
    told: dict[str, Any] = {}
    for method, by in found.items():
        low, high = np.quantile(sampled[method], [0.025, 0.975])
        seeds = sorted({unit["seed"] for units in by.values() for _, unit in units})
        told[method] = {
            "wer": sum(each.sum() for each in errors[method].values()) / total,
            "interval": [low, high],
            "seeds": seeds,
            "by_seed": [_wer_of_seed(by, seed) for seed in seeds],
            "folds": {name: errors[method][name].sum() / words[name].sum() for name in words},
            **{kind: _kind(by, kind) / total for kind in ("substitutions", "deletions", "insertions")},
        }
    for against, field in ((CHECKPOINT, "against_checkpoint"), (SFT, "against_sft")):
        if against in found:
            others = [method for method in found if method not in (CHECKPOINT, against)]
            differences = {method: sampled[method] - sampled[against] for method in others}
            for method, test in paired(differences).items():
                told[method][field] = {"difference": told[method]["wer"] - told[against]["wer"], **test}
    return told


def _wer_of_seed(by: Mapping[str, list[tuple[Errors, dict]]], seed: int) -> float | None:
    """Over all folds; None where the seed lacks one."""
    counted = [errors for units in by.values() for errors, unit in units if unit["seed"] == seed]
    if len(counted) < len(by):
        return None
    return float(sum(errors.errors.sum() for errors in counted) / sum(errors.words.sum() for errors in counted))


def _kind(by: Mapping[str, list[tuple[Errors, dict]]], kind: str) -> float:
    return sum(float(np.mean([getattr(errors, kind).sum() for errors, _ in units])) for units in by.values())


def table(told: Mapping[str, Any]) -> str:
    """One line for each method, the lowest WER first."""
    lines = [
        "| method | WER (95 %) | by seed | folds, lowest to highest | against the checkpoint | against SFT |\n"
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
        by_seed = ", ".join("" if value is None else f"{100 * value:.1f}" for value in one["by_seed"])
        lines.append(f"| {method} | {wer} | {by_seed} | {spread} | {' | '.join(tests)} |")
    return "\n".join(lines)


def minutes_table(told: Mapping[str, Any], tests: Mapping[str, Any], now: float, then: float) -> str:
    """What other minutes did, one line for each method, the lowest WER first."""
    lines = [f"| method | {then:g} minutes | {now:g} minutes | difference (95 %) |\n|---|---|---|---|"]
    for method in sorted(tests, key=lambda method: told[method]["wer"]):
        wer, test = told[method]["wer"], tests[method]
        low, high = test["interval"]
        interval = f"{100 * test['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), p = {test['p_holm']:.2g}"
        lines.append(f"| {method} | {100 * (wer - test['difference']):.1f} % | {100 * wer:.1f} % | {interval} |")
    return "\n".join(lines)


def changes(found: Found, told: Mapping[str, Any]) -> str:
    """What changed beside the WER, a line for each method: means over folds and seeds, which looks were kept, and
    the WER of the speakers looked at, which no weights had heard either: the mean of all folds at each look.
    """
    lines = [
        "| method | S, D, I | entropy | samples, best of 8 | flat groups | drift | look kept | WER then | steps |\n"
        "|---|---|---|---|---|---|---|---|---|"
    ]
    for method in sorted(found, key=lambda method: told[method]["wer"]):
        units = [unit for seeds in found[method].values() for _, unit in seeds]
        kinds = ", ".join(f"{100 * told[method][kind]:.1f}" for kind in ("substitutions", "deletions", "insertions"))
        signs = {sign: float(np.mean([unit["signs"][sign] for unit in units])) for sign in units[0]["signs"]}
        looked = [looks for unit in units if (looks := unit.get("looks"))]
        kept = [looks.index(min(looks)) for looks in looked]
        cells = [
            *(method, kinds, f"{signs['entropy']:.2f}"),
            f"{100 * signs['sample_wer']:.1f}, {100 * signs['best_sample_wer']:.1f} %",
            f"{100 * signs['flat_groups']:.0f} %",
            f"{signs['drift']:.4f}",
            ", ".join(str(kept.count(place)) for place in range(LOOKS)) if kept else "",
            ", ".join(f"{100 * wer:.1f}" for wer in np.mean(looked, axis=0)) if looked else "",
            ", ".join(map(str, units[0].get("steps", []))),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(told: Mapping[str, Any]) -> str:
    """The SVG: a row for each method with its pooled WER, interval and folds."""
    order = sorted(told, key=lambda method: told[method]["wer"])
    values = [v for one in told.values() for v in (*one["folds"].values(), *one["interval"])]
    low, high = min(values), max(values)
    left, width, row = 180, 420, 26

    def across(value: float) -> float:
        return left + width * (value - low) / ((high - low) or 1.0)

    height = 20 + row * len(order) + 34
    drawn = [
        f'<path d="M{across(tick / 100):.1f} 6 V{height - 44}" stroke="#ddd"/>'
        f'<text x="{across(tick / 100):.1f}" y="{height - 30}" text-anchor="middle" font-size="11">{tick} %</text>'
        for tick in range(5 * math.ceil(20 * low), round(100 * high) + 1, 5)
    ]
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
    foot = f'<text x="{left}" y="{height - 8}" font-size="11">WER: pooled with 95 % interval; grey: each speaker</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" font-family="sans-serif" '
        f'fill="#222"><rect width="100%" height="100%" fill="#fff"/>{"".join(drawn)}{foot}</svg>\n'
    )


def with_seconds(out: Path, record: Path | None) -> None:
    """What steps cost is measured once: a folder that does not know it takes it from the record."""
    if record is not None and record.exists() and not (out / "seconds.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        seconds = json.loads(record.read_text(encoding="utf-8"))["seconds_for_a_step"]
        with whole_file(out / "seconds.json", encoding="utf-8") as file:
            json.dump(seconds, file, indent=1)


def known_units(out: Path, record: Path | None) -> dict[str, dict[str, Any]]:
    """name -> unit, of the folder and of a record."""
    units = {}
    if record is not None and record.exists():
        units = json.loads(record.read_text(encoding="utf-8"))["units"]
    return units | {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (out / "units").glob("*.json")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["time", "run", "tell"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the units")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="to run, or to tell of")
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU minutes of training for each method and fold")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--speakers", nargs="+", default=None, help="only these folds")
    parser.add_argument("--processes", type=int, default=1, help="units run at the same time, one thread each")
    parser.add_argument(
        "--record", type=Path, help="JSON with all units, of other seeds too; `tell` writes it, and an SVG"
    )
    parser.add_argument("--against", type=Path, help="record of other minutes; `tell` compares each method with itself")
    args = parser.parse_args()
    if "AUDIORL_TEST_DATA" not in os.environ:
        parser.error("AUDIORL_TEST_DATA is not set. Point it at the folder with data/ and models/.")
    root = Path(os.environ["AUDIORL_TEST_DATA"])
    known = known_units(args.out, args.record)
    with_seconds(args.out, args.record)
    if args.do == "time":
        args.out.mkdir(parents=True, exist_ok=True)
        measure_steps(root, args.out, [phase for name in args.methods for phase in METHODS[name]])
        return
    if args.do == "run":
        jobs = [
            unit
            for unit in units(root, args.minutes, args.seeds, args.methods)
            if unit_path(args.out, *unit).stem not in known and (args.speakers is None or unit[2] in args.speakers)
        ]
        run_units(root, args.out, jobs, args.processes)
        return
    known = {name: unit for name, unit in known.items() if unit["minutes"] == args.minutes}
    found = pooled(of_seeds(known, args.seeds))
    told = summary(found)
    print(table(told), changes(found, told), sep="\n\n")
    more = {}
    if args.against is not None:
        other = json.loads(args.against.read_text(encoding="utf-8"))
        compared = against_itself(found, pooled(of_seeds(other["units"], args.seeds)))
        more = {"against_minutes": other["minutes"], "against_itself": compared}
        print("\n" + minutes_table(told, compared, args.minutes, other["minutes"]))
    if args.record is not None:
        args.record.with_suffix(".svg").write_text(picture(told), encoding="utf-8")
    result = {
        "benchmark": "leave_one_out",
        "minutes": args.minutes,
        "seeds": args.seeds,
        "batch": BATCH,
        "looks": LOOKS,
        **more,
    }
    seconds = seconds_known(args.out)
    report({**result, **environment("cpu", 1), "seconds_for_a_step": seconds, "methods": told}, None)
    if args.record is not None:
        with whole_file(args.record, encoding="utf-8") as file:
            everything = {**result, **environment("cpu", 1), "seconds_for_a_step": seconds, "methods": told}
            json.dump({**everything, "units": dict(sorted(known.items()))}, file)


def of_seeds(known: Mapping[str, dict[str, Any]], seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """The units of these seeds; the checkpoint has no seed."""
    return {name: unit for name, unit in known.items() if unit["seed"] in seeds or unit["method"] == CHECKPOINT}


def run_units(root: Path, out: Path, jobs: Sequence[Unit], processes: int) -> None:
    """Mine what is to be mined, then unit after unit."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        mined = {unit[1] for unit in jobs if any(phase.config in FROM_PAIRS for phase in METHODS.get(unit[3], []))}
        list(
            pool.map(partial(_pairs, root, out), [(name, seed) for seed in sorted(mined) for name in by_speaker(root)])
        )
        for told in pool.map(partial(_unit, root, out), jobs):
            print(told, flush=True)


def _pairs(root: Path, out: Path, speaker_and_seed: tuple[str, int]) -> int:
    return len(pairs_of(root, out, *speaker_and_seed))


def _unit(root: Path, out: Path, unit: Unit) -> str:
    return run_unit(root, out, *unit)


if __name__ == "__main__":
    main()
