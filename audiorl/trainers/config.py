"""The arguments that every trainer has besides `transformers.TrainingArguments`, and what a device can train with."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, get_args

import torch
from transformers import TrainingArguments
from transformers.integrations import integration_utils
from transformers.utils import is_in_notebook

from audiorl.adapters import require_bitsandbytes
from audiorl.audio.sources import is_number
from audiorl.augment import load_augmentation
from audiorl.datasets.checks import check_bounds
from audiorl.datasets.formats import column_names
from audiorl.elsewhere import AnswersWrongArguments
from audiorl.losses import CombinedObjective, PreferenceObjective
from audiorl.losses.settings import named_losses, number_not_below, read_loss_settings
from audiorl.models import SpeechFamily
from audiorl.models.encoder_cache import DTYPES
from audiorl.text.languages import check_language
from audiorl.text.normalizers import normalizer
from audiorl.trainers.distributed import check_joined, join_on_cpus

# Parts of the names of optimizers that bitsandbytes brings; names with "torch" are torch's and torchao's.
BITSANDBYTES_OPTIMIZERS = ("8bit", "bnb", "paged", "ademamix", "lion")
# Where leaving out "paged_" gives no name that transformers knows.
UNPAGED = {"paged_adamw_32bit": "adamw_torch", "paged_ademamix_32bit": "ademamix"}


def check_bf16(asked: bool | None, use_cpu: bool) -> None:
    """Refuse bf16 where it was asked for and the device lacks it.

    Raises:
        ValueError: with the flag.
    """
    if not asked or use_cpu:
        return
    if not torch.accelerator.is_available():
        raise ValueError(
            "bf16 (--bf16): there is no GPU here. Leave it out to train in float32, or add use_cpu (--use_cpu) to "
            "train in bfloat16 on the CPU."
        )
    if torch.cuda.is_available() and not _gpu_has_bf16():
        raise ValueError("bf16 (--bf16): this GPU has no bfloat16. Leave it out, or use fp16 (--fp16).")


def check_device(args: TrainingArguments) -> None:
    """Refuse what needs a GPU on a machine without one.

    Raises:
        ValueError: fp16, or a paged optimizer, on a CPU.
        ImportError: an optimizer of bitsandbytes where it is not installed.
    """
    on_cpu = args.device.type == "cpu"
    if args.fp16 and on_cpu:
        raise ValueError(
            "fp16 (--fp16) needs a GPU: a CPU has no fast half-precision arithmetic, and gradients would underflow. "
            "Use bf16 (with use_cpu=True), or neither."
        )
    name = str(getattr(args.optim, "value", args.optim))
    if "paged" in name and on_cpu:
        instead = UNPAGED.get(name, name.removeprefix("paged_"))
        raise ValueError(
            f"optim={name!r} moves its state between a GPU and main memory, and there is no GPU here; bitsandbytes "
            f"would quietly use another optimizer. Use {instead!r}, or a machine with a GPU."
        )
    if "torch" not in name and any(part in name for part in BITSANDBYTES_OPTIMIZERS):
        require_bitsandbytes(f"optim={name!r}")


OnBadRows = Literal["error", "skip"]
# What other libraries call the task "transcribe".
TRANSCRIBING = ("asr", "automatic-speech-recognition", "speech-recognition", "speech-to-text", "stt", "transcription")
# Keys under which keywords of `from_pretrained` hold access tokens.
TOKEN_KEYS = ("token", "use_auth_token", "hub_token")
# Loggers of transformers, by their names in report_to, that take more than numbers.
HOLD_AUDIO = ("tensorboard", "wandb", "trackio")


# `max_batch_seconds` that is found by trying.
AUTO = "auto"


def budget_of_seconds(given: Any) -> float | str:
    """`max_batch_seconds` as a number, or "auto".

    Raises:
        ValueError: neither.
    """
    if given == AUTO:
        return AUTO
    try:
        seconds = float(given) if isinstance(given, str) or is_number(given) else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(
            f"max_batch_seconds is the padded seconds of a batch, a finite number above 0, or {AUTO!r}; got {given!r}. "
            "Set it to several times the longest clip, or leave it out."
        )
    return seconds


def has_memory_limit(device: torch.device) -> bool:
    """Whether a batch that is too large raises `torch.OutOfMemoryError` there, and does no other harm."""
    return device.type == "cuda"


@dataclass
class SpeechConfig(TrainingArguments, metaclass=AnswersWrongArguments):
    """Arguments that all trainers share. Defaults that differ from `TrainingArguments` are the first fields."""

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]
    smooths_labels: ClassVar[bool] = False  # whether the loss reads label_smoothing_factor

    # Defaults of TrainingArguments that are not ours
    logging_steps: float = field(
        default=10, metadata={"help": "Optimizer steps between two logs; below 1, a share of all steps."}
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Mixed bfloat16 precision. Unset: on if the GPU has it and fp16 is off; off on a CPU.",
            "nargs": "?",
            "const": True,
        },
    )
    remove_unused_columns: bool = field(
        default=False,
        metadata={"help": "Must stay False: the collator reads columns that the model's forward does not take."},
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Must stay False: a loss that is not finite stops the run."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={
            "help": "Search each step for parameters without a gradient. Our losses reach every trained parameter."
        },
    )
    dataloader_pin_memory: bool | None = field(
        default=None,
        metadata={"help": "Pin batches in memory, for faster copies to the device. Unset: on if there is a GPU."},
    )

    # Model
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Keywords for `from_pretrained` if the model is given by name or path, as JSON. Weights are "
            "loaded in float32 unless you set `dtype`."
        },
    )
    freeze_encoder: bool = field(
        default=False,
        metadata={
            "help": "Train only the decoder. The encoder's output is then computed once for policy and reference."
        },
    )
    encoder_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the frozen encoder's states of all clips. They are computed once, before the first "
            "step, and read by every epoch, the frozen policy, rollouts and evaluation. Needs a frozen encoder; not "
            "with augmentation. Runs with the same encoder share the folder."
        },
    )
    encoder_cache_dtype: str | None = field(
        default=None,
        metadata={
            "help": "How states are kept: bfloat16, half the room and rounded; or model, exactly as the encoder "
            "returns them. Unset: bfloat16, if there is an encoder_cache.",
            "choices": list(DTYPES),
        },
    )
    disable_dropout: bool = field(
        default=True,
        metadata={
            "help": "Turn off dropout, layerdrop and the model's own SpecAugment, so that samples are scored as they "
            "were drawn."
        },
    )

    # Data
    # the parser of flags takes the first type where None is the second
    columns: list[str] | None | dict[str, str] | str = field(  # noqa: RUF036
        default=None,
        metadata={
            "help": "Columns of the rows that have other names than ours, as ours=theirs: --columns "
            "audio=audio_filepath text=sentence; in Python also a dict."
        },
    )
    language: str | None = field(
        default=None,
        metadata={"help": "For multilingual checkpoints: language of rows without a `language` of their own."},
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Task of rows without a `task`: transcribe; for Whisper also translate (into English); for Canary"
            " also translate and, for example, translate:de."
        },
    )
    min_audio_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Skip and count clips shorter than this; they are not errors. Seconds, >= 0, from the row's "
            "`duration` or else from the audio's header. Unset: no limit."
        },
    )
    max_audio_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Skip and count clips longer than this; they are not errors. Seconds, above 0. Unset: clips "
            "longer than the model's window are errors."
        },
    )
    allow_silence: bool = field(
        default=False,
        metadata={
            "help": "Accept rows with an empty text: nothing is said in the clip, and the model learns to write "
            "nothing. If off, an empty text is an error."
        },
    )
    on_bad_rows: str = field(
        default="error",
        metadata={
            "help": "What to do with rows that cannot be used. 'error' stops the run and lists them all. 'skip' "
            "trains on the others and writes skipped_rows.jsonl into output_dir.",
            "choices": list(get_args(OnBadRows)),
        },
    )
    augmentation: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Change training clips to make them harder; evaluation clips stay as they are. JSON, YAML or a "
            "file with either, described in audiorl.augment. Seeded by data_seed, or by seed if that is unset."
        },
    )

    # as with `columns`: flags are read as the first type
    max_batch_seconds: str | None | float = field(  # noqa: RUF036
        default=None,
        metadata={
            "help": "Most padded seconds in a training batch of each device, above 0: the number of clips times the "
            "longest of them. Clips of similar length go together. per_device_train_batch_size then only bounds the "
            "number of clips, so raise it. Seconds come from the row's `duration` or else from the audio's header. "
            "'auto' tries, on one GPU, how many of the longest clips fit its memory. Unset: "
            "per_device_train_batch_size clips."
        },
    )
    balance_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the training rows (speaker, accent, language) to balance: its values come equally "
            "often. Rows with rare values are repeated within an epoch; the epoch still has as many clips as there "
            "are rows."
        },
    )
    hotword_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Share of a training row's `hotwords` that is left out, 0 to 1, anew in each epoch, so that the "
            "model does not lean on them."
        },
    )
    hotword_distractors: int = field(
        default=0,
        metadata={
            "help": "Hot words of other training rows that are added to each row's own, >= 0, anew in each epoch, so "
            "that the model does not parrot the list. Words of the row's own text are never added."
        },
    )
    history_dropout: float = field(
        default=0.0,
        metadata={
            "help": "How often a training row's `history`, what was said before its clip, is left out, 0 to 1, anew in "
            "each epoch, so that the model does not lean on it."
        },
    )
    history_hypotheses: float = field(
        default=0.0,
        metadata={
            "help": "How often a training row is read behind `history_hypothesis`, the history as a model wrote it, "
            "instead of `history`, 0 to 1, anew in each epoch, so that the model gets used to its own errors. "
            "`audiorl history` makes both columns."
        },
    )

    # Resuming
    allow_changed_resume: bool = field(
        default=False,
        metadata={
            "help": "Resume even from the checkpoint of another run, with other rows, model, seed, batch, loss or "
            "settings. The differences are shown. If off, such a checkpoint is refused."
        },
    )

    # Evaluation
    eval_wer: bool = field(
        default=False,
        metadata={"help": "Decode the evaluation set with the generation config, and log eval_wer and eval_cer."},
    )
    wer_normaliser: str = field(
        default="basic",
        metadata={
            "help": "How transcripts and hypotheses are normalized before WER and CER: basic, english, lower or none."
        },
    )

    # Card and Hub
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "For the model card: the checkpoint from which the model came before this run, as a Hub id or a "
            "name. Needed if the model is a folder that does not name it."
        },
    )
    push_to_hub: bool = field(
        default=False,
        metadata={
            "help": "Push the tuned model with processor, generation config and card: when push_to_hub() is called "
            "(the scripts call it at the end), and after checkpoints as hub_strategy says. Needs a token: hf auth "
            "login."
        },
    )
    hub_merge_adapter: bool = field(
        default=False,
        metadata={"help": "Push a plain checkpoint, the base with the adapter merged in, instead of the adapter."},
    )

    # Logs; metrics.jsonl and metrics.csv are always written into output_dir
    quiet: bool = field(
        default=False,
        metadata={
            "help": "Show no progress and no log lines on the terminal. Results, warnings and errors are still shown."
        },
    )
    log_audio_every: int = field(
        default=0,
        metadata={
            "help": "Optimizer steps between two logs of samples: the first clips of the evaluation set (or of the "
            "training set) with audio, transcript and hypothesis, sent to tensorboard, wandb or trackio if report_to "
            "names one. 0: never."
        },
    )
    report_html: bool = field(
        default=False,
        metadata={
            "help": "Write report.html into output_dir at the end. Of clips that are not files, 15 MB are kept for "
            "it. `audiorl report` writes the page for any run; other runs keep 1.5 MB."
        },
    )

    def __post_init__(self):
        self._check_amounts()
        join_on_cpus(self)
        if self.disable_tqdm is None:  # transformers' default also turns bars off where only its warnings are off
            self.disable_tqdm = not (sys.stderr.isatty() or is_in_notebook())
        check_bf16(self.bf16, self.use_cpu)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and _gpu_has_bf16()
        if self.dataloader_pin_memory is None:
            self.dataloader_pin_memory = torch.accelerator.is_available() and not self.use_cpu
        self._name_checkpointing()
        super().__post_init__()
        check_joined(self.world_size)
        check_device(self)
        self._checkpoint_without_reentry()
        for name in ("remove_unused_columns", "logging_nan_inf_filter"):
            if getattr(self, name):
                raise ValueError(f"{type(self).__name__}.{name} must stay False. Leave it out.")
        if self.on_bad_rows not in get_args(OnBadRows):
            raise ValueError(
                f"on_bad_rows is 'error' or 'skip'; got {self.on_bad_rows!r}. Use 'skip' to train on the other rows."
            )
        if self.hub_merge_adapter and not self.push_to_hub:
            raise ValueError(
                "hub_merge_adapter needs push_to_hub, which is off. Add push_to_hub, or leave hub_merge_adapter out."
            )
        if self.label_smoothing_factor and not self.smooths_labels:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor:g} would change nothing: {type(self).__name__} "
                "has no loss that reads it. Leave it out; SFTConfig has it, and DPO's label_smoothing is a different "
                "setting."
            )
        check_language(self.language, f"{type(self).__name__}.language")
        self._check_task()
        self._check_sampled_rows()
        self.columns = column_names(self.columns)
        check_bounds(self.min_audio_seconds, self.max_audio_seconds)
        self._check_logs()
        normalizer(self.wer_normaliser)
        if self.augmentation is not None:
            load_augmentation(self.augmentation)
        self._check_encoder_cache()
        # Rows of one clip differ in length from process to process, so each process reads its own share of a stream.
        self.accelerator_config.dispatch_batches = False

    def _check_encoder_cache(self) -> None:
        if self.encoder_cache is None:
            if self.encoder_cache_dtype is not None:
                raise ValueError(
                    f"encoder_cache_dtype={self.encoder_cache_dtype!r} says how an encoder_cache is kept, and there is "
                    "none. Name its folder (--encoder_cache), or leave encoder_cache_dtype out."
                )
            return
        self.encoder_cache_dtype = self.encoder_cache_dtype or "bfloat16"
        if self.augmentation is not None:
            raise ValueError(
                "encoder_cache keeps what the encoder says of each clip, and augmentation changes the clips in each "
                "epoch. Leave one of the two out."
            )
        if not self.disable_dropout:
            raise ValueError(
                "encoder_cache keeps one answer of the encoder for each clip, and with disable_dropout off it gives "
                "another one at each step. Leave one of the two out."
            )

    def _check_sampled_rows(self) -> None:
        if not 0 <= self.hotword_dropout <= 1:
            raise ValueError(f"hotword_dropout is a share, 0 to 1; got {self.hotword_dropout}. 0.3 is a beginning.")
        number_not_below("hotword_distractors", self.hotword_distractors, 0)
        for name in ("history_dropout", "history_hypotheses"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1; got {share}. 0.5 is a beginning.")
        if self.balance_column is not None and self.train_sampling_strategy != "random":
            raise ValueError(
                f"balance_column={self.balance_column!r} decides the order of the rows, and so does "
                f"train_sampling_strategy={self.train_sampling_strategy!r}. Leave one of them out."
            )
        self._check_budget()

    def _check_budget(self) -> None:
        """Refuse settings that a budget of seconds would ignore."""
        if self.max_batch_seconds is None:
            return
        self.max_batch_seconds = seconds = budget_of_seconds(self.max_batch_seconds)
        if seconds == AUTO:
            self._check_trial()
        others = {
            "train_sampling_strategy": self.train_sampling_strategy != "random",
            "balance_column": self.balance_column is not None,
            "dataloader_drop_last": self.dataloader_drop_last,
        }
        for name, used in others.items():
            if used:
                raise ValueError(
                    f"max_batch_seconds={seconds} decides which clips go together and in which order, "
                    f"and so does {name}={getattr(self, name)!r}. Leave one of them out."
                )

    def _check_trial(self) -> None:
        """Refuse to try how much fits where nothing says it, or where processes would have to agree on it."""
        if not has_memory_limit(self.device):
            raise ValueError(
                f"max_batch_seconds={AUTO!r} tries how many clips fit a GPU's memory, and this run is on "
                f"{self.device.type}, where no limit of memory can be found by trying. Give a number of seconds, for "
                "example ten times the longest clip."
            )
        if self.world_size > 1:
            raise ValueError(
                f"max_batch_seconds={AUTO!r} tries batches in one process, and this run has {self.world_size}. Start "
                "one process for a step, read the number in its log, and pass that to all."
            )

    def _check_task(self) -> None:
        """Check that some family of models has the task; the family itself checks the rest."""
        if self.task is None or re.fullmatch(r"transcribe|translate(:.+)?", self.task):
            return
        near = get_close_matches(self.task, ("transcribe", "translate"), n=1)
        meant = "transcribe" if self.task.lower() in TRANSCRIBING else near[0] if near else None
        raise ValueError(
            f"{type(self).__name__}.task {self.task!r} is no task of a model. "
            + (f"Did you mean {meant!r}? " if meant else "")
            + "Use transcribe, translate (into English) or, for Canary, for example translate:de; leave it out for "
            "classifiers."
        )

    def _check_amounts(self) -> None:
        """Check batch sizes and epochs, which transformers checks at the first step or never."""
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            value = getattr(self, name)
            if number_not_below(name, value, 1) != int(value):
                raise ValueError(f"{name} is a whole number; got {value!r}. Set it to {math.ceil(value)}.")
        epochs = self.num_train_epochs
        if epochs is not None and self.max_steps <= 0 and not (math.isfinite(epochs) and epochs > 0):
            raise ValueError(
                f"num_train_epochs is the number of passes over the rows, finite and above 0; got {epochs}. Set it to "
                "1 or more, or set max_steps to the number of optimizer steps."
            )

    def to_dict(self) -> dict[str, Any]:
        """The arguments for loggers: a loss of your own by its name, and no access tokens."""
        return {
            name: without_tokens(named_losses(value) if name == "loss_type" else value)
            for name, value in super().to_dict().items()
        }

    def _check_logs(self) -> None:
        if self.quiet:
            self.disable_tqdm = True
        loggers = integration_utils.INTEGRATION_TO_CALLBACK
        for name in self.report_to or ():
            if name not in loggers:
                near = get_close_matches(name, loggers, n=1)
                raise ValueError(
                    f"report_to names no logger called {name!r}. "
                    + (f"Did you mean {near[0]!r}? " if near else "")
                    + f"There are {', '.join(sorted(loggers))}; none logs to files alone."
                )
            installed = getattr(integration_utils, f"is_{name}_available", None)
            if installed is not None and not installed():
                extra = f"pip install 'audiorl[{name}]'" if name in HOLD_AUDIO else f"pip install {name}"
                raise ImportError(
                    f"report_to names {name}, whose package is not installed. Install it ({extra}), or take it out: "
                    "report_to='none' (--report_to none) logs to files alone."
                )
        number_not_below("log_audio_every", self.log_audio_every, 0)
        if self.log_audio_every and not set(self.report_to or ()) & set(HOLD_AUDIO):
            raise ValueError(
                f"log_audio_every sends audio to a logger that holds it: {', '.join(HOLD_AUDIO)}; report_to is "
                f"{self.report_to or 'none'}. Name one of them in report_to, or leave log_audio_every out."
            )

    def check_family(self, family: SpeechFamily) -> None:
        """Refuse settings that a family of models cannot serve, before anything is spent.

        Raises:
            ValueError: for example, a term made of tokens, and a family that scores a hypothesis as a whole.
        """

    def _name_checkpointing(self) -> None:
        """Accept `gradient_checkpointing` under its new name, which transformers changed in 5.23."""
        for rest in ("checkpointing", "checkpointing_kwargs"):
            old, new = f"gradient_{rest}", f"activation_{rest}"
            if hasattr(self, new) and getattr(self, new) is None:
                setattr(self, new, getattr(self, old))
                setattr(self, old, None)

    def _checkpoint_without_reentry(self) -> None:
        """Reentrant checkpointing loses the gradients of an adapter below which nothing trains."""
        # transformers 5.23 renamed gradient_checkpointing to activation_checkpointing and keeps both in step
        for prefix in ("activation", "gradient"):
            if getattr(self, f"{prefix}_checkpointing", False):
                given = getattr(self, f"{prefix}_checkpointing_kwargs") or {}
                setattr(self, f"{prefix}_checkpointing_kwargs", {"use_reentrant": False, **given})


LOSS_SETTINGS_HELP = (
    "Settings of a loss of your own, its keyword-only arguments: --loss_settings gamma=0.5 margin=2, in Python a dict."
)


@dataclass
class PreferenceLossFields:
    """Which preference losses are summed, and their settings, named as in TRL."""

    loss_type: list[str] = field(
        default_factory=lambda: ["sigmoid"],
        metadata={
            "help": "One or more of audiorl.losses.PREFERENCE_LOSSES, a preset (mpo), or a loss of your own by its "
            "dotted path, my_module.my_loss; in Python also the function itself."
        },
    )
    loss_settings: list[str] | None | dict[str, Any] | str = field(  # noqa: RUF036
        default=None, metadata={"help": LOSS_SETTINGS_HELP}
    )
    loss_weights: list[float] | None = field(
        default=None,
        metadata={"help": "One weight >= 0 for each loss; unset: 1 each. A loss with weight 0 is only logged."},
    )
    beta: float = field(
        default=0.1, metadata={"help": "Above 0: how strongly the policy is kept near the frozen one; tau of IPO."}
    )
    label_smoothing: float = field(
        default=0.0,
        metadata={
            "help": "Share of pairs assumed to be in the wrong order, 0 to below 0.5; for robust, exo_pair and aot."
        },
    )
    f_divergence_type: str = field(
        default="reverse_kl",
        metadata={
            "help": "Divergence between policy and reference: reverse_kl, forward_kl, js_divergence or "
            "alpha_divergence."
        },
    )
    f_alpha_divergence_coef: float = field(default=0.5, metadata={"help": "Alpha of alpha_divergence."})
    discopop_tau: float = field(default=0.05, metadata={"help": "Temperature of discopop, above 0."})

    def objective(self) -> CombinedObjective:
        """The objective these arguments describe.

        Raises:
            ValueError: an unknown loss, or a value out of its range.
        """
        if not isinstance(self.loss_type, list | tuple) or isinstance(self.loss_type, PreferenceObjective):
            self.loss_type = [self.loss_type]
        self.loss_settings = read_loss_settings(self.loss_settings) or None
        return CombinedObjective(
            self.loss_type,
            self.loss_weights,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            f_divergence_type=self.f_divergence_type,
            f_alpha_divergence_coef=self.f_alpha_divergence_coef,
            discopop_tau=self.discopop_tau,
            loss_settings=self.loss_settings,
        )


@dataclass
class SyncedReferenceFields:
    """TR-DPO (Gorbatovski et al. 2024, arXiv:2404.09656): a frozen policy that follows the trained one."""

    sync_ref_model: bool = field(
        default=False,
        metadata={"help": "TR-DPO: move the reference towards the policy every ref_model_sync_steps steps."},
    )
    ref_model_mixup_alpha: float = field(
        default=0.6, metadata={"help": "TR-DPO: share of the policy in the new reference, above 0 to 1."}
    )
    ref_model_sync_steps: int = field(
        default=512, metadata={"help": "TR-DPO: optimizer steps between two moves of the reference, >= 1."}
    )

    def check_synced_reference(self) -> None:
        """Refuse settings out of their range.

        Raises:
            ValueError: with both settings.
        """
        if not 0 < self.ref_model_mixup_alpha <= 1 or self.ref_model_sync_steps < 1:
            raise ValueError(
                f"TR-DPO takes ref_model_mixup_alpha in (0, 1] and ref_model_sync_steps >= 1; got "
                f"{self.ref_model_mixup_alpha} and {self.ref_model_sync_steps}. The paper uses 0.6 and 512."
            )


def without_tokens(value: Any) -> Any:
    """A value without access tokens, however deep they are in mappings."""
    if isinstance(value, Mapping):
        return {
            name: "<token>" if name in TOKEN_KEYS and part else without_tokens(part) for name, part in value.items()
        }
    return value


def _gpu_has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
