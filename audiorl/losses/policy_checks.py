"""Checks of a policy objective's settings, run when it is built, and of the batches it is handed."""

from __future__ import annotations

from collections.abc import Collection

from audiorl.losses.policy_batch import PolicyBatch
from audiorl.losses.policy_losses import POLICY_LOSSES
from audiorl.losses.settings import LossSettingError, finite_number, known_name, number_not_below, positive_number

IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence")

# Why an objective reads a tensor that `PolicyBatch` may lack, and where it comes from.
REMEDIES = {
    "ref_logps": "beta > 0 pulls towards the frozen policy. Score the batch with it, or set beta=0.",
    "entropy": "entropy_coef > 0 rewards entropy. Hand over that of the scores, with its graph, or set entropy_coef=0.",
    "copies": "mwer counts a repeated hypothesis once. Pass count_copies(tokens, keep).",
}


def checked_level(level: str, loss_type: str, kl_reads_it: bool) -> str:
    """The level at which ratios are taken: "token" or "sequence".

    Raises:
        LossSettingError: no such level, or nothing would read it.
    """
    known_name("importance_sampling_level", level, IMPORTANCE_SAMPLING_LEVELS)
    method = POLICY_LOSSES[loss_type]
    if level == "sequence" and not method.uses_ratio and not kl_reads_it:
        raise LossSettingError(
            f"importance_sampling_level='sequence' would change nothing: {loss_type} uses no ratio. Set it to 'token'."
        )
    return method.level or level


def checked_switch(name: str, value: object) -> bool:
    """`value`; raises `LossSettingError` unless it is True or False."""
    if not isinstance(value, bool):
        raise LossSettingError(f"{name} is True or False; got {value!r}. Set {name} to one of the two.")
    return value


def check_length(max_completion_length: int | None, loss_type: str) -> None:
    """Raises `LossSettingError` unless `max_completion_length` is a number of tokens, or None where it is not read."""
    if max_completion_length is not None:
        number_not_below("max_completion_length", max_completion_length, 1)
    elif POLICY_LOSSES[loss_type].reduction == "budget":
        raise LossSettingError(
            f"{loss_type} divides by max_completion_length; got None. Set it to the length in tokens at which sampling "
            "stops."
        )


def checked_clipping(
    loss_type: str, epsilon: float, epsilon_high: float | None, delta: float | None
) -> dict[str, float | None]:
    """The bounds of the ratio that the loss reads, by name.

    Raises:
        LossSettingError: one of them is out of its range, or set although the loss does not read it.
    """
    reads = POLICY_LOSSES[loss_type].settings
    low = positive_number("epsilon", epsilon)
    _refuse_unread(loss_type, {"epsilon_high": epsilon_high, "delta": delta})
    if "epsilon" not in reads:
        return {"epsilon_high": _checked_cap(loss_type, epsilon_high)} if "epsilon_high" in reads else {}
    high = low if epsilon_high is None else positive_number("epsilon_high", epsilon_high)
    upper = None if delta is None else finite_number("delta", delta)
    if upper is not None and upper <= 1 + high:
        raise LossSettingError(
            f"delta bounds ratios beyond the clip, so delta > 1 + epsilon_high = {1 + high:g}; got {delta!r}. 4 is "
            "usual, None switches it off."
        )
    return {"epsilon": low, "epsilon_high": high, "delta": upper}


def _refuse_unread(loss_type: str, settings: dict[str, float | None]) -> None:
    for name, value in settings.items():
        if value is not None and name not in POLICY_LOSSES[loss_type].settings:
            readers = [other for other, method in POLICY_LOSSES.items() if name in method.settings]
            raise LossSettingError(
                f"{name}={value!r} would change nothing: {loss_type} does not read it. Leave it out, or choose a loss "
                f"that does: {', '.join(readers)}."
            )


def _checked_cap(loss_type: str, epsilon_high: float | None) -> float:
    if epsilon_high is None:
        raise LossSettingError(
            f"{loss_type} caps the ratio at epsilon_high itself and reads no epsilon; got None. Set epsilon_high=5.0, "
            "as ScaleRL does."
        )
    return number_not_below("epsilon_high", epsilon_high, 1)


def check_batch(batch: PolicyBatch, reads: Collection[str]) -> None:
    """Whether a batch has what an objective reads, in shapes that belong together.

    Args:
        batch: what the objective is called with.
        reads: names of the optional tensors that it reads, of `REMEDIES`.

    Raises:
        ValueError: a tensor is missing, lacks its graph, or has another shape.
    """
    for name in reads:
        if getattr(batch, name) is None:
            raise ValueError(f"PolicyBatch.{name} is None, but the objective reads it: {REMEDIES[name]}")
    if "entropy" in reads and batch.entropy is not None and batch.logps.requires_grad > batch.entropy.requires_grad:
        raise ValueError(
            "PolicyBatch.entropy has no graph, so entropy_coef would change no weight. Score with a head whose "
            "entropy is differentiable, or set entropy_coef=0."
        )
    shape = batch.keep.shape
    wanted = {name: shape for name in ("logps", "old_logps", *reads)} | {"advantages": shape[:2]}
    wanted |= {"copies": shape[:2]} if "copies" in reads else {}
    wrong = {name: tuple(getattr(batch, name).shape) for name in wanted if getattr(batch, name).shape != wanted[name]}
    if wrong:
        raise ValueError(
            f"keep is {tuple(shape)}, so token tensors have that shape, advantages and copies {tuple(shape[:2])}; got "
            f"{wrong}. Lay all of them out as (B clips, K hypotheses, T tokens)."
        )
