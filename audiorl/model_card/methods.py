"""Which papers a method, a loss, an option and an adapter come from.

A new trainer is one row of `METHODS`, a new loss one of `LOSS_PAPERS`; a paper that is new with it one of `papers.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from audiorl.model_card.papers import PAPERS, Paper


class Method(NamedTuple):
    """What a trainer does, for a person who reads of it the first time."""

    name: str
    tag: str  # on the Hub
    paper: str  # key of `papers.PAPERS`
    learns_from: str


# Class of the trainer -> method; subclasses of a user's own are found by their base.
METHODS: dict[str, Method] = {
    "DPOTrainer": Method("direct preference optimisation (DPO)", "dpo", "rafailov2023direct", "pairs of transcripts"),
    "ORPOTrainer": Method("odds-ratio preference optimisation (ORPO)", "orpo", "hong2024orpo", "pairs of transcripts"),
    "GRPOTrainer": Method(
        "group relative policy optimisation (GRPO)", "grpo", "shao2024deepseekmath", "rewards of sampled hypotheses"
    ),
    "RAFTTrainer": Method(
        "reward-ranked fine-tuning (RAFT)",
        "raft",
        "dong2023raft",
        "the sampled hypotheses that rewards rank highest",
    ),
    "OnlineDPOTrainer": Method(
        "online DPO", "online-dpo", "guo2024direct", "the best and the worst of sampled hypotheses"
    ),
}

# Names of PREFERENCE_LOSSES, LOSS_PRESETS and POLICY_LOSSES -> papers; none where a loss is older than its name.
LOSS_PAPERS: dict[str, tuple[str, ...]] = {
    "sigmoid": ("rafailov2023direct",),
    "hinge": ("zhao2023slic",),
    "ipo": ("azar2023general",),
    "robust": ("chowdhury2024provably",),
    "exo_pair": ("ji2024towards",),
    "nca_pair": ("chen2024noise",),
    "bco_pair": ("jung2024binary",),
    "sppo_hard": ("wu2024self",),
    "aot": ("melnyk2024distributional",),
    "aot_unpaired": ("melnyk2024distributional",),
    "apo_zero": ("doosterlinck2024anchored",),
    "apo_down": ("doosterlinck2024anchored",),
    "discopop": ("lu2024discovering",),
    "sigmoid_norm": ("lambert2024tulu",),
    "sft": (),
    "mpo": ("wang2024enhancing",),
    "grpo": ("shao2024deepseekmath",),
    "bnpo": (),
    "dapo": ("yu2025dapo",),
    "dr_grpo": ("liu2025understanding",),
    "gspo": ("zheng2025group",),
    "cispo": ("minimax2025m1",),
    "mwer": ("prabhavalkar2018minimum",),
}

# Fields of configs -> papers, read where a field differs from its default.
OPTION_PAPERS: dict[str, tuple[str, ...]] = {
    "ld_alpha": ("liu2024length",),
    "f_divergence_type": ("wang2023beyond",),
    "sync_ref_model": ("gorbatovski2024learn",),
}

# Kinds of adapter, as `adapter_kind` names them -> papers.
ADAPTER_PAPERS: dict[str, tuple[str, ...]] = {
    "LORA": ("hu2021lora",),
    "DORA": ("hu2021lora", "liu2024dora"),
    "RSLORA": ("hu2021lora", "kalajdzievski2023rank"),
    "ADALORA": ("zhang2023adalora",),
}


def method_of(trainer: type) -> Method | None:
    """The method of a trainer's class, or of the nearest base that has one."""
    return next((METHODS[base.__name__] for base in trainer.__mro__ if base.__name__ in METHODS), None)


def papers(
    method: Method | None, losses: Iterable[str], options: Iterable[str], adapter: str | None = None
) -> list[Paper]:
    """What a run builds on, the method's paper first, each paper once.

    Args:
        losses: names of losses; those of a user's own have no paper here.
        options: fields that differ from their defaults.
        adapter: a key of `ADAPTER_PAPERS`; others have none here.
    """
    keys = [] if method is None else [method.paper]
    for table, names in (
        (LOSS_PAPERS, losses),
        (OPTION_PAPERS, options),
        (ADAPTER_PAPERS, [adapter] if adapter else []),
    ):
        keys += [key for name in names for key in table.get(name, ())]
    return [PAPERS[key] for key in dict.fromkeys(keys)]
