"""A description of a run, kept in its checkpoints, so that no other run resumes from them by mistake.

1. Trainer, model, rows, processes, rewards, adapter and settings are described when training begins. Every checkpoint
   holds the description.
2. A run that resumes compares its own description with the checkpoint's. Differences are listed and refused, unless
   `allow_changed_resume` is set.
3. Settings that do not change what is learnt may differ: `FREE` lists them. A run may become longer (`max_steps`,
   `num_train_epochs`, `num_cycles`), but not shorter.

Large things are compared in part. Model: names, shapes and types of all weights, and 64 values of each. Rows: their
number, order and texts, and the audio of 1,000 evenly spread rows (for a file, its size and first MiB). The rows of
streams are not compared, because a stream can be read only once.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

from audiorl.datasets.storage import OURS
from audiorl.losses.settings import named_losses
from audiorl.models import base_model
from audiorl.trainers.config import without_tokens

logger = logging.get_logger(__name__)

# Settings that may differ from the checkpoint's: where a run is written, watched and measured, what it costs in memory,
# and how long it is. By the beginnings of their names.
FREE = (
    "activation_checkpointing",
    "allow_changed_resume",
    "auto_find_batch_size",
    "average_tokens_across_devices",
    "batch_eval_metrics",
    "bf16_full_eval",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "ddp_",
    "debug",
    "deepspeed",  # the way of several processes is compared as a whole
    "disable_tqdm",
    "do_",
    "enable_jit_checkpoint",
    "encoder_cache",
    "eval_",
    "fp16_full_eval",
    "fsdp",
    "full_determinism",
    "gradient_checkpointing",
    "greater_is_better",
    "hub_",
    "ignore_data_skip",
    "include_",
    "init_from",
    "jit_",
    "load_best_model_at_end",
    "local_rank",
    "log_",
    "logging_",
    "max_steps",
    "model_init_kwargs",  # used up where the model is loaded, and the weights tell of them
    "metric_for_best_model",
    "num_completions_to_print",
    "num_cycles",
    "num_train_epochs",
    "on_bad_rows",
    "output_dir",
    "parallelism_config",
    "per_device_eval_",
    "precompute_ref_batch_size",
    "prediction_loss_only",
    "project",
    "push_to_hub",
    "quiet",
    "report_",
    "restore_callback_states_from_checkpoint",
    "resume_from_checkpoint",
    "rollout_batch_size",
    "run_name",
    "save_",
    "skip_memory_metrics",
    "torch_compile",
    "torch_empty_cache_steps",
    "trackio_",
    "use_cpu",
    "wer_normali",
)
NOT_FREE = ("encoder_cache_dtype",)  # rounded states are others
# Of a PEFT configuration: what the shapes of its weights do not tell.
_OF_AN_ADAPTER = (
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "init_r",
    "target_r",
    "bias",
)
_VALUES_OF_A_WEIGHT = 64
_ROWS_HEARD = 1000
_BYTES_OF_A_FILE = 2**20
# Scores of the frozen policy that a trainer put beside the rows: made from them, and not to the bit on every machine.
_MADE_BY_TRAINERS = ("ref_logps",)

Run = dict[str, Any]


class RunFingerprint(TrainerCallback):
    """Describes a trainer's run. Build it while the model is as it was handed in.

    Args:
        trainer: a `SpeechTrainer`.
    """

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self._model = _described(trainer.model)
        self.run_id = uuid.uuid4().hex  # tells the checkpoints of two runs in one folder apart
        self._frozen: Run = {}
        self._run: Run | None = None
        self._steps = 0  # of the whole run that the checkpoint is from

    def frozen(self, name: str, model: nn.Module) -> None:
        """Describe a second model that the run reads and does not train, as it is now.

        Args:
            name: what a message calls it, "the teacher" for example.
        """
        self._frozen[name] = _described(model)

    @property
    def run(self) -> Run:
        """The description, as JSON for checkpoints. The rows are read at the first access."""
        if self._run is None:
            trainer = self._trainer
            rewards = getattr(trainer, "rewards", None)
            self._run = {
                "id": self.run_id,
                "trainer": type(trainer).__name__,
                "model": self._model,
                "rows": rows_digest(trainer.train_dataset),
                "frozen": self._frozen,
                "rewards": {} if rewards is None else dict(zip(rewards.names, rewards.weights, strict=True)),
                "reward_settings": {} if rewards is None else rewards.settings(),
                "adapter": _adapter(trainer.model),
                **settings_of(trainer.args),
                "parallel": _parallel(trainer),
            }
            self._run = json.loads(json.dumps(self._run, default=str))
        return self._run

    def changes(self, before: Run) -> list[str]:
        """The differences from a checkpoint's run, one line each."""
        return changes(before, self.run)

    def resumes(self, steps: int, run_id: str | None) -> None:
        """Remember how long the resumed run was to be, and which it is."""
        self._steps = steps
        if run_id is not None:
            self.run_id = run_id
            self._run = None if self._run is None else {**self._run, "id": run_id}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps, self._steps = self._steps, 0
        if state.max_steps >= steps:
            return
        told = f"The checkpoint is from a run of {steps} optimizer steps, and this one ends after {state.max_steps}"
        if not args.allow_changed_resume:
            raise ValueError(
                f"{told}: its learning rate would fall faster. Resume with as many (max_steps, num_train_epochs) or "
                "more, or pass --allow_changed_resume if the shorter run is meant."
            )
        logger.warning(f"{told}; allow_changed_resume lets it go on.")


