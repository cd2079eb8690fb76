"""`audiorl tune RECIPE`: several methods one after another, in one folder, each from the best model so far.

    audiorl tune recipe.yaml
    audiorl tune sft_grpo --model_name_or_path openai/whisper-small --dataset_name train.jsonl \\
        --eval_dataset_name held_out.jsonl --output_dir tuned

A recipe is a YAML file. What stands at its top are flags of every stage that has them; a stage's own override them, and
flags behind the recipe's name override those at the top:

    model_name_or_path: openai/whisper-small
    dataset_name: train.jsonl
    eval_dataset_name: held_out.jsonl
    output_dir: tuned
    keep_best: wer          # the default where there are rows to measure on; none: each stage goes on from the last
    on_worse: continue      # or stop: the recipe ends at the first stage that makes WER worse
    stages:
      - method: sft         # a command that trains, or pairs, which mines them for the stages that follow
        learning_rate: 1.0e-5
      - method: grpo
        reward_funcs: [one_minus_wer]
        sft_weight: 0.5

`tuned/1-sft`, `tuned/2-grpo`, ... are runs like any other. `tuned/recipe.json` says how each ended, `tuned/best` is the
model with the lowest WER, `tuned/report.html` has all curves and the WER of each stage. The same command goes on after
a kill: stages that ended are not repeated, the one that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from audiorl.command_line import flags_of, former_flags, switched_off, with_spaces
from audiorl.files import RECIPE_FILE

if TYPE_CHECKING:
    from audiorl.commands.train import Measured
    from audiorl.evaluation import Decoded
    from audiorl.trainers.logs import Closing

BEST_FOLDER = "best"
PAIRS = "pairs"
STAGE_WER = "eval_stage_wer"  # in metrics.jsonl, once for each stage
# methods that train on pairs which an earlier stage mined
ON_PAIRS = ("dpo", "orpo", "kto")
KEEP_BEST, ON_WORSE = ("wer", "none"), ("continue", "stop")
OF_THE_RECIPE = ("stages", "output_dir", "keep_best", "on_worse", "model_name_or_path")
# what one stage may say and not all of them together
OF_ONE_STAGE = ("push_to_hub", "hub_model_id", "resume_from_checkpoint", "run_name")


class RecipeError(ValueError):
    """A recipe that cannot be run as it stands; nothing was spent."""


@dataclass(frozen=True)
class Stage:
    """One method with its flags.

    Attributes:
        number: from 1.
        method: a key of `audiorl.commands.train.METHODS`, or "pairs".
        folder: where it writes, "<output_dir>/<number>-<name>".
        settings: its flags, those of the recipe's top among them, without model and folder.
    """

    number: int
    method: str
    folder: str
    settings: Mapping[str, Any]

    @property
    def place(self) -> str:
        return f"stage {self.number} ({self.method})"


@dataclass(frozen=True)
class Recipe:
    """What a file and flags say; see the module.

    Attributes:
        source: the file, or the name of a shipped recipe.
        model: the checkpoint to start from.
        demo: whether it is tuned on the demo's rows, with the demo's settings.
    """

    source: str
    output_dir: str
    model: str
    stages: tuple[Stage, ...]
    keep_best: str
    on_worse: str
    demo: bool = False


@dataclass
class Ended:
    """How a stage ended, as `recipe.json` has it.

    Attributes:
        model: what it started from.
        before, after: error rates, fractions; None without rows to measure on, and of pairs.
        kept: whether what follows starts from it.
    """

    method: str
    folder: str
    model: str
    settings: dict[str, Any]
    seconds: float
    before: float | None = None
    after: float | None = None
    kept: bool = True

    @property
    def name(self) -> str:
        return os.path.basename(self.folder)


def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("--help", "-h"):
        print(f"usage: audiorl tune RECIPE [flags of all stages]\n\n{__doc__}\nShipped: {', '.join(shipped_recipes())}")
        return
    run_recipe(read_recipe(argv[0], _flags(argv[1:])))


# ---- reading ----


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(Path(str(file)).stem for file in _shipped().iterdir() if str(file).endswith(".yaml"))


def _shipped() -> Any:
    return resources.files("audiorl.commands") / "recipes"


def read_recipe(source: str, flags: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from a YAML file or from those that come with the library.

    Args:
        source: path of the file, or a name of `shipped_recipes`.
        flags: override those at the file's top.

    Raises:
        RecipeError: there is no such file, or a name in it is not known or does not fit.
    """
    told = {**_yaml_of(source), **(flags or {})}
    entries = told.get("stages")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise RecipeError(
            f"{source} has no stages. Write a list under `stages:`, each with a `method:`, for example\n"
            "stages:\n  - method: sft\n    learning_rate: 1.0e-5"
        )
    shared = {name: value for name, value in told.items() if name not in OF_THE_RECIPE}
    if wrong := [name for name in shared if name in OF_ONE_STAGE]:
        raise RecipeError(f"{source}: {wrong[0]} belongs to one stage, not to all. Move it into that stage.")
    demo = "model_name_or_path" not in told and "dataset_name" not in shared
    output_dir = str(told.get("output_dir") or ("demo-recipe" if demo else ""))
    if not output_dir:
        raise RecipeError(f"{source} does not say where to write. Add output_dir: FOLDER, or --output_dir FOLDER.")
    stages = tuple(_stage(source, number, entry, shared, output_dir) for number, entry in enumerate(entries, 1))
    _check_shared(source, shared, stages)
    is_measured = _is_measured(shared, demo)
    keep_best = _choice(source, "keep_best", told.get("keep_best", "wer" if is_measured else "none"), KEEP_BEST)
    if keep_best == "wer" and not is_measured:
        raise RecipeError(
            f"{source}: keep_best: wer compares stages on rows to measure on, and there are none. Add "
            "eval_dataset_name, or write keep_best: none."
        )
    on_worse = _choice(source, "on_worse", told.get("on_worse", "continue"), ON_WORSE)
    model = _first_model(source, told.get("model_name_or_path"), demo)
    return Recipe(source, output_dir, model, stages, keep_best, on_worse, demo)


