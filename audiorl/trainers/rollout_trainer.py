"""Learning from rewarded hypotheses: what GRPO, online DPO and RAFT share, and the optimizer step of the first two.

`RewardedTrainer`, the base of all three:
1. Rows need `audio` and the columns that the rewards read; this is checked before anything is spent. They need `text`
   only if a reward reads it or `sft_weight` learns from it. Evaluation rows always need it.
2. `roll_out` samples K hypotheses of each clip from one encoder pass and rewards them (`rollouts.py`).
3. Evaluation decodes the rows and rewards the hypotheses; a rollout has no evaluation loss.

`RolloutTrainer`, the base of GRPO and online DPO:
1. All micro-batches of an optimizer step are rolled out together, before its first loss. Each clip is encoded once. A
   batch counts clips, so groups stay whole.
2. Rewards are gathered over micro-batches and processes, for advantages and for the log.
3. A subclass chooses the hypotheses to learn from (`learn_from`) and computes their loss (`rollout_loss`). The frozen
   policy scores them once. With a frozen encoder, rollout, reference and loss read the same states.
4. If `sft_weight` is not 0, the row's transcript is scored as one more hypothesis.
5. `num_iterations` steps learn from the same rollouts. The loader repeats the rows of a step (`RepeatedBlocks`). The
   samples are kept, and are saved in checkpoints that fall between two of these steps.

Deviations from TRL's GRPOTrainer:
1. `per_device_train_batch_size` counts clips, not completions; `steps_per_generation` is not offered.
2. The randomness of a rollout is drawn from (seed, optimizer step, row), so that N processes sample what one does.
3. `old_logps` are those of sampling, not of a further pass.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any, ClassVar, Unpack

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from torch.utils.data import Sampler as RowSampler
from transformers.trainer_utils import EvalLoopOutput

from audiorl.batch import GroupBatch, GroupScores
from audiorl.collator import SpeechCollator
from audiorl.datasets import speech_rows
from audiorl.datasets.batching import EpochPlan
from audiorl.datasets.storage import OURS
from audiorl.evaluation import Decoded
from audiorl.evaluation.transcription import evaluation_mode
from audiorl.losses import supervised_loss
from audiorl.losses.settings import known_name, number_not_below, positive_number
from audiorl.models import SpeechFamily
from audiorl.models.engines import ROLLOUT_ENGINES, NativeEngine, RolloutEngine
from audiorl.models.sampling import Sampler
from audiorl.rewards import RewardSet
from audiorl.trainers.base import SpeechTrainer, TrainerArguments
from audiorl.trainers.callbacks import sampling_guarded
from audiorl.trainers.config import AUTO, SpeechConfig, SyncedReferenceFields
from audiorl.trainers.cost import PARTS
from audiorl.trainers.distributed import balanced_order
from audiorl.trainers.metrics import counted_step
from audiorl.trainers.rollout_metrics import (
    RewardFigures,
    SampledTexts,
    StepRollouts,
    gather_step,
    log_engine,
    log_step,
)
from audiorl.trainers.rollouts import (
    HeldRollouts,
    Learnt,
    Rollout,
    RolloutCollator,
    RolloutMaker,
    Sampling,
    StepData,
    audio_of,
    each_row_once,
    require_rows,
    reward_texts,
    with_transcript,
)

# How much of the way is left, by the share of the run that is done.
TEMPERATURE_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1.0 - done,
}
# Orders of rows that can be repeated in blocks.
REPEATABLE_ORDERS = ("random", "sequential")


@dataclass
class SamplingConfig(SpeechConfig):
    """How hypotheses are sampled and rewarded, for every trainer that learns from them; named as in TRL."""

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of AdamW."})
    eval_wer: bool = field(
        default=True,
        metadata={"help": "Decode the evaluation set with the generation config, and log eval_wer and eval_cer."},
    )

    # Rollouts
    max_completion_length: int = field(
        default=256,
        metadata={"help": "Longest hypothesis in tokens, > 0. A row with a longer transcript is a bad row."},
    )
    temperature: float = field(
        default=1.0, metadata={"help": "> 0; logits are divided by it when sampling and when scoring."}
    )
    temperature_end: float | None = field(
        default=None,
        metadata={
            "help": "> 0; the temperature moves to this value over the run. Unset: it stays. From 1.0 to 0.7 the run "
            "explores first and refines later."
        },
    )
    temperature_schedule: str = field(
        default="cosine",
        metadata={"help": "How the temperature moves: cosine or linear.", "choices": list(TEMPERATURE_SCHEDULES)},
    )
    top_k: int = field(default=0, metadata={"help": "Sample only from the k most probable tokens; 0: from all."})
    top_p: float = field(
        default=1.0,
        metadata={
            "help": "Sample only from the most probable tokens that together have this probability; above 0 to 1 (1: "
            "all)."
        },
    )
    min_p: float | None = field(
        default=None,
        metadata={"help": "Sample only from tokens with at least this share of the highest probability; 0 to 1."},
    )
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Above 1, tokens that were sampled before become less probable; 1: off."}
    )

    # The engine that samples
    rollout_engine: str = field(
        default="native",
        metadata={
            "help": "Who samples: native, or vllm (experimental: Whisper, Qwen3-ASR and Qwen2-Audio in one process; "
            "needs vLLM installed).",
            "choices": list(ROLLOUT_ENGINES),
        },
    )
    vllm_gpu_memory_utilization: float = field(
        default=0.3, metadata={"help": "Share of the GPU's memory that vLLM takes, above 0 to 1."}
    )
    vllm_max_model_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of a prompt, audio included, and its answer that vLLM has room for, > 0. Unset: what the "
            "model has, 4096 at most."
        },
    )

    # Rewards
    reward_weights: list[float] | None = field(
        default=None,
        metadata={"help": "One weight for each reward; unset: 1 each. A reward with weight 0 is only logged."},
    )
    reward_timeout: float | None = field(
        default=1800.0,
        metadata={
            "help": "Seconds, > 0, that an asynchronous reward may take for all hypotheses of a step. Then the run "
            "stops and names the reward. None: no limit."
        },
    )

    # Learning
    sft_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight >= 0 of the negative log-likelihood (mean over tokens) of the rows' transcripts, against "
            "forgetting. It costs one more hypothesis for each clip, but no encoder pass."
        },
    )

    # Logging
    log_completions: bool = field(
        default=False,
        metadata={
            "help": "At each log, print transcript, best and worst hypothesis of each clip, and write them to "
            "completions/ in output_dir."
        },
    )
    num_completions_to_print: int | None = field(default=None, metadata={"help": "Clips in that table; unset: all."})

    def __post_init__(self):
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            # a rollout has no evaluation loss
            self.metric_for_best_model, self.greater_is_better = "wer", False
        super().__post_init__()
        number_not_below("max_completion_length", self.max_completion_length, 1)
        number_not_below("sft_weight", self.sft_weight, 0)
        positive_number("temperature", self.temperature)
        if self.temperature_end is not None:
            positive_number("temperature_end", self.temperature_end)
        known_name("temperature_schedule", self.temperature_schedule, TEMPERATURE_SCHEDULES)
        if self.reward_timeout is not None:
            positive_number("reward_timeout", self.reward_timeout)
        if self.max_batch_seconds == AUTO:
            raise ValueError(
                f"max_batch_seconds={AUTO!r} tries a batch before anything is sampled, and what a step of "
                f"{type(self).__name__} needs depends on the length of its samples. Give a number of seconds, for "
                "example ten times the longest clip."
            )
        self._check_engine()

    def _check_engine(self) -> None:
        known_name("rollout_engine", self.rollout_engine, ROLLOUT_ENGINES)
        if not 0 < self.vllm_gpu_memory_utilization <= 1:
            raise ValueError(
                f"vllm_gpu_memory_utilization is a share above 0, at most 1; got {self.vllm_gpu_memory_utilization}. "
                "0.3 leaves the rest to training."
            )
        if self.vllm_max_model_length is not None:
            number_not_below("vllm_max_model_length", self.vllm_max_model_length, 1)
        if self.sampler() is None or self.rollout_engine == "native":
            return
        raise ValueError(
            "top_k, top_p, min_p and repetition_penalty draw from another distribution than the policy, and the "
            f"log-probabilities of rollout_engine={self.rollout_engine!r} would be those of that one. Leave them out, "
            "or use rollout_engine='native'."
        )

    def temperature_at(self, done: int, rounds: int) -> float:
        """The temperature of a round of rollouts.

            T = end + (start - end) w(done / (rounds - 1)),   w(x) = (1 + cos(pi x)) / 2, linear 1 - x

        Args:
            done: rounds that lie behind, >= 0.
            rounds: of the whole run, > 0; the last of them has `temperature_end`.
        """
        if self.temperature_end is None:
            return self.temperature
        share = min(done / max(rounds - 1, 1), 1.0)
        weight = TEMPERATURE_SCHEDULES[self.temperature_schedule](share)
        return self.temperature_end + (self.temperature - self.temperature_end) * weight

    def sampler(self) -> Sampler | None:
        """The truncating sampler these arguments describe; None for the policy as it is.

        Raises:
            ValueError: a value out of its range.
        """
        sampler = Sampler(self.top_k, self.top_p, self.min_p, self.repetition_penalty)
        return None if sampler == Sampler() else sampler


@dataclass
class RolloutConfig(SyncedReferenceFields, SamplingConfig):
    """What `GRPOConfig` and `OnlineDPOConfig` share, named as in TRL; a batch is counted in clips, not hypotheses."""

    # Rollouts
    num_generations: int = field(default=8, metadata={"help": "K >= 2: hypotheses sampled for each clip."})
    dynamic_sampling_tries: int = field(
        default=0,
        metadata={
            "help": "How often a group whose rewards are all equal is sampled again; 0: never. A group that stays "
            "equal is kept and teaches nothing."
        },
    )

    # Learning
    num_iterations: int = field(
        default=1,
        metadata={
            "help": "Optimizer steps on the same rollouts, > 0. An epoch then has this many times as many steps."
        },
    )

    # Fresh samples have no scores beforehand; `ReferenceTrainer` asks.
    precompute_ref_log_probs: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        self._check_group()
        number_not_below("num_iterations", self.num_iterations, 1)
        number_not_below("dynamic_sampling_tries", self.dynamic_sampling_tries, 0)
        if self.num_iterations > 1 and self.train_sampling_strategy not in REPEATABLE_ORDERS:
            raise ValueError(
                "num_iterations > 1 repeats the rows of a step and works with the orders "
                f"{', '.join(REPEATABLE_ORDERS)}; got "
                f"train_sampling_strategy={self.train_sampling_strategy!r}. Leave it out, or set num_iterations=1."
            )
        self.check_synced_reference()

    def _check_group(self) -> None:
        if self.num_generations < 2:
            raise ValueError(
                f"{type(self).__name__} compares hypotheses of one clip, so it needs num_generations >= 2; got "
                f"{self.num_generations}. Raise it to 4 or more; where memory is short, lower "
                "per_device_train_batch_size and raise gradient_accumulation_steps."
            )

    def check_family(self, family: SpeechFamily) -> None:
        super().check_family(family)
        if self.sampler() is not None and not family.token_level:
            raise ValueError(
                f"top_k, top_p, min_p and repetition_penalty choose among tokens, but {type(family).__name__} samples "
                "a hypothesis as a whole. Leave them out; temperature applies."
            )

    def check_rows(self, rows: Any) -> None:
        """Refuse rows that cannot be read as these arguments ask.

        Raises:
            ValueError: a stream, whose rows cannot be repeated.
        """
        if self.num_iterations > 1 and isinstance(rows, IterableDataset):
            raise ValueError(
                "num_iterations > 1 repeats the rows of a step, which a stream cannot offer. Load the rows as a "
                "Dataset (streaming=False), or set num_iterations=1."
            )


class RewardedTrainer(SpeechTrainer):
    """Base of the trainers that learn from hypotheses of their own, by what rewards say of them.

    Args:
        model: id or path of a checkpoint, or a model.
        reward_funcs: one reward or several: names, dotted paths, callables with TRL's signature.
        args: the subclass's config.
        num_hypotheses: K, sampled for each clip.
        tries: how often a group without variance may be sampled again.

    The other arguments are those of `SpeechTrainer`.
    """

    text_columns = ("text",)
    rewards_evaluations = True
    args: SamplingConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        reward_funcs: Any,
        args: SamplingConfig,
        *,
        num_hypotheses: int,
        tries: int = 0,
        **kwargs: Unpack[TrainerArguments],
    ):
        self.rewards = RewardSet(reward_funcs, args.reward_weights, args.reward_timeout)
        super().__init__(model, args, **kwargs)
        require_rows(self.data_collator)
        engine = rollout_engine(self.family, self.model, args)
        sampling = Sampling(num_hypotheses, args.max_completion_length, args.sampler(), args.seed, engine)
        self.cost.parts = PARTS
        self.roll_out = RolloutMaker(
            self.family, self.rewards, self.accelerator, sampling, tries, during=self.cost.during
        )

    # ---- rows ----

    def _default_collator(self, args: Any) -> SpeechCollator:
        return RolloutCollator(
            self.family,
            text_columns=self.text_columns,
            skipped=self.skipped if args.on_bad_rows == "skip" else None,
            silence=args.allow_silence,
            max_tokens=args.max_completion_length,
            text_optional=self._trains_without_text(args),
        )

    def _trains_without_text(self, args: Any) -> bool:
        """Whether training rows may lack a transcript; one that is there is shown and counted all the same."""
        return not self.rewards.readers_of("text") and args.sft_weight == 0 and self.family.task.writes_text

    def _checked_rows(self, source: Any, args: Any, name: str) -> Any:
        rows = super()._checked_rows(source, args, name)
        if isinstance(rows, Dataset):
            self.rewards.check_columns([column for column in rows.column_names if column not in OURS])
        return rows

    # ---- evaluation ----

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Decode, reward, count errors; nothing is scored."""
        rows = speech_rows(dataloader.dataset)
        decoded = self.decode(rows)
        self._reward_decoded(rows, decoded)
        found = {**self.metrics.drain("eval"), **self.decoder.measure(decoded)}
        metrics = {f"{kwargs.get('metric_key_prefix', 'eval')}_{name}": value for name, value in found.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(rows))

    def _reward_decoded(self, rows: Dataset, decoded: Decoded) -> None:
        """Each process rewards its share of the hypotheses."""
        places = range(self.args.process_index, len(rows), self.args.world_size)
        texts = [decoded.hypotheses[i] for i in places]
        total, parts = reward_texts(self.rewards, self.family, rows.select(places), texts, self.state)
        names = ["reward", *(f"rewards/{name}/mean" for name in self.rewards.names)]
        for name, values in zip(names, [total, *parts.unbind(-1)], strict=True):
            self.metrics.add("eval", name, values.to(self.args.device), ~values.isnan().to(self.args.device))