def settings_of(args: Any) -> Run:
    """Settings that a resumed run must share with the checkpoint, and the number of processes."""
    found = {
        spec.name: _plain(named_losses(getattr(args, spec.name)))
        for spec in fields(args)
        if spec.init and (spec.name in NOT_FREE or not spec.name.startswith(FREE))
    }
    return json.loads(json.dumps({"processes": args.world_size, "settings": found}, default=str))


def changes(before: Run, now: Run) -> list[str]:
    """The differences between two runs, one line each. Only settings that both know are compared."""
    found = []
    for name, label in (("trainer", "the trainer"), ("processes", "the number of processes"), ("parallel", "the way")):
        if name in before and name in now and before[name] != now[name]:
            found.append(f"{label} was {before[name]} and is {now[name]}")
    if "model" in before and "model" in now:
        found += _model_changes(before["model"], now["model"])
    if "frozen" in before and "frozen" in now:
        for name in {**before["frozen"], **now["frozen"]}:
            # a run without one of its own reads the model as it was handed in
            first, second = (run["frozen"].get(name, run["model"]) for run in (before, now))
            found += _model_changes(first, second, name)
    if "rows" in before and "rows" in now:
        found += _row_changes(before["rows"], now["rows"])
    for part, label in (
        ("rewards", "the reward "),
        ("reward_settings", "the reward "),
        ("adapter", "the adapter's "),
        ("settings", ""),
    ):
        if part in before and part in now:
            found += _named_changes(before[part], now[part], label, shared=part in ("settings", "reward_settings"))
    return found


def check_same_run(checkpoint: str, found: list[str], *, allowed: bool) -> None:
    """Refuse to resume from a different run.

    Args:
        checkpoint: its folder.
        found: of `changes`.
        allowed: the changes are meant: they are told as a warning.

    Raises:
        ValueError: with all that differs.
    """
    if not found:
        return
    lines = "".join(f"\n  * {line}" for line in found)
    if allowed:
        logger.warning(f"{checkpoint} is from a different run, and this one resumes from it anyway:{lines}")
        return
    raise ValueError(
        f"{checkpoint} is from a different run than this one:{lines}\nResume with the checkpoint's own settings, start "
        "a new run in another output_dir, or pass --allow_changed_resume if you want the change."
    )


# ---- model ----