def _yaml_of(source: str) -> dict[str, Any]:
    path: Any = Path(source)
    if not path.is_file():
        path = _shipped() / f"{source}.yaml"
        if not path.is_file():
            names = shipped_recipes()
            near = get_close_matches(source, names, n=1)
            guess = f"Did you mean {near[0]!r}? " if near else ""
            raise RecipeError(f"There is no recipe {source}. {guess}Name a YAML file, or one of: {', '.join(names)}.")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not YAML: {error}. Write lines of the form `flag: value`.") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{source} holds no flags. Write lines of the form `flag: value`, and `stages:`.")
    return {str(name): value for name, value in found.items()}


def _flags(argv: Sequence[str]) -> dict[str, Any]:
    """Flags behind the recipe's name, values as YAML reads them; a flag without a value is true."""
    found: dict[str, list[Any]] = {}
    name = None
    known = {name: flag for kinds in _kinds().values() for name, flag in flags_of(kinds).items()}
    for word in switched_off(with_spaces(argv), known):
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            found[name] = []
        elif name is None:
            raise RecipeError(f"{word!r} follows no flag. Write audiorl tune RECIPE --flag value.")
        else:
            found[name].append(yaml.safe_load(word))
    return {name: (values if len(values) > 1 else values[0] if values else True) for name, values in found.items()}


def _stage(source: str, number: int, entry: Mapping[str, Any], shared: Mapping[str, Any], output_dir: str) -> Stage:
    own = {str(name): value for name, value in entry.items()}
    method, methods = str(own.pop("method", "")), _methods()
    if method not in methods:
        near = get_close_matches(method, methods, n=1)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        said = f"has the method {method!r}, which is not known" if method else "has no method"
        raise RecipeError(f"{source}: stage {number} {said}. {guess}There are {', '.join(methods)}.")
    known, former = methods[method], former_flags(_kinds()[method])
    own = {former.get(name, name): value for name, value in own.items()}
    shared = {former.get(name, name): value for name, value in shared.items()}
    for name in own:
        if name in ("output_dir", "model_name_or_path"):
            raise RecipeError(f"{source}: stage {number} ({method}) has {name}, which the recipe decides. Take it out.")
        if name != "name" and name not in known:
            near = get_close_matches(name, known, n=1)
            guess = f"Did you mean {near[0]!r}?" if near else f"audiorl {method} --help lists all."
            raise RecipeError(f"{source}: stage {number} ({method}) has no setting {name!r}. {guess}")
    folder = os.path.join(output_dir, f"{number}-{own.pop('name', method)}")
    taken = {name: value for name, value in shared.items() if name in known}
    return Stage(number, method, folder, {**taken, **own})


