"""What a cycle of RAFT says of itself: its metrics, and what went wrong where it kept nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from audiorl.trainers.raft_config import RAFTConfig
from audiorl.trainers.rollout_metrics import StepRollouts, measured, summary


def cycle_metrics(
    cycle: int, chosen: Tensor, step: StepRollouts, names: Sequence[str], passes: float
) -> dict[str, float]:
    """What is logged at the beginning of a cycle.

    Args:
        cycle: counted from 0; logged from 1.
        chosen: (N, K) bool, what is kept, not nothing.
        step: the numbers of the cycle's N clips.
        names: of the rewards.
        passes: how often the optimizer steps go over what they learn from.
    """
    (name, total, count), (_, kept, of) = measured(step), measured(step, chosen)
    found = {
        **summary(step, names),
        name: total / count.clamp(min=1),
        "raft/kept_reward": step.rewards[chosen].mean(),
        f"raft/kept_{name}": kept / of.clamp(min=1),
    }
    return {
        "raft/cycle": cycle + 1,
        "raft/generated": chosen.numel(),
        "raft/kept": int(chosen.sum()),
        "raft/kept_clips": int(chosen.any(-1).sum()),
        "raft/passes": passes,
        **{name: value.item() for name, value in found.items()},
    }


def nothing_kept(args: RAFTConfig, cycle: int, step: StepRollouts, global_step: int) -> str:
    """The message of a run that stops because a cycle kept nothing."""
    scored = step.rewards[~step.rewards.isnan()]
    best = f"the best reward is {scored.max().item():.4g}" if len(scored) else "no reward scored any of them"
    return (
        f"Cycle {cycle + 1} of {args.num_cycles} kept none of {step.rewards.numel()} hypotheses: {best}, "
        f"reward_threshold is {args.reward_threshold}, and {int(step.truncated.sum())} were cut at "
        f"max_completion_length={args.max_completion_length}. The weights are those of step {global_step}, and "
        f"checkpoints in {args.output_dir} are intact. Lower reward_threshold, raise samples_per_prompt or "
        "max_completion_length, or use a reward that scores these rows."
    )
