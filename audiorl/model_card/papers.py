"""The papers behind trainers, losses, options and adapters.

A new trainer is one row of `METHODS`, a new loss one of `LOSS_PAPERS`; a paper that is new with it one of `PAPERS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Paper(NamedTuple):
    """A paper on arXiv."""

    key: str  # of its BibTeX entry
    authors: str  # as BibTeX has them
    title: str
    year: int
    arxiv: str

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"

    @property
    def bibtex(self) -> str:
        fields = {
            "title": f"{{{self.title}}}",
            "author": self.authors,
            "year": str(self.year),
            "eprint": self.arxiv,
            "archivePrefix": "arXiv",
            "url": self.url,
        }
        width = max(map(len, fields))
        lines = [f"  {name:<{width}} = {{{value}}}," for name, value in fields.items()]
        return "\n".join([f"@article{{{self.key},", *lines, "}"])


# Longer lists of authors end in "and others", which BibTeX prints as et al.
_ROWS = (
    Paper(
        "rafailov2023direct",
        "Rafailov, Rafael and Sharma, Archit and Mitchell, Eric and Manning, Christopher D. and Ermon, Stefano and "
        "Finn, Chelsea",
        "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
        2023,
        "2305.18290",
    ),
    Paper(
        "hong2024orpo",
        "Hong, Jiwoo and Lee, Noah and Thorne, James",
        "ORPO: Monolithic Preference Optimization without Reference Model",
        2024,
        "2403.07691",
    ),
    Paper(
        "ethayarajh2024kto",
        "Ethayarajh, Kawin and Xu, Winnie and Muennighoff, Niklas and Jurafsky, Dan and Kiela, Douwe",
        "KTO: Model Alignment as Prospect Theoretic Optimization",
        2024,
        "2402.01306",
    ),
    Paper(
        "agarwal2024policy",
        "Agarwal, Rishabh and Vieillard, Nino and Zhou, Yongchao and Stanczyk, Piotr and Ramos, Sabela and others",
        "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
        2024,
        "2306.13649",
    ),
    Paper(
        "shao2024deepseekmath",
        "Shao, Zhihong and Wang, Peiyi and Zhu, Qihao and Xu, Runxin and Song, Junxiao and others",
        "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        2024,
        "2402.03300",
    ),
    Paper(
        "dong2023raft",
        "Dong, Hanze and Xiong, Wei and Goyal, Deepanshu and Zhang, Yihan and Chow, Winnie and others",
        "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment",
        2023,
        "2304.06767",
    ),
    Paper(
        "guo2024direct",
        "Guo, Shangmin and Zhang, Biao and Liu, Tianlin and Liu, Tianqi and Khalman, Misha and others",
        "Direct Language Model Alignment from Online AI Feedback",
        2024,
        "2402.04792",
    ),
    Paper(
        "zhao2023slic",
        "Zhao, Yao and Joshi, Rishabh and Liu, Tianqi and Khalman, Misha and Saleh, Mohammad and Liu, Peter J.",
        "SLiC-HF: Sequence Likelihood Calibration with Human Feedback",
        2023,
        "2305.10425",
    ),
    Paper(
        "azar2023general",
        "Azar, Mohammad Gheshlaghi and Rowland, Mark and Piot, Bilal and Guo, Daniel and Calandriello, Daniele and "
        "Valko, Michal and Munos, R{\\'e}mi",
        "A General Theoretical Paradigm to Understand Learning from Human Preferences",
        2023,
        "2310.12036",
    ),
    Paper(
        "chowdhury2024provably",
        "Chowdhury, Sayak Ray and Kini, Anush and Natarajan, Nagarajan",
        "Provably Robust DPO: Aligning Language Models with Noisy Feedback",
        2024,
        "2403.00409",
    ),
    Paper(
        "ji2024towards",
        "Ji, Haozhe and Lu, Cheng and Niu, Yilin and Ke, Pei and Wang, Hongning and others",
        "Towards Efficient Exact Optimization of Language Model Alignment",
        2024,
        "2402.00856",
    ),
    Paper(
        "chen2024noise",
        "Chen, Huayu and He, Guande and Yuan, Lifan and Cui, Ganqu and Su, Hang and Zhu, Jun",
        "Noise Contrastive Alignment of Language Models with Explicit Rewards",
        2024,
        "2402.05369",
    ),
    Paper(
        "jung2024binary",
        "Jung, Seungjae and Han, Gunsoo and Nam, Daniel Wontae and On, Kyoung-Woon",
        "Binary Classifier Optimization for Large Language Model Alignment",
        2024,
        "2404.04656",
    ),
    Paper(
        "wu2024self",
        "Wu, Yue and Sun, Zhiqing and Yuan, Huizhuo and Ji, Kaixuan and Yang, Yiming and Gu, Quanquan",
        "Self-Play Preference Optimization for Language Model Alignment",
        2024,
        "2405.00675",
    ),
    Paper(
        "melnyk2024distributional",
        "Melnyk, Igor and Mroueh, Youssef and Belgodere, Brian and Rigotti, Mattia and Nitsure, Apoorva and others",
        "Distributional Preference Alignment of LLMs via Optimal Transport",
        2024,
        "2406.05882",
    ),
    Paper(
        "doosterlinck2024anchored",
        "D'Oosterlinck, Karel and Xu, Winnie and Develder, Chris and Demeester, Thomas and Singh, Amanpreet and others",
        "Anchored Preference Optimization and Contrastive Revisions: Addressing Underspecification in Alignment",
        2024,
        "2408.06266",
    ),
    Paper(
        "lu2024discovering",
        "Lu, Chris and Holt, Samuel and Fanconi, Claudio and Chan, Alex J. and Foerster, Jakob and others",
        "Discovering Preference Optimization Algorithms with and for Large Language Models",
        2024,
        "2406.08414",
    ),
    Paper(
        "lambert2024tulu",
        "Lambert, Nathan and others",
        "Tulu 3: Pushing Frontiers in Open Language Model Post-Training",
        2024,
        "2411.15124",
    ),
    Paper(
        "wang2024enhancing",
        "Wang, Weiyun and Chen, Zhe and Wang, Wenhai and others",
        "Enhancing the Reasoning Ability of Multimodal Large Language Models via Mixed Preference Optimization",
        2024,
        "2411.10442",
    ),
    Paper(
        "yu2025dapo",
        "Yu, Qiying and others",
        "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
        2025,
        "2503.14476",
    ),
    Paper(
        "liu2025understanding",
        "Liu, Zichen and Chen, Changyu and Li, Wenjun and Qi, Penghui and Pang, Tianyu and others",
        "Understanding R1-Zero-Like Training: A Critical Perspective",
        2025,
        "2503.20783",
    ),
    Paper(
        "zheng2025group",
        "Zheng, Chujie and others",
        "Group Sequence Policy Optimization",
        2025,
        "2507.18071",
    ),
    Paper(
        "minimax2025m1",
        "{MiniMax}",
        "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
        2025,
        "2506.13585",
    ),
    Paper(
        "prabhavalkar2018minimum",
        "Prabhavalkar, Rohit and Sainath, Tara N. and Wu, Yonghui and Nguyen, Patrick and Chen, Zhifeng and others",
        "Minimum Word Error Rate Training for Attention-based Sequence-to-Sequence Models",
        2018,
        "1712.01818",
    ),
    Paper(
        "liu2024length",
        "Liu, Wei and others",
        "Length Desensitization in Direct Preference Optimization",
        2024,
        "2409.06411",
    ),
    Paper(
        "wang2023beyond",
        "Wang, Chaoqi and Jiang, Yibo and Yang, Chenghao and Liu, Han and Chen, Yuxin",
        "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence Constraints",
        2023,
        "2309.16240",
    ),
    Paper(
        "gorbatovski2024learn",
        "Gorbatovski, Alexey and others",
        "Learn Your Reference Model for Real Good Alignment",
        2024,
        "2404.09656",
    ),
    Paper(
        "szegedy2016rethinking",
        "Szegedy, Christian and Vanhoucke, Vincent and Ioffe, Sergey and Shlens, Jonathon and Wojna, Zbigniew",
        "Rethinking the Inception Architecture for Computer Vision",
        2016,
        "1512.00567",
    ),
    Paper(
        "hu2021lora",
        "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and others",
        "LoRA: Low-Rank Adaptation of Large Language Models",
        2021,
        "2106.09685",
    ),
    Paper(
        "liu2024dora",
        "Liu, Shih-Yang and others",
        "DoRA: Weight-Decomposed Low-Rank Adaptation",
        2024,
        "2402.09353",
    ),
    Paper(
        "kalajdzievski2023rank",
        "Kalajdzievski, Damjan",
        "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
        2023,
        "2312.03732",
    ),
    Paper(
        "zhang2023adalora",
        "Zhang, Qingru and others",
        "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
        2023,
        "2303.10512",
    ),
)

PAPERS: dict[str, Paper] = {paper.key: paper for paper in _ROWS}


class Method(NamedTuple):
    """What a trainer does, for a person who reads of it the first time."""

    name: str
    tag: str  # on the Hub
    paper: str | None  # key of `papers.PAPERS`; None for a method older than its name
    learns_from: str


# Class of the trainer -> method; subclasses of a user's own are found by their base.
METHODS: dict[str, Method] = {
    "SFTTrainer": Method("supervised fine-tuning (SFT)", "sft", None, "transcripts"),
    "DPOTrainer": Method("direct preference optimisation (DPO)", "dpo", "rafailov2023direct", "pairs of transcripts"),
    "ORPOTrainer": Method("odds-ratio preference optimisation (ORPO)", "orpo", "hong2024orpo", "pairs of transcripts"),
    "KTOTrainer": Method(
        "Kahneman-Tversky optimisation (KTO)", "kto", "ethayarajh2024kto", "transcripts that were judged one by one"
    ),
    "DistillationTrainer": Method(
        "distillation (GKD)", "distillation", "agarwal2024policy", "the next-token distributions of a larger model"
    ),
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
    "kto": ("ethayarajh2024kto",),
    "apo_zero_unpaired": ("doosterlinck2024anchored",),
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
    "label_smoothing_factor": ("szegedy2016rethinking",),
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
    keys = [] if method is None or method.paper is None else [method.paper]
    for table, names in (
        (LOSS_PAPERS, losses),
        (OPTION_PAPERS, options),
        (ADAPTER_PAPERS, [adapter] if adapter else []),
    ):
        keys += [key for name in names for key in table.get(name, ())]
    return [PAPERS[key] for key in dict.fromkeys(keys)]