def _kinds() -> dict[str, tuple[type, ...]]:
    """Method -> the dataclasses whose fields are its flags."""
    from audiorl.adapters import SpeechModelConfig
    from audiorl.commands.pairs import PairsArguments, PairsConfig
    from audiorl.commands.train import METHODS

    found = {name: (method.flags, method.config, SpeechModelConfig) for name, method in METHODS.items()}
    return {**found, PAIRS: (PairsArguments, PairsConfig)}


def _methods() -> dict[str, dict[str, Any]]:
    """Method -> the fields of its flags, by name."""
    return {method: {f.name: f for kind in kinds for f in fields(kind)} for method, kinds in _kinds().items()}


def _check_shared(source: str, shared: Mapping[str, Any], stages: Sequence[Stage]) -> None:
    """Every flag at the top is one of some stage."""
    methods = _methods()
    known = {name for stage in stages for name in methods[stage.method]}
    known |= {old for stage in stages for old in former_flags(_kinds()[stage.method])}
    for name in shared:
        if name == "eval_share":
            raise RecipeError(
                f"{source}: eval_share would hold out other rows in each stage, as some stages mine pairs. Name rows "
                "to measure on with eval_dataset_name."
            )
        if name not in known:
            near = get_close_matches(name, [*known, *OF_THE_RECIPE], n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise RecipeError(f"{source}: no stage has a setting {name!r}.{guess} Take it out, or correct its name.")


def _choice(source: str, name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise RecipeError(f"{source}: {name} is {' or '.join(choices)}; got {value!r}. Write {name}: {choices[0]}.")
    return value


def _first_model(source: str, told: Any, demo: bool) -> str:
    if demo:
        from audiorl.demo import CHECKPOINT

        return str(CHECKPOINT)
    if not told:
        raise RecipeError(f"{source} names no model. Add model_name_or_path with a checkpoint's folder or Hub name.")
    return str(told)


def _is_measured(shared: Mapping[str, Any], demo: bool) -> bool:
    """Whether there are rows to measure on: a file has no test split of its own, a Hub name and a corpus have."""
    return demo or "eval_dataset_name" in shared or not os.path.exists(str(shared.get("dataset_name")))


# ---- running ----


def run_recipe(recipe: Recipe) -> list[Ended]:
    """Run the stages that have not ended yet, and write the report; every process of a launcher calls.

    Returns:
        How each stage ended.

    Raises:
        RecipeError: a stage that has ended had other settings.
    """
    ended = _ended_before(recipe)
    for stage in recipe.stages:  # all of them, before anything is spent
        _parse(recipe, stage, recipe.model)
    first = os.environ.get("RANK", "0") == "0"
    for stage in recipe.stages[len(ended) :]:
        if _is_stopped(recipe, ended):
            break
        model, known = _standing(recipe, ended)
        if first:
            print(f"== {stage.place}, from {model}", flush=True)
        started = time.perf_counter()
        measured = _run_stage(recipe, stage, model, known, ended)
        found = Ended(stage.method, stage.folder, model, dict(stage.settings), time.perf_counter() - started)
        if measured is not None:
            found.before, found.after = measured.comparison.before.wer, measured.comparison.after.wer
            found.kept = recipe.keep_best == "none" or found.after <= found.before
        ended.append(found)
        if first:
            _write_state(recipe, ended)
    if first:
        _finish(recipe, ended)
        closing(recipe, ended).show()
    return ended


def _standing(recipe: Recipe, ended: Sequence[Ended]) -> tuple[str, Decoded | None]:
    """The model that the next stage starts from, and what it says of the rows to measure on, where that is known."""
    tuned = [one for one in ended if one.method != PAIRS]
    best = _best(ended)
    model = recipe.model if best is None else best.folder
    if not tuned or tuned[0].after is None:
        return model, None
    return model, _decoded(tuned[0].folder, 0) if best is None else _decoded(best.folder, 1)


def _decoded(folder: str, place: int) -> Decoded:
    """What a run left of its decoding before (0) or after (1)."""
    from audiorl.evaluation import Decoded, read_document
    from audiorl.files import EVALUATION_FILE

    clips = read_document(Path(folder) / EVALUATION_FILE)["measurements"][place]["clips"]
    return Decoded([clip["transcript"] for clip in clips], [clip["hypothesis"] for clip in clips])


def _run_stage(
    recipe: Recipe, stage: Stage, model: str, known: Decoded | None, ended: Sequence[Ended]
) -> Measured | None:
    from accelerate import PartialState

    argv = _argv(recipe, stage, model, pairs=_mined_pairs(ended))
    measured = None
    if stage.method == PAIRS:
        from audiorl.commands.pairs import main as mine

        mine(argv)
    else:
        from audiorl.commands.train import run_method
        from audiorl.trainers.checkpoints import last_whole_checkpoint

        checkpoint = last_whole_checkpoint(stage.folder)
        if checkpoint is not None:
            argv += ["--resume_from_checkpoint", checkpoint]
        measured = run_method(stage.method, argv, before=known, next_steps=False)
    PartialState().wait_for_everyone()
    gc.collect()  # the stage's model, before the next one is loaded
    return measured


def _mined_pairs(ended: Sequence[Ended]) -> str | None:
    """The file that the last stage `pairs` wrote."""
    from audiorl.pairs.folder import PAIRS as PAIRS_FILE

    folders = [one.folder for one in ended if one.method == PAIRS]
    return os.path.join(folders[-1], PAIRS_FILE) if folders else None


def _argv(recipe: Recipe, stage: Stage, model: str, pairs: str | None = None) -> list[str]:
    """A stage as flags of its command."""
    from audiorl.demo import DEMO_ARGUMENTS

    known = _methods()[stage.method]
    settings = {**stage.settings, "model_name_or_path": model, "output_dir": stage.folder}
    if model != recipe.model and "init_from" in known:
        settings.setdefault("init_from", recipe.model)  # for the card
    if pairs is not None and stage.method in ON_PAIRS:
        rows = str(settings.get("dataset_name") or "demo")
        if not os.path.exists(rows):  # a corpus or a Hub name, whose own test split it is measured on
            settings.setdefault("eval_dataset_name", rows.partition(":")[0])
        settings["dataset_name"] = pairs
    argv = list(DEMO_ARGUMENTS.get(stage.method, ["--dataset_name", "demo"])) if recipe.demo else []
    for name, value in settings.items():
        argv += _words(name, value, str(known[name].type))
    return argv


def _words(name: str, value: Any, kind: str) -> list[str]:
    """A setting as words of a command line."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}", str(value).lower()]
    if isinstance(value, dict):
        pairs = [f"{key}={one}" for key, one in value.items()]
        return [f"--{name}", *(pairs if kind.startswith("list") else [json.dumps(value)])]
    return [f"--{name}", *map(str, value if isinstance(value, list) else [value])]


def _parse(recipe: Recipe, stage: Stage, model: str) -> tuple:
    """The dataclasses of a stage; what is wrong with its values ends the program, with the stage's name."""
    from audiorl.flags import parse

    try:
        return parse(_kinds()[stage.method], (), _argv(recipe, stage, model))
    except SystemExit:
        print(f"This is in {stage.place} of {recipe.source}.", file=sys.stderr)
        raise


# ---- what is known of stages that ended ----


def _ended_before(recipe: Recipe) -> list[Ended]:
    path = os.path.join(recipe.output_dir, RECIPE_FILE)
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8") as file:
        known = [Ended(**one) for one in json.load(file)["ended"]]
    remedy = f"Use another --output_dir, or remove {recipe.output_dir} to begin anew."
    if len(known) > len(recipe.stages):
        raise RecipeError(f"{path} lists {len(known)} finished stages, and {recipe.source} has fewer stages. {remedy}")
    for one, stage in zip(known, recipe.stages, strict=False):
        then = {"method": one.method, "folder": one.folder, **one.settings}
        now = {"method": stage.method, "folder": stage.folder, **json.loads(json.dumps(dict(stage.settings)))}
        if changed := [name for name in {**then, **now} if then.get(name) != now.get(name)]:
            raise RecipeError(
                f"{stage.place} of {recipe.source} finished with {changed[0]} = {then.get(changed[0])!r}, and now "
                f"asks for {now.get(changed[0])!r}. {remedy}"
            )
    if known and known[0].model != recipe.model:
        raise RecipeError(
            f"{path} belongs to a recipe that started from {known[0].model}, not {recipe.model}. {remedy}"
        )
    return known


def _write_state(recipe: Recipe, ended: Sequence[Ended]) -> None:
    from audiorl.files import whole_file

    os.makedirs(recipe.output_dir, exist_ok=True)
    with whole_file(os.path.join(recipe.output_dir, RECIPE_FILE), encoding="utf-8") as file:
        json.dump({"ended": [asdict(one) for one in ended]}, file, indent=1, ensure_ascii=False)
        file.write("\n")


def _is_stopped(recipe: Recipe, ended: Sequence[Ended]) -> bool:
    return recipe.on_worse == "stop" and any(_is_worse(one) for one in ended)


def _is_worse(one: Ended) -> bool:
    return one.before is not None and one.after is not None and one.after > one.before


def _best(ended: Sequence[Ended]) -> Ended | None:
    """The stage whose model is handed on; None where none was kept."""
    kept = [one for one in ended if one.method != PAIRS and one.kept]
    return kept[-1] if kept else None


# ---- the end ----


def _finish(recipe: Recipe, ended: Sequence[Ended]) -> None:
    """Put the best model and one report of all stages into the recipe's folder."""
    from audiorl.trainers.hub import copy_files, model_files

    best = _best(ended)
    if best is not None:
        target = os.path.join(recipe.output_dir, BEST_FOLDER)
        shutil.rmtree(target, ignore_errors=True)
        copy_files(best.folder, model_files(best.folder, os.listdir(best.folder)), target)
    tuned = [one for one in ended if one.method != PAIRS]
    if not tuned:
        return
    _join_logs(recipe, tuned)
    _join_reports(recipe, tuned)
    if tuned[0].before is not None:
        _compare(recipe, tuned[0], best or tuned[0])

    from audiorl.report import write_report

    write_report(recipe.output_dir)


def _join_logs(recipe: Recipe, tuned: Sequence[Ended]) -> None:
    """One metrics.jsonl: the steps of a stage come after those of the one before, its WER stands at its last step."""
    from audiorl.files import METRICS_FILE, json_lines, strict_json, whole_file

    lines: list[dict[str, Any]] = []
    if tuned[0].before is not None:
        lines.append({"step": 0, STAGE_WER: tuned[0].before})
    offset = 0
    for one in tuned:
        records = json_lines(Path(one.folder) / METRICS_FILE)
        lines += [{**record, "step": record["step"] + offset, "stage": one.name} for record in records]
        offset += max((record["step"] for record in records), default=0)
        if one.after is not None:
            lines.append({"step": offset, "stage": one.name, STAGE_WER: one.after})
    with whole_file(os.path.join(recipe.output_dir, METRICS_FILE), encoding="utf-8") as file:
        file.writelines(f"{strict_json(line)}\n" for line in lines)


def _join_reports(recipe: Recipe, tuned: Sequence[Ended]) -> None:
    """What each stage came to; the pairs, groups and kept clips of the last stage that has some."""
    from audiorl.files import GROUPS_FILE, LEFT_FOLDER, PAIRS_FILE, RUN_FILE
    from audiorl.report.run_folder import leave_facts

    target = Path(recipe.output_dir) / LEFT_FOLDER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for one in tuned:
        left = Path(one.folder) / LEFT_FOLDER
        for name in (PAIRS_FILE, GROUPS_FILE):
            if (left / name).is_file():
                shutil.copyfile(left / name, target / name)
        for clip in left.glob("audio/*"):
            (target / "audio").mkdir(exist_ok=True)
            shutil.copyfile(clip, target / "audio" / clip.name)
    known = json.loads((Path(tuned[0].folder) / LEFT_FOLDER / RUN_FILE).read_text(encoding="utf-8"))
    shown = ("model", "training_rows", "wer_normaliser")
    facts = {"trainer": f"the recipe {recipe.source}", **{name: known[name] for name in shown if name in known}}
    leave_facts(recipe.output_dir, {**facts, **{one.name: _came_to(one) for one in tuned}})


def _came_to(one: Ended) -> str:
    if one.before is None or one.after is None:
        return "not measured"
    higher = ", higher" + ("" if one.kept else " and not kept") if _is_worse(one) else ""
    return f"WER {one.before:.1%} to {one.after:.1%}{higher}"


def _compare(recipe: Recipe, first: Ended, last: Ended) -> None:
    """evaluation.json of the model at the start and of the last one kept, from what their stages counted."""
    import numpy as np

    from audiorl.evaluation import Comparison, Errors, paired_bootstrap, read_document
    from audiorl.evaluation.document import write_document
    from audiorl.files import EVALUATION_FILE

    begun, ended = (read_document(Path(one.folder) / EVALUATION_FILE) for one in (first, last))
    measured, settings = [begun["measurements"][0], ended["measurements"][1]], begun["settings"]
    kinds = ("substitutions", "deletions", "insertions", "hits")
    before, after = (
        Errors(
            **{kind: np.array([clip[kind] for clip in one["clips"]]) for kind in kinds},
            unit=one["summary"]["unit"],
            normaliser=settings["normaliser"],
            transcripts_digest="",
        )
        for one in measured
    )
    tested = paired_bootstrap(before, after, resamples=settings["resamples"], seed=settings["seed"])
    compared = {
        "dataset": measured[0]["dataset"],
        "before_model": measured[0]["model"],
        "after_model": measured[1]["model"],
        "before": 0,
        "after": 1,
        **Comparison(before, after, tested, [clip["id"] for clip in measured[0]["clips"]]).to_dict(),
    }
    found = {**begun, "measurements": measured, "comparisons": [compared]}
    write_document(found, os.path.join(recipe.output_dir, EVALUATION_FILE))


def table(ended: Sequence[Ended]) -> str:
    """How the stages ended, as lines of text for a terminal."""
    lines = [f"{'stage':<20}{'WER before':>12}{'after':>9}{'minutes':>9}"]
    for one in ended:
        rates = ["-" if rate is None else f"{rate:.1%}" for rate in (one.before, one.after)]
        kept = "" if one.kept else "  higher, not kept"
        lines.append(f"{one.name:<20}{rates[0]:>12}{rates[1]:>9}{one.seconds / 60:>9.1f}{kept}")
    return "\n".join(lines)


def closing(recipe: Recipe, ended: Sequence[Ended]) -> Closing:
    """How the stages ended, which model is the best, and what to do next with it."""
    from audiorl.report.page import REPORT_FILE
    from audiorl.terminal import FAINT
    from audiorl.trainers.logs import Closing, next_in_words

    look = f"{os.path.join(recipe.output_dir, REPORT_FILE)}, the report of all stages"
    lines = [(line, "") for line in table(ended).split("\n")]
    if _is_stopped(recipe, ended) and len(ended) < len(recipe.stages):
        left = len(recipe.stages) - len(ended)
        lines.append((f"Stopped, as on_worse says: {left} of the stages were not started.", ""))
    if (best := _best(ended)) is None:
        lines.append((f"No stage made it better: the model to use is still {recipe.model}.", ""))
        is_reported = any(one.method != PAIRS for one in ended)
        return Closing(lines + [(line, FAINT) for line in ("Next:", f"  look    {look}") if is_reported])
    folder = os.path.join(recipe.output_dir, BEST_FOLDER)
    lines.append((f"The best model lies in {folder}, from {best.folder}", ""))
    base = recipe.model if best.after is None else None
    return Closing(lines + [(line, FAINT) for line in next_in_words(folder, look, base=base)])
