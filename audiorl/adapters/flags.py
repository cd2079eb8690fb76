"""The flags that describe adapters, and models as far as speech models have other ones than TRL's."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from difflib import get_close_matches

from peft import AdaLoraConfig, PeftConfig
from trl import ModelConfig, get_peft_config

from audiorl.adapters.checks import DECODER_LINEAR

# Kinds of adapter that have flags; trainers take any PeftConfig that names the layers it changes.
PEFT_TYPES = ("lora", "adalora")
# AdaLoraConfig insists on a number of steps; with this one it waits for the trainer's.
TOLD_BY_TRAINER = 2**31 - 1


@dataclass
class SpeechModelConfig(ModelConfig):
    """TRL's model flags without those that mean nothing here, and what speech models and AdaLoRA need."""

    lora_dropout: float = field(
        default=0.0, metadata={"help": "Dropout of the adapter, 0 to below 1; above 0 needs --disable_dropout false."}
    )
    lora_task_type: str | None = field(
        default=None, metadata={"help": "Must stay unset: PEFT's task classes insist on text inputs."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Must stay unset: hypotheses are kept apart by an attention built on SDPA."}
    )
    peft_type: str = field(
        default="lora", metadata={"help": "With --use_peft: lora (see also --use_dora, --use_rslora) or adalora."}
    )
    lora_decoder_only: bool = field(
        default=False,
        metadata={"help": "Adapt the decoder only; the encoder then runs once for policy, reference and rollouts."},
    )
    adalora_init_r: int | None = field(
        default=None,
        metadata={"help": "AdaLoRA: rank at the start; default 1.5 times --lora_r, the average rank at the end."},
    )
    adalora_tinit: float = field(
        default=0.1, metadata={"help": "AdaLoRA: steps before ranks are cut; below 1, a share of all steps."}
    )
    adalora_tfinal: float = field(
        default=0.3, metadata={"help": "AdaLoRA: steps after the last cut; below 1, a share of all steps."}
    )
    adalora_delta_t: int = field(default=10, metadata={"help": "AdaLoRA: steps between two cuts, at least 1."})
    adalora_beta1: float = field(default=0.85, metadata={"help": "AdaLoRA: smoothing of the importance, 0 to 1."})
    adalora_beta2: float = field(default=0.85, metadata={"help": "AdaLoRA: smoothing of its uncertainty, 0 to 1."})
    adalora_orth_reg_weight: float = field(
        default=0.5, metadata={"help": "AdaLoRA: weight >= 0 of the term that keeps its factors orthogonal."}
    )
    audio_window_seconds: int | None = field(
        default=None,
        metadata={
            "help": "Let a Whisper hear at most this many seconds instead of 30, which costs less; longer clips are "
            "refused, and accuracy must be regained by tuning. Not with an adapter, whose base has to be saved first."
        },
    )
    merge_adapter: bool = field(
        default=False,
        metadata={"help": "After training, also write the base with the adapter merged in to <output_dir>-merged."},
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = self.peft_type.lower()
        if self.peft_type not in PEFT_TYPES:
            near = get_close_matches(self.peft_type, PEFT_TYPES, n=1)
            raise ValueError(
                f"--peft_type {self.peft_type} is unknown; known: {', '.join(PEFT_TYPES)}."
                + (f" Did you mean {near[0]}?" if near else " Pass other adapters as peft_config in Python.")
            )
        for name, reason in (
            ("attn_implementation", "hypotheses are kept apart by an attention built on SDPA"),
            ("lora_task_type", "PEFT's task classes insist on text inputs"),
        ):
            if getattr(self, name) is not None:
                raise ValueError(f"--{name} must stay unset: {reason}. Leave it out.")
        self._refuse_idle_flags()

    def _refuse_idle_flags(self) -> None:
        """A flag that would do nothing is a mistake."""
        given = {f.name for f in fields(self) if getattr(self, f.name) != f.default}
        adapter = {"peft_type", "use_dora", "use_rslora", "merge_adapter"}
        adapter |= {name for name in given if name.startswith(("lora_", "adalora_"))}
        if not self.use_peft and (idle := given & adapter):
            raise ValueError(f"{_flags(idle)} would do nothing without an adapter. Add --use_peft, or leave them out.")
        if self.peft_type == "adalora":
            if clash := given & {"use_dora", "use_rslora", "lora_target_parameters"}:
                raise ValueError(f"AdaLoRA has no {_flags(clash)}. Leave them out, or use --peft_type lora.")
        elif idle := {name for name in given if name.startswith("adalora_")}:
            raise ValueError(f"{_flags(idle)} belong to AdaLoRA. Add --peft_type adalora, or leave them out.")
        if self.lora_decoder_only and self.lora_target_modules is not None:
            raise ValueError(
                "--lora_decoder_only and --lora_target_modules both say where the adapter sits. Choose one."
            )
        four_bit = {name for name in given if "bnb_" in name}
        if four_bit and not self.load_in_4bit:
            raise ValueError(f"{_flags(four_bit)} would do nothing. Add --load_in_4bit, or leave them out.")
        if self.load_in_4bit and self.dtype == "auto":
            raise ValueError("4-bit layers compute in --dtype, so it cannot be auto. Name bfloat16 or float32.")


def _flags(names: set[str]) -> str:
    return ", ".join(f"--{name}" for name in sorted(names))


def adapter_config(flags: ModelConfig) -> PeftConfig | None:
    """The adapter that flags ask for; None without --use_peft. TRL's own flags give LoRA, DoRA or rsLoRA.

    AdaLoRA's `tinit` and `tfinal` may be shares of all steps here, and its `total_step` is told by the trainer.
    """
    if not flags.use_peft:
        return None
    ours = isinstance(flags, SpeechModelConfig)
    targets = DECODER_LINEAR if ours and flags.lora_decoder_only else flags.lora_target_modules
    if not ours or flags.peft_type == "lora":
        config = get_peft_config(flags)
        config.task_type = None
        config.target_modules = set(targets) if isinstance(targets, list) else targets
        return config
    return AdaLoraConfig(
        init_r=flags.adalora_init_r if flags.adalora_init_r is not None else -(-3 * flags.lora_r // 2),
        target_r=flags.lora_r,
        lora_alpha=flags.lora_alpha,
        lora_dropout=flags.lora_dropout,
        target_modules=targets,
        modules_to_save=flags.lora_modules_to_save,
        tinit=_steps_or_share(flags.adalora_tinit),
        tfinal=_steps_or_share(flags.adalora_tfinal),
        deltaT=flags.adalora_delta_t,
        beta1=flags.adalora_beta1,
        beta2=flags.adalora_beta2,
        orth_reg_weight=flags.adalora_orth_reg_weight,
        total_step=TOLD_BY_TRAINER,
    )


def _steps_or_share(value: float) -> float | int:
    return value if 0 < value < 1 else int(value)