# ---- rollouts of a whole optimizer step ----


class RepeatedBlocks(RowSampler[int]):
    """The rows of each optimizer step, several times in a row; epochs, steps and resuming stay the loader's own.

        [4 2 0 3 | 4 2 0 3 | 1 1 1 1 | 1 1 1 1]      five rows in blocks of 4, twice each

    A last block that is shorter is filled up with its own rows, so that steps stay aligned; the trainer gives the
    repetitions no weight.

    Args:
        num_rows: rows of the data set, > 0.
        block: clips of an optimizer step, over micro-batches and processes, > 0.
        repeats: `num_iterations`, > 0.
        seed: of the order, which is another one in each epoch and the same in each process; None keeps the rows' order.
        values: of each row, which are to come equally often; None for rows as they come.
        steps_done: tells how many optimizer steps lie behind, from which the epoch follows, however a run was resumed.
        drop_last: leave a last block that is shorter out.
    """

    def __init__(
        self,
        num_rows: int,
        block: int,
        repeats: int,
        *,
        seed: int | None,
        steps_done: Callable[[], int],
        drop_last: bool = False,
        values: Sequence[Any] | None = None,
    ):
        self.values = values
        self.num_rows = num_rows
        self.block = block
        self.repeats = repeats
        self.seed = seed
        self.steps_done = steps_done
        self.drop_last = drop_last

    def __len__(self) -> int:
        blocks = self.num_rows // self.block if self.drop_last else -(-self.num_rows // self.block)
        return blocks * self.block * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.num_rows))
        if self.seed is not None:
            epoch = self.steps_done() * self.block // len(self)
            if self.values is not None:
                order = balanced_order(self.values, self.num_rows, [self.seed, epoch])
            else:
                generator = torch.Generator().manual_seed(self.seed + epoch)
                order = torch.randperm(self.num_rows, generator=generator).tolist()
        for start in range(0, len(self) // self.repeats, self.block):
            rows = list(islice(cycle(order[start : start + self.block]), self.block))
            for _ in range(self.repeats):
                yield from rows


def rollout_engine(family: SpeechFamily, model: nn.Module, args: SamplingConfig) -> RolloutEngine:
    """Who samples for a trainer.

    Raises:
        ValueError: the engine that the config names cannot sample here.
    """
    if args.rollout_engine == "native":
        return NativeEngine(family)
    if args.world_size > 1:
        raise ValueError(
            f"rollout_engine={args.rollout_engine!r} works in one process, and there are {args.world_size}. Start one, "
            "or use rollout_engine='native'."
        )
    from audiorl.models.engines.vllm import VLLMEngine

    return VLLMEngine(
        family,
        model,
        memory_utilization=args.vllm_gpu_memory_utilization,
        max_model_length=args.vllm_max_model_length,
    )


class RolloutTrainer(RewardedTrainer, ABC):
    """Base of the trainers that learn from rewarded rollouts; rows need `audio` and what the rewards read.

    Args:
        model: id or path of a checkpoint, or a model.
        reward_funcs: one reward or several: names, dotted paths, callables with TRL's signature.
        args: the subclass's config.
        ref_model: the frozen policy, where the method has one; default the model as it is handed in, or, with an
            adapter, the model without it.

    The other arguments are those of `SpeechTrainer`.
    """

    args: RolloutConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        reward_funcs: Any,
        args: RolloutConfig,
        ref_model: str | os.PathLike | nn.Module | None = None,
        *,
        uses_reference: bool,
        **kwargs: Unpack[TrainerArguments],
    ):
        tries = args.dynamic_sampling_tries
        super().__init__(model, reward_funcs, args, num_hypotheses=args.num_generations, tries=tries, **kwargs)
        args.check_rows(self.train_dataset)
        if uses_reference:
            self.set_reference(ref_model, new_adapter=kwargs.get("peft_config") is not None)
        elif ref_model is not None:
            raise ValueError("ref_model would not be read: beta is 0. Raise beta, or leave ref_model out.")
        self.held = HeldRollouts(self)
        self.extra_state.append(self.held)
        self.sampled = SampledTexts(self)
        self.figures = RewardFigures(self)

    # ---- what a subclass says ----

    @abstractmethod
    def learn_from(self, rollouts: Sequence[Rollout], step: StepRollouts) -> list[Learnt]:
        """Which hypotheses of each micro-batch the loss is made of, and what it is divided by.

        Args:
            rollouts: of this process.
            step: the numbers of all processes.
        """

    @abstractmethod
    def rollout_loss(self, batch: GroupBatch, scores: GroupScores, counts: Tensor) -> Tensor:
        """The loss of one micro-batch, a scalar; those of all micro-batches and processes add up to the step's.

        Args:
            batch: the clips with the tensors of `learn_from`.
            scores: of its H hypotheses under the policy, with graph.
            counts: (n,) those of `learn_from`, over micro-batches and processes.
        """

    # ---- order of rows ----

    def _get_train_sampler(self, train_dataset: Any = None) -> RowSampler | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.num_iterations == 1 or not isinstance(rows, Dataset):
            return super()._get_train_sampler(train_dataset)
        return RepeatedBlocks(
            len(rows),
            self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            self.args.num_iterations,
            seed=self._order_seed() if self.args.train_sampling_strategy == "random" else None,
            steps_done=lambda: self.state.global_step,
            drop_last=self.args.dataloader_drop_last,
            values=self._balance,
        )

    def epoch_plan(self, repeats: int = 1) -> EpochPlan:
        return super().epoch_plan(repeats * self.args.num_iterations)

    # ---- one optimizer step ----

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, num_items
        if self.args.num_iterations > 1:
            batches = each_row_once(batches, self.accelerator)
            self.step_counts = counted_step(batches, self.accelerator, device)
        first = self.state.global_step % self.args.num_iterations == 0
        if first:
            self.held.data = None  # the states of the last step go before those of this one come
            self.held.data = self._roll_out(batches)
        data = self.held.get()
        data.check_rows(batches)
        parts = zip(batches, data.batches, data.states, strict=True)
        return [self._input(batch, tensors, states, first=first) for batch, tensors, states in parts], num_items

    def temperature_of(self, step: int) -> float:
        """What logits are divided by in rollouts of an optimizer step, and in every score of what they sampled."""
        repeats = self.args.num_iterations
        return self.args.temperature_at(step // repeats, -(-self.state.max_steps // repeats))

    @torch.no_grad()
    def _roll_out(self, batches: Sequence[GroupBatch]) -> StepData:
        """Sample, reward, decide what to learn from, and let the frozen policy score it."""
        model = self.model_wrapped
        keeps_states = self.family.encoder_is_frozen(model)
        with sampling_guarded(self), evaluation_mode(model), self.compute_loss_context_manager():
            temperature = self.temperature_of(self.state.global_step)
            rollouts = self.roll_out(
                model, batches, self.state.global_step, temperature=temperature, trainer_state=self.state
            )
            step = gather_step(rollouts, self.family, self.accelerator, self.normalizer)
            log_engine(self.metrics, rollouts)
            log_step(self.metrics, step, self.rewards.names, resampling=self.args.dynamic_sampling_tries > 0)
            self.figures.log()
            if self.args.temperature_end is not None:
                self.metrics.add("train", "temperature", torch.tensor(temperature, device=self.args.device))
            self.sampled.start()
            self.sampled.add(rollouts)
            learnt = self.learn_from(rollouts, step)
            tensors = [
                self._scored(model, rollout, part.tensors, keeps_states)
                for rollout, part in zip(rollouts, learnt, strict=True)
            ]
        counts = torch.stack([part.counts for part in learnt]).sum(0).to(self.accelerator.device)
        return StepData(
            self.state.global_step,
            tensors,
            self.accelerator.reduce(counts, reduction="sum"),
            [rollout.states if keeps_states else None for rollout in rollouts],
        )

    def _scored(
        self, model: nn.Module, rollout: Rollout, tensors: dict[str, Tensor], keeps_states: bool
    ) -> dict[str, Tensor]:
        """The tensors with the frozen policy's log-probabilities and the transcript added."""
        tensors = {"row_ids": rollout.batch.row_ids, **tensors}
        if self.reference is not None:
            batch = GroupBatch({**audio_of(rollout.batch), **tensors})
            states = rollout.states if keeps_states and self.reference.same_encoder else None
            tensors["ref_logps"] = self.reference.token_logps(
                model, batch, states, temperature=self.temperature_of(self.state.global_step)
            )
        if self.args.sft_weight > 0:
            tensors = with_transcript(tensors, rollout.batch, self.family.end_token)
        return tensors

    def _input(
        self, batch: GroupBatch, tensors: dict[str, Tensor], states: Tensor | None, *, first: bool
    ) -> GroupBatch:
        """What `compute_loss` reads: this step's audio with what was sampled for it."""
        device = batch.tokens.device
        found = {name: tensor.to(device) for name, tensor in tensors.items()}
        if first:
            found.pop("old_logps", None)  # the policy has not moved: its own scores are the old ones
        if states is None and self.family.encoder_is_frozen(self.model_wrapped):
            with torch.no_grad(), self.compute_loss_context_manager():
                states = self.family.encode(self.model_wrapped, batch)
        return GroupBatch({**audio_of(batch), **found, **({} if states is None else {"states": states})})

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, GroupScores]:
        batch = GroupBatch(inputs)
        assert self.step_counts is not None
        temperature = self.temperature_of(self.held.get().step)
        scores = self.family.score_groups(model, batch, batch.tensors.get("states"), temperature=temperature)
        sampled = batch.num_hypotheses - (self.args.sft_weight > 0)
        own = scores.select_hypotheses(slice(sampled))
        loss = self.rollout_loss(batch, own, self.held.get().counts)
        if self.args.sft_weight > 0:
            logps, keep = scores.logps[:, sampled:], scores.keep[:, sampled:]
            loss = loss + self.args.sft_weight * supervised_loss(logps, keep, self.step_counts.tokens)
            self.metrics.add_ratio("train", "loss/sft", torch.where(keep, -logps, 0.0).sum(), batch.keep[:, -1].sum())
        loss = self.scale_for_step(loss, training=True)
        self.check_finite(loss, batch)
        self.metrics.add("train", "entropy", own.entropy, own.keep)
        return (loss, scores) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if self.model.training:
            self.sampled.tell(self.state.global_step)
