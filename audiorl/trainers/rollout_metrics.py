"""What is logged about an optimizer step's rollouts: numbers over all processes, and completions to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from audiorl.files import strict_json
from audiorl.losses import zero_variance
from audiorl.models import SpeechFamily
from audiorl.terminal import wrapped
from audiorl.text.tasks import TRANSCRIPTION, Task
from audiorl.trainers.distributed import gathered_rows
from audiorl.trainers.media import log_completions
from audiorl.trainers.metrics import Metrics
from audiorl.trainers.report_files import group_records
from audiorl.trainers.rollouts import Rollout

if TYPE_CHECKING:
    from audiorl.trainers.rollout_trainer import SamplingConfig

COMPLETIONS_FOLDER = "completions"


class StepRollouts(NamedTuple):
    """Numbers of all N clips of an optimizer step, over micro-batches and processes; float64 on the CPU."""

    rewards: Tensor  # (N, K); NaN where no reward scored a hypothesis, and for placeholders
    parts: Tensor  # (N, K, R) each reward by itself; NaN where it abstained
    lengths: Tensor  # (N, K) sampled tokens, end token included
    truncated: Tensor  # (N, K) bool, cut by the length limit
    errors: Tensor  # (N, K) word errors, NaN where there is no transcript; for labels 1 where the label is wrong
    words: Tensor  # (N, K) words of the transcript, NaN likewise; 1 for a label
    valid: Tensor  # (N,) bool, no placeholder
    resampled: Tensor  # (N,) bool
    own: slice  # the clips of this process
    task: Task = TRANSCRIPTION  # what errors and words count

    @property
    def has_transcripts(self) -> bool:
        """Whether any clip has one."""
        return not bool(self.words[self.valid].isnan().all())


def gather_step(
    rollouts: Sequence[Rollout], family: SpeechFamily, accelerator: Accelerator, normalise: str | Callable[[str], str]
) -> StepRollouts:
    """Gather the numbers of all micro-batches and processes; a collective call."""
    table = torch.cat([numbers(rollout, family, normalise) for rollout in rollouts])
    return gather_numbers(table, accelerator, family.task)


def gather_numbers(table: Tensor, accelerator: Accelerator, task: Task) -> StepRollouts:
    """Gather what the processes know of their clips, each (n, K, 7 + R) from `numbers`; a collective call."""
    everywhere, start = gathered_rows(table, accelerator)
    lengths, truncated, errors, words, valid, resampled, rewards = everywhere[..., :7].unbind(-1)
    return StepRollouts(
        rewards,
        everywhere[..., 7:],
        lengths,
        truncated.bool(),
        errors,
        words,
        valid[:, 0].bool(),
        resampled[:, 0].bool(),
        slice(start, start + len(table)),
        task,
    )


def numbers(rollout: Rollout, family: SpeechFamily, normalise: str | Callable[[str], str]) -> Tensor:
    """What `StepRollouts` says of the clips of one rollout, (B, K, 7 + R) float64."""
    written = [row.get("text") for row in rollout.batch.rows]
    transcripts = [None if text is None else family.words(text) for text in written]
    errors, words = sampled_errors(rollout, transcripts, family.task, normalise).unbind(-1)
    keep, finished = rollout.samples.keep.cpu(), rollout.samples.finished.cpu()
    valid = rollout.batch.valid.cpu()[:, None].expand_as(finished)
    columns = [keep.sum(-1), ~finished, errors, words, valid, rollout.resampled[:, None].expand_as(finished)]
    table = torch.stack([*(column.double() for column in columns), rollout.rewards], -1)
    return torch.cat([table, rollout.parts], -1)


def sampled_errors(
    rollout: Rollout, transcripts: Sequence[str | None], task: Task, normalise: str | Callable[[str], str]
) -> Tensor:
    """(B, K, 2) errors and words of each hypothesis, counted clip by clip; zero for placeholders, NaN for clips without
    a transcript."""
    counts = torch.zeros(*rollout.rewards.shape, 2, dtype=torch.float64)
    for b in rollout.batch.valid.nonzero().flatten().tolist():
        texts, transcript = rollout.texts[b], transcripts[b]
        if transcript is None:
            counts[b] = torch.nan
            continue
        errors = task.count([transcript] * len(texts), texts, normalise)
        counts[b] = torch.from_numpy(np.stack([errors.errors, errors.words], -1))
    return counts


def log_step(metrics: Metrics, step: StepRollouts, names: Sequence[str], *, resampling: bool) -> None:
    """Log TRL's metrics of a step's rollouts, and the word error rate or, for labels, the accuracy.

    Every process logs the same numbers, so that their mean is each of them.

    Args:
        names: of the R rewards.
        resampling: whether flat groups are sampled again, so that the share of those is worth a line.
    """
    if not step.valid.any():
        return
    device = metrics.accelerator.device
    found = summary(step, names)
    if resampling:
        found["frac_groups_resampled"] = step.resampled[step.valid].double().mean()
    for name, value in found.items():
        metrics.add_ratio("train", name, value.to(device), _one(metrics))
    if step.has_transcripts:
        name, total, count = measured(step)
        metrics.add_ratio("train", name, total.to(device), count.to(device))


def log_engine(metrics: Metrics, rollouts: Sequence[Rollout]) -> None:
    """How far the log-probabilities of an engine beside the library are from the policy's, as TRL's `sampling/*`.

    The importance ratios are those of whole hypotheses, as they are before anything is truncated or masked.
    """
    for rollout in rollouts:
        theirs, keep = rollout.samples.engine_logps, rollout.samples.keep
        if theirs is None:
            continue
        difference = torch.where(keep, rollout.samples.logps - theirs, 0.0)
        metrics.add("train", "sampling/sampling_logp_difference/mean", difference.abs(), keep)
        ratio = difference.double().sum(-1).exp()
        metrics.add("train", "sampling/importance_sampling_ratio/mean", ratio, keep.any(-1))


class RewardFigures:
    """Logs what rewards tell beside their values, requests and cost for example: sums over processes for each rollout.

    Args:
        trainer: a `RewardedTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.before = trainer.rewards.figures()

    def log(self) -> None:
        """Add what came since the last call; every process calls."""
        now = self.trainer.rewards.figures()
        device = self.trainer.args.device
        for name, value in now.items():
            new = torch.tensor(value - self.before[name], dtype=torch.float64, device=device)
            # one count for all processes, so that the mean over them is their sum
            first = torch.tensor(float(self.trainer.args.process_index == 0), device=device)
            self.trainer.metrics.add_ratio("train", name, new, first)
        self.before = now


def measured(step: StepRollouts, of: Tensor | None = None) -> tuple[str, Tensor, Tensor]:
    """Numerator and denominator of "wer" or, for labels, of "accuracy".

    Args:
        of: (N, K) bool, the hypotheses that are looked at; None for all. Clips without a transcript do not count.
    """
    errors, words = (values.nansum() if of is None else values[of].nansum() for values in (step.errors, step.words))
    return step.task.metric, *step.task.parts(errors, words)


def summary(step: StepRollouts, names: Sequence[str]) -> dict[str, Tensor]:
    """TRL's metrics of rollouts of at least one clip, scalars; without those that no reward gave a value for.

    Args:
        names: of the R rewards.
    """
    rewards, lengths = step.rewards[step.valid], step.lengths[step.valid]
    scored = rewards[~rewards.isnan().all(-1)]
    found = {
        "reward": rewards.nanmean(),
        "reward_std": _deviation(rewards),
        "frac_reward_zero_std": zero_variance(scored, ~scored.isnan()).double().mean(),
    }
    for name, part in zip(names, step.parts[step.valid].unbind(-1), strict=True):
        found[f"rewards/{name}/mean"] = part.nanmean()
        found[f"rewards/{name}/std"] = _deviation(part)
    found["completions/mean_length"] = lengths.mean()
    found["completions/min_length"] = lengths.min()
    found["completions/max_length"] = lengths.max()
    found["completions/clipped_ratio"] = step.truncated[step.valid].double().mean()
    return {name: value for name, value in found.items() if not value.isnan()}


def _one(metrics: Metrics) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=metrics.accelerator.device)


def _deviation(values: Tensor) -> Tensor:
    """Standard deviation with n - 1 in the divisor; 0 for a single value, NaN for none."""
    known = values[~values.isnan()]
    return known.std() if len(known) > 1 else known.sum() * (0.0 if len(known) else torch.nan)


# ---- the table of completions ----


def completion_records(rollouts: Sequence[Rollout], names: Sequence[str]) -> list[dict[str, Any]]:
    """One record for each clip: its place, its transcript, its best and worst hypothesis with all rewards."""
    records = []
    for rollout in rollouts:
        for b in rollout.batch.valid.nonzero().flatten().tolist():
            row, rewards = rollout.batch.rows[b], rollout.rewards[b]
            if rewards.isnan().all():
                continue
            best = int(rewards.nan_to_num(nan=-torch.inf).argmax())
            worst = int(rewards.nan_to_num(nan=torch.inf).argmin())
            records.append(
                {"where": row["where"], "transcript": row.get("text")}
                | {"best": _hypothesis(rollout, b, best, names), "worst": _hypothesis(rollout, b, worst, names)}
            )
    return records


def _hypothesis(rollout: Rollout, clip: int, k: int, names: Sequence[str]) -> dict[str, Any]:
    parts = rollout.parts[clip, k].tolist()
    each = {name: None if part != part else part for name, part in zip(names, parts, strict=True)}
    return {"text": rollout.texts[clip][k], "reward": rollout.rewards[clip, k].item(), "rewards": each}


def show_completions(records: Sequence[dict[str, Any]], step: int, args: SamplingConfig) -> Sequence[dict[str, Any]]:
    """Print and write the records of all processes, once; a collective call where there are several processes.

    Returns:
        What was written; nothing in the other processes.
    """
    everywhere = gather_object(list(records)) if args.world_size > 1 else records
    shown = everywhere[: args.num_completions_to_print]
    if not shown or args.process_index:
        return ()
    if not args.quiet:
        tqdm.write(wrapped(completion_table(shown, step)))  # above the bar
    write_completions(shown, step, args.output_dir)
    return shown


def completion_table(records: Sequence[dict[str, Any]], step: int) -> str:
    """The records as lines of text for a terminal."""
    lines = [f"Completions of step {step}"]
    for record in records:
        lines.append(f"  {record['where']}")
        lines.append(f"    {'transcript':<24}{record['transcript'] or '-'}")
        for name in ("best", "worst"):
            hypothesis = record[name]
            lines.append(f"    {name:<6}{hypothesis['reward']:>10.3f}{'':<8}{hypothesis['text']}")
    return "\n".join(lines)


def write_completions(records: Sequence[dict[str, Any]], step: int, output_dir: str) -> Path:
    """Write one file for each step, `completions/step_00010.jsonl`, so that a resumed run writes none of them twice."""
    folder = Path(output_dir) / COMPLETIONS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:05d}.jsonl"
    lines = [strict_json({"step": step, **record}, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# For the report, of process 0: a run of a thousand logs leaves some thousand groups, one of six cycles 300.
GROUPS_A_LOG = 4
GROUPS_A_CYCLE = 50


class SampledTexts:
    """The completions of `log_completions` and some groups for the report.

    Args:
        trainer: a `RewardedTrainer`.
        most_groups: that are kept until they are told.
    """

    def __init__(self, trainer: Any, most_groups: int = GROUPS_A_LOG):
        self.trainer = trainer
        self.most_groups = most_groups
        self.start()

    def start(self) -> None:
        """Discard what was collected and not yet shown."""
        self.completions: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []

    def add(self, rollouts: Sequence[Rollout]) -> None:
        names = self.trainer.rewards.names
        if self.trainer.args.log_completions:
            self.completions += completion_records(rollouts, names)
        self.groups += group_records(rollouts, names, self.most_groups - len(self.groups))

    def mark_kept(self, row_ids: Tensor, kept: Tensor) -> None:
        """Mark the hypotheses that are learnt from, if not all are.

        Args:
            row_ids, kept: (N,) and (N, K) bool of all clips.
        """
        of_row = dict(zip(row_ids.tolist(), kept.tolist(), strict=True))
        for group in self.groups:
            for hypothesis, is_kept in zip(group["hypotheses"], of_row[group["row"]["row_id"]], strict=True):
                hypothesis["kept"] = is_kept

    def tell(self, learnt_at: int) -> None:
        """Show, log and save what was collected, once; a collective call if there are several processes.

        Args:
            learnt_at: the optimizer step that learns from the groups, the first one where several do.
        """
        trainer = self.trainer
        if trainer.args.log_completions:
            log_completions(trainer, show_completions(self.completions, trainer.state.global_step, trainer.args))
        trainer.run_report.keep_groups(self.groups, learnt_at)
        self.start()
