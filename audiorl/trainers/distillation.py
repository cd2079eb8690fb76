"""Distillation of a larger speech model into a smaller one (Agarwal et al. 2024, GKD, arXiv:2306.13649).

1. In a share `lmbda` of the optimizer steps the student samples a transcript of each clip (on-policy); in the others
   the transcript is the row's, or, with `seq_kd`, the teacher's own, decoded once before training.
2. The teacher reads the same transcripts, from one encoder pass without a graph.
3. The loss is the generalised Jensen-Shannon divergence of both next-token distributions, a mean over the tokens of the
   whole optimizer step (`audiorl.losses.generalized_jsd`). Neither model's logits exist for all tokens at once.
4. `transcripts_only` learns the teacher's transcripts by likelihood: for models whose tokens differ.

Deviations from the paper and from TRL's GKDTrainer:
1. Whether a step is on-policy, and what is sampled, is drawn from (seed, optimizer step, row): N processes do what one
   does, and a resumed run what an uninterrupted one does.
2. The teacher transcribes the clips of `seq_kd` as its generation config says, before training, without augmentation.
3. Teacher and student may hear other features (80 and 128 mel bins); where they hear the same, these are made once.

With a frozen encoder the student encodes a clip once for sampling and learning; with a trained one it encodes once
more, without a graph, in on-policy steps.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from transformers import TrainerCallback

from audiorl.batch import AUDIO_COMPANIONS, AUDIO_KEYS, GroupBatch
from audiorl.collator import SpeechCollator, UsableRow
from audiorl.evaluation import transcribe
from audiorl.evaluation.transcription import evaluation_mode
from audiorl.losses import generalized_jsd, supervised_loss
from audiorl.losses.reductions import counted_mean
from audiorl.losses.settings import finite_number, number_not_below, positive_number
from audiorl.models import SpeechFamily, disable_dropout, speech_family
from audiorl.models.head import scaled_logits
from audiorl.models.sampling import rollout_noise
from audiorl.trainers.base import Collate, ComputeMetrics, Optimizers, SpeechTrainer
from audiorl.trainers.config import SpeechConfig
from audiorl.trainers.distributed import prepare_frozen
from audiorl.trainers.loading import default_output_dir, load_checkpoint, load_processor
from audiorl.trainers.metrics import counted_step

# In a batch: the teacher's features, where it hears others than the student; the student's states of a rollout.
TEACHER, STATES = "teacher_", "states"


@dataclass
class DistillationConfig(SpeechConfig):
    """Arguments of `DistillationTrainer`, named as in TRL's `GKDConfig`."""

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of AdamW."})
    teacher_model_name_or_path: str | None = field(
        default=None, metadata={"help": "The teacher, if it is not passed as a model: a Hub id or a folder."}
    )
    teacher_model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Keywords for the teacher's `from_pretrained`, as JSON; float32 unless they have `dtype`."},
    )
    lmbda: float = field(
        default=0.5,
        metadata={"help": "Share of optimizer steps, 0 to 1, that learn from transcripts the student samples itself."},
    )
    beta: float = field(
        default=0.5,
        metadata={
            "help": "Which divergence, 0 to 1: 0 is the forward KL, 1 the reverse KL, between them the generalised "
            "Jensen-Shannon divergence."
        },
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Above 0: logits of both models are divided by it, and samples drawn at it."}
    )
    seq_kd: bool = field(
        default=False,
        metadata={"help": "Learn from the teacher's own transcripts, decoded once before training, not from `text`."},
    )
    transcripts_only: bool = field(
        default=False,
        metadata={
            "help": "Learn the teacher's transcripts by likelihood, without its distributions, if the teacher has "
            "other tokens. Needs lmbda 0, and turns seq_kd on."
        },
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Tokens that the student samples at most, 1 or more."})

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*SpeechConfig._VALID_DICT_FIELDS, "teacher_model_init_kwargs"]

    def __post_init__(self):
        super().__post_init__()
        for name in ("lmbda", "beta"):
            if not 0.0 <= finite_number(name, getattr(self, name)) <= 1.0:
                raise ValueError(f"{name} is 0 to 1; got {getattr(self, name)!r}. The paper uses 0, 0.5 and 1.")
        positive_number("temperature", self.temperature)
        number_not_below("max_new_tokens", self.max_new_tokens, 1)
        if self.transcripts_only and self.lmbda != 0.0:
            raise ValueError(
                f"transcripts_only learns what the teacher writes, and lmbda={self.lmbda} asks it to score what the "
                "student writes. Set lmbda to 0, or leave transcripts_only out."
            )
        self.seq_kd = self.seq_kd or self.transcripts_only

    def check_family(self, family: SpeechFamily) -> None:
        super().check_family(family)
        if not self.transcripts_only and not family.has_distributions:
            raise ValueError(family.without_distributions())