def weights_digest(model: nn.Module) -> str:
    """Names, shapes and types of all weights and 64 values of each, as a short digest.

    Of an adapter no values: a new one starts with other values on another device, and a checkpoint holds them all.
    """
    own = hashlib.sha256()
    adapted = isinstance(model, PeftModel)
    for name, values in model.named_parameters():
        own.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
        if values.is_meta or not values.numel() or (adapted and values.requires_grad):
            continue
        places = torch.linspace(0, values.numel() - 1, min(values.numel(), _VALUES_OF_A_WEIGHT), dtype=torch.float64)
        some = values.detach().flatten()[places.long().to(values.device)]
        own.update(some.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return own.hexdigest()


def _adapter(model: nn.Module) -> Run:
    if not isinstance(model, PeftModel):
        return {}
    known = model.peft_config[model.active_adapter].to_dict()
    return {name: _plain(known[name]) for name in _OF_AN_ADAPTER if name in known}


def _described(model: nn.Module) -> Run:
    name = getattr(base_model(model).config, "_name_or_path", "") or "a model without a name"
    return {"name": name, "weights": weights_digest(model)}


def _model_changes(before: Run, now: Run, label: str = "the model") -> list[str]:
    if before["weights"] == now["weights"]:
        return []  # wherever its files lie now
    if before["name"] != now["name"]:
        return [f"{label} was {before['name']} and is {now['name']}"]
    if label != "the model":
        return [f"{label} is called {now['name']} as before, but has other weights"]
    return [
        f"the model is called {now['name']} as before, but has other weights (pass the one that was trained at first, "
        "not the tuned one; new heads need a seed before the model is loaded)"
    ]


# ---- rows ----


def rows_digest(rows: Any) -> Run:
    """Number, content and order of the training rows; for a stream only that it is one."""
    if not isinstance(rows, Dataset):
        return {"count": None, "ordered": "", "content": ""}
    names = [name for name in rows.column_names if name not in (*OURS, "audio", *_MADE_BY_TRAINERS)]
    count = len(rows)
    heard = {round(place * (count - 1) / max(_ROWS_HEARD - 1, 1)) for place in range(_ROWS_HEARD)}
    heard = set(range(count)) if count <= _ROWS_HEARD else heard
    ordered, content = hashlib.sha256(), 0
    audio = rows.select_columns(["audio"]) if "audio" in rows.column_names else None
    for place, row in enumerate(_rows(rows, names)):
        said = json.dumps(row, sort_keys=True, default=repr)
        if place in heard and audio is not None:
            said += _audio_digest(audio[place]["audio"])
        one = hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()
        ordered.update(one)
        content = (content + int.from_bytes(one[:16], "big")) % 2**128
    return {"count": count, "ordered": ordered.hexdigest(), "content": f"{content:032x}"}


def _rows(rows: Dataset, names: list[str]) -> Any:
    if not names:
        yield from ({} for _ in range(len(rows)))
        return
    for table in rows.select_columns(names).with_format("arrow").iter(1000):
        yield from table.to_pylist()


def _audio_digest(entry: Any) -> str:
    content, path = (entry.get("bytes"), entry.get("path")) if isinstance(entry, Mapping) else (None, str(entry))
    if content is None:
        path = path or ""
        if "://" in path or not os.path.isfile(path):
            return path
        with open(path, "rb") as file:
            content = file.read(_BYTES_OF_A_FILE) + str(os.path.getsize(path)).encode()
    return hashlib.sha256(without_time(content)).hexdigest()


def without_time(content: bytes) -> bytes:
    """A WAV file without its PEAK chunk, in which libsndfile notes when it was written."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return content
    kept, place = [], 12
    while place + 8 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        end = place + 8 + size + size % 2
        if content[place : place + 4] != b"PEAK":
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def _row_changes(before: Run, now: Run) -> list[str]:
    if before["count"] is None and now["count"] is None:
        return []
    if before["count"] != now["count"]:
        first, second = ("a stream" if run["count"] is None else f"{run['count']} rows" for run in (before, now))
        return [f"the training set was {first} and is {second}"]
    if before["content"] != now["content"]:
        return [f"the {now['count']} training rows are not those of before"]
    if before["ordered"] != now["ordered"]:
        return [f"the {now['count']} training rows are in another order than before"]
    return []


# ---- settings ----


def _parallel(trainer: Any) -> str:
    if trainer.args.world_size == 1:
        return "one process"
    way = trainer.accelerator.distributed_type.value
    return way.removeprefix("MULTI_") if "DEEPSPEED" in way or "FSDP" in way else "DDP"


def _named_changes(before: Run, now: Run, label: str, *, shared: bool) -> list[str]:
    names = dict.fromkeys([*before, *now])
    return [
        f"{label}{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in names
        if before.get(name) != now.get(name) and not (shared and (name not in before or name not in now))
    ]


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    return without_tokens(value)