class DistillationCollator(SpeechCollator):
    """`SpeechCollator` whose batches also hold the teacher's features, where it hears others than the student.

    Args:
        teacher: the teacher's family; None where both hear the same.

    The other arguments are those of `SpeechCollator`.
    """

    def __init__(self, family: SpeechFamily, *, teacher: SpeechFamily | None, text_optional: bool, **kwargs: Any):
        super().__init__(family, **{"text_columns": ("text",), **kwargs})
        self.teacher, self.text_optional = teacher, text_optional

    def _batch(self, usable: list[UsableRow]) -> GroupBatch:
        clips = [found.clip for found in usable if isinstance(found.clip, np.ndarray)]
        return self._with_teacher(super()._batch(usable), clips)

    def _placeholder(self) -> GroupBatch:
        silence = np.zeros(self.family.sampling_rate // 10, dtype=np.float32)
        return self._with_teacher(super()._placeholder(), [silence])

    def _with_teacher(self, batch: GroupBatch, clips: list[np.ndarray]) -> GroupBatch:
        if self.teacher is None:
            return batch
        return batch.replace(**{f"{TEACHER}{name}": found for name, found in self.teacher.features(clips).items()})


class DistillationTrainer(SpeechTrainer):
    """Teach a small speech model what a larger one says; rows need `audio`, and `text` where they are learnt from.

    Args:
        model: the student: id or path of a checkpoint, or a model.
        teacher_model: the teacher, as a model or its name; default the config's `teacher_model_name_or_path`.
        args: `DistillationConfig`; default one that writes to `<model name>-distilled`.
        teacher_processing_class: the teacher's processor; found by its name where it is left out.

    The other arguments are those of `SpeechTrainer`.
    """

    text_columns = ("text",)
    args: DistillationConfig
    teacher: Any

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        teacher_model: str | os.PathLike | nn.Module | None = None,
        args: DistillationConfig | None = None,
        *,
        teacher_processing_class: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Collate | None = None,
        compute_metrics: ComputeMetrics | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
        peft_config: PeftConfig | None = None,
        quantization_config: Any = None,
    ):
        args = args or DistillationConfig(output_dir=default_output_dir(model, "distilled"))
        if teacher_model is model and isinstance(model, nn.Module):
            raise ValueError("The teacher is the model that is trained. Load it twice, or name another teacher.")
        self._build_teacher(teacher_model, teacher_processing_class, args)
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
            quantization_config=quantization_config,
        )
        if not args.transcripts_only:
            check_same_tokens(self.family, self.teacher_family, self.model, self.teacher)
            cache = self.family.encoder_cache
            if cache is not None and not cache.serves(self.teacher_family, self.teacher):
                raise ValueError(
                    "encoder_cache keeps what the student's encoder says of a clip, and the teacher has another "
                    "encoder, which needs the audio. Leave it out, or choose a student that keeps the teacher's "
                    "encoder, or learn its transcripts alone (--transcripts_only true)."
                )
        self.saver.fingerprint.frozen("the teacher", self.teacher)
        self.teacher = prepare_frozen(self.teacher, self.accelerator)
        if args.seq_kd:
            self.train_dataset = self._checked_rows(self._taught(self.train_dataset), args, "train_dataset")
            self._read_rows(self.train_dataset, args)  # of some the teacher may have said nothing

    # ---- the teacher ----

    def _build_teacher(self, given: Any, processor: Any, args: DistillationConfig) -> None:
        given = args.teacher_model_name_or_path if given is None else given
        if given is None:
            raise ValueError(
                "There is no teacher to learn from. Pass teacher_model, or set teacher_model_name_or_path "
                "(--teacher_model_name_or_path) to a checkpoint's folder or Hub name."
            )
        if not isinstance(given, nn.Module):
            kwargs = args.teacher_model_init_kwargs if isinstance(args.teacher_model_init_kwargs, dict) else {}
            given = load_checkpoint(given, {"dtype": "float32", **kwargs})
        self.teacher = given.requires_grad_(False).eval()
        disable_dropout(self.teacher)
        self.teacher_processor = load_processor(processor, self.teacher)
        self.teacher_family = speech_family(self.teacher, self.teacher_processor)
        self.teacher_family.set_defaults(language=args.language, task=args.task)
        self.teacher_family.install(self.teacher)

    def _default_collator(self, args: Any) -> SpeechCollator:
        shared = args.transcripts_only or hear_the_same(self.family, self.teacher_family)
        return DistillationCollator(
            self.family,
            teacher=None if shared else self.teacher_family,
            text_optional=args.seq_kd or args.lmbda == 1.0,
            skipped=self.skipped if args.on_bad_rows == "skip" else None,
            silence=args.allow_silence,
        )

    def _taught(self, rows: Any) -> Any:
        """The rows with what the teacher writes as their `text`, each process its share."""
        if rows is None:
            return None
        if not isinstance(rows, Dataset):
            raise ValueError(
                "seq_kd decodes every row once before training, which a stream does not allow. Load the rows as a "
                "Dataset, or learn from their own text."
            )
        rank, world = self.args.process_index, self.args.world_size
        mine = rows.select(range(rank, len(rows), world))
        said = transcribe(
            self.teacher.to(self.args.device),
            self.teacher_processor,
            mine,
            batch_size=self.args.per_device_eval_batch_size,
            family=self.teacher_family,
            progress=rank == 0 and not self.args.disable_tqdm,
        )
        parts = gather_object([said]) if world > 1 else [said]
        texts = [parts[i % world][i // world] for i in range(len(rows))]
        bare = rows.remove_columns("text") if "text" in rows.column_names else rows
        return bare.add_column("text", texts)

    # ---- one optimizer step ----

    def on_policy(self, step: int) -> bool:
        """Whether the student's own samples are learnt from in an optimizer step."""
        return bool(np.random.default_rng([self.args.seed, step]).random() < self.args.lmbda)

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and self.on_policy(self.state.global_step):
            batches = self._sampled(batches)
            self.step_counts = counted_step(batches, self.accelerator, device)
        return batches, num_items

    @torch.no_grad()
    def _sampled(self, batches: Sequence[GroupBatch]) -> list[GroupBatch]:
        """The same clips with a transcript that the student draws, and its states where they stay the same."""
        model, found = self.model_wrapped, []
        keeps_states = self.family.encoder_is_frozen(model)
        with evaluation_mode(model), self.compute_loss_context_manager():
            for batch in batches:
                noise = rollout_noise(
                    batch.row_ids.tolist(),
                    seed=self.args.seed,
                    step=self.state.global_step,
                    num_generations=1,
                    max_tokens=self.family.noise_length(batch, self.args.max_new_tokens),
                )
                states = self.family.encode(model, batch)
                samples = self.family.sample_groups(
                    model, batch, noise.to(batch.tokens.device), states, temperature=self.args.temperature
                )
                known = {STATES: states} if keeps_states else {}
                found.append(batch.replace(tokens=samples.tokens, keep=samples.keep, **known))
        return found

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, Any]:
        batch, training = GroupBatch(inputs), model.training
        tokens = self.counts_of(batch, training).tokens
        mode = "train" if training else "eval"
        if self.args.transcripts_only:
            scores = self.family.score_groups(model, batch)
            loss = supervised_loss(scores.logps, scores.keep, tokens)
            self.metrics.add_ratio(mode, "nll_loss", -scores.logps.detach().sum(), batch.keep.sum())
            self.metrics.add(mode, "mean_token_accuracy", scores.is_top1, scores.keep)
            outputs: Any = scores
        else:
            outputs = self._compare(model, batch)
            loss = counted_mean(outputs[:, 0], tokens)
            for place, name in enumerate(("divergence", "entropy", "teacher_agreement")):
                self.metrics.add(mode, name, outputs[:, place])
        loss = self.scale_for_step(loss, training)
        if training:
            self.metrics.add(mode, "on_policy", loss.new_tensor(float(self.on_policy(self.state.global_step))))
            self.check_finite(loss, batch)
        return (loss, outputs) if return_outputs else loss

    def _compare(self, model: nn.Module, batch: GroupBatch) -> Tensor:
        """(N, 3) of the kept tokens: divergence, with gradient, the student's entropy, whether both say the same."""
        heard = teacher_batch(batch)
        with torch.no_grad(), evaluation_mode(self.teacher), self.accelerator.autocast():
            rows = self.teacher_family.token_rows(self.teacher, heard)

        def compare(logits: Tensor, place: slice) -> Tensor:
            ours = scaled_logits(logits, self.args.temperature).log_softmax(-1)
            taught = self.teacher_family.token_logits(self.teacher, rows[place])
            theirs = scaled_logits(taught, self.args.temperature).log_softmax(-1)
            with torch.no_grad():
                entropy = -(ours.exp() * ours).sum(-1)
                agreement = (ours.argmax(-1) == theirs.argmax(-1)).to(ours.dtype)
            return torch.stack([generalized_jsd(ours, theirs, self.args.beta), entropy, agreement], -1)

        return self.family.compare_tokens(model, batch, compare, batch.tensors.get(STATES))


# ---- what both hear and say ----


def teacher_batch(batch: GroupBatch) -> GroupBatch:
    """The clips as the teacher hears them, with the same hypotheses."""
    own = {name.removeprefix(TEACHER): x for name, x in batch.tensors.items() if name.startswith(TEACHER)}
    heard = own or {name: x for name, x in batch.tensors.items() if name in (*AUDIO_KEYS, *AUDIO_COMPANIONS)}
    return GroupBatch(heard, tokens=batch.tokens, keep=batch.keep, row_ids=batch.row_ids)


def hear_the_same(first: SpeechFamily, second: SpeechFamily) -> bool:
    """Whether two families make the same features of a clip."""
    if first.sampling_rate != second.sampling_rate:
        raise ValueError(
            f"The student hears {first.sampling_rate} Hz, the teacher {second.sampling_rate} Hz, and clips are decoded "
            "once. Choose models of one sampling rate, or transcripts_only."
        )
    noise = np.random.default_rng(0).normal(0, 0.1, first.sampling_rate // 2).astype(np.float32)
    ours, theirs = first.features([noise]), second.features([noise])
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape and torch.equal(ours[name], theirs[name]) for name in ours
    )


def check_same_tokens(student: SpeechFamily, teacher: SpeechFamily, model: nn.Module, teacher_model: nn.Module) -> None:
    """Distributions are compared token by token, so both models have to mean the same by an id.

    Raises:
        ValueError: they do not.
    """
    if not teacher.has_distributions:
        raise ValueError(teacher.without_distributions())
    student.check_same_answers(model, teacher_model)
    words = [_vocabulary(family) for family in (student, teacher)]
    if words[0] != words[1]:
        first = next(iter(sorted(words[0].items() ^ words[1].items())), ("?", 0))
        raise ValueError(
            f"The tokens of student and teacher differ ({first[0]!r} among others), so their distributions cannot be "
            "compared. Choose a teacher with the student's tokenizer, or learn its transcripts alone: transcripts_only "
            "and lmbda 0 (--transcripts_only true --lmbda 0)."
        )
    mine, its = _example(student), _example(teacher)
    if mine and its and mine != its:
        raise ValueError(
            "Student and teacher begin a transcript with other tokens (language, task, a start of their own), so the "
            "teacher would not understand what the student reads. Choose a teacher of the student's kind, or learn its "
            "transcripts alone: transcripts_only and lmbda 0 (--transcripts_only true --lmbda 0)."
        )


def _example(family: SpeechFamily) -> tuple[int, ...]:
    """The tokens of a short text behind the prefix of the language in force, or else of English; nothing for labels."""
    for language in (None, "en") if family.task.writes_text else ():
        with contextlib.suppress(ValueError):
            return tuple(family.tokenize("a", language=language).ids)
    return ()


def _vocabulary(family: SpeechFamily) -> dict[str, int]:
    """Token -> id of what the family writes, or label -> place."""
    if not family.task.writes_text:
        return {label: place for place, label in enumerate(family.task.labels)}
    tokenizer = getattr(family.processor, "tokenizer", family.processor)
    return dict(tokenizer.get_vocab())
