"""vLLM as the sampler of rollouts. It wants an environment of its own, in which audiorl is installed beside it; run

    python -m pytest tests/engines -m slow

there. Elsewhere these tests are skipped.
"""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from audiorl.batch import GroupSamples
from audiorl.collator import SpeechCollator
from audiorl.datasets import speech_rows
from audiorl.models import speech_family
from audiorl.models.engines import Draw
from audiorl.models.engines import vllm as module
from audiorl.models.engines.vllm import EngineMismatchError, VLLMEngine
from tests import tiny_audio_llms
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper
from tests.trainers import grpo_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed in this environment"),
    # of vLLM and the packages that it brings
    pytest.mark.filterwarnings("ignore"),
]
# vLLM's attention on a CPU takes heads of 32 and more
WIDE = {"d_model": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2}


def whisper() -> tuple[Any, Any]:
    return tiny_whisper("multilingual", **WIDE)


def language_model(kind: str) -> tuple[Any, Any]:
    with pytest.MonkeyPatch.context() as patch:
        heads = {"head_dim": 32, "num_attention_heads": 1, "num_key_value_heads": 1}
        patch.setattr(tiny_audio_llms, "TEXT", {**tiny_audio_llms.TEXT, **heads})
        return tiny_audio_llms._build.__wrapped__(kind)  # not from the cache, nor into it


class Policy:
    """A model with its engine, and a batch of three clips and a placeholder."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.family = model.eval(), speech_family(model, processor)
        self.family.install(model)
        rows = [
            {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": "dog", "language": "english"}
            for clip in tiny_clips(4)
        ]
        rows[1]["prompt"] = "brown fox"
        batch = SpeechCollator(self.family, ("text",))(list(speech_rows(rows)))
        self.batch = batch.without(torch.tensor([False, False, False, True]))
        self.engine = VLLMEngine(self.family, model, max_model_length=400)

    def sample(self, step: int = 0, hypotheses: int = 4, temperature: float = 0.8) -> GroupSamples:
        self.engine.sync(self.model)
        with torch.no_grad():
            states = self.family.encode(self.model, self.batch)
        draw = Draw(hypotheses, 12, temperature, None, 7, step)
        (samples,) = self.engine.sample(self.model, [self.batch], [states], draw)
        return samples


def difference(samples: GroupSamples) -> float:
    assert samples.engine_logps is not None and samples.keep[:3].any(-1).any(-1).all() and not samples.keep[3].any()
    return float((samples.logps - samples.engine_logps).abs()[samples.keep].max())


def move(module: Any, scale: float = 0.05) -> None:
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(scale * weight.abs().mean() * torch.randn_like(weight))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(*whisper())


def test_log_probabilities_are_the_policys_before_and_after_it_moves(policy):
    first = policy.sample()
    assert difference(first) < 1e-4
    assert torch.equal(policy.sample().tokens, first.tokens) and not torch.equal(policy.sample(1).tokens, first.tokens)
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    for part in (policy.model.get_encoder(), policy.model.get_decoder()):
        move(part)
        moved = policy.sample()
        assert difference(moved) < 1e-4
        assert not torch.equal(moved.logps, first.logps)
        policy.model.load_state_dict(before)
    assert torch.equal(policy.sample().tokens, first.tokens)


def test_prefixes_with_a_prompt_are_read_as_they_are(policy):
    samples, lengths = policy.sample(), policy.batch.keep[:, 0].int().argmax(-1) + 1
    assert lengths[1] > lengths[0]
    for b in (0, 1):
        assert torch.equal(samples.tokens[b, 0, : lengths[b]], policy.batch.tokens[b, 0, : lengths[b]])


def test_first_tokens_are_as_frequent_as_their_probability(policy):
    samples = policy.sample(hypotheses=400, temperature=1.0)
    start = int(policy.batch.keep[0, 0].int().argmax()) + 1
    drawn = Counter(samples.tokens[0, :, start].tolist())
    likely = {
        int(t): float(p.exp()) for t, p in zip(samples.tokens[0, :, start], samples.logps[0, :, start - 1], strict=True)
    }
    for token, probability in likely.items():
        spread = (400 * probability * (1 - probability)) ** 0.5
        assert abs(drawn[token] - 400 * probability) < 5 * spread + 1


def test_a_prompt_that_leaves_no_room_is_refused(policy, monkeypatch):
    monkeypatch.setattr(policy.engine, "positions", 4)
    with pytest.raises(ValueError, match="Raise vllm_max_model_length"):
        policy.sample()


def test_weights_that_do_not_arrive_stop_the_run(policy, monkeypatch):
    policy.sample()
    monkeypatch.setattr(module, "repack_head", lambda served: 0)
    move(policy.model, 0.5)
    with pytest.raises(EngineMismatchError, match="Its weights are not the policy's"):
        policy.sample()


def test_an_adapter_is_merged_on_the_way(policy):
    adapted = get_peft_model(whisper()[0], LoraConfig(target_modules=["q_proj", "fc1"], init_lora_weights=False))
    policy.family.install(adapted)
    policy.model, before = adapted.eval(), policy.model
    samples = policy.sample()
    assert difference(samples) < 1e-4
    with adapted.disable_adapter(), torch.no_grad():
        assert not torch.allclose(policy.family.score_groups(adapted, policy.batch).logps[0], samples.logps[0, :1, :1])
    policy.model = before


@pytest.mark.parametrize("kind", ["qwen3_asr", "qwen2_audio"])
def test_audio_language_models_agree_before_and_after_tower_or_decoder_move(kind):
    policy = Policy(*language_model(kind))
    first = policy.sample()
    assert difference(first) < 2e-4
    for part in (policy.model.model.audio_tower, policy.model.get_decoder(), policy.model.get_output_embeddings()):
        before = policy.sample().logps
        move(part, 0.2)
        moved = policy.sample()
        assert difference(moved) < 2e-4
        assert moved.logps.shape != before.shape or not torch.equal(moved.logps, before)


def test_more_prompts_than_vllm_reads_in_a_step(monkeypatch):
    """1,200 of them; a prompt that is read in parts ends vLLM on a CPU, "CPU Generator does not use offset"."""
    monkeypatch.setattr(module, "check_agreement", lambda *of: None)
    policy = Policy(*language_model("qwen2_audio"))
    samples = policy.sample(hypotheses=400)
    # random weights write the placeholder of the audio now and then, behind which vLLM reads something else
    strange = ((samples.tokens[..., 1:] == policy.family.audio_token_id) & samples.keep).any(-1)
    assert samples.keep[:3].any(-1).all() and 0 < strange.sum() < 60
    assert difference(samples._replace(keep=samples.keep & ~strange[..., None])) < 2e-4


def test_a_trainer_learns_from_its_samples(tmp_path):
    model, processor = whisper()
    trainer = grpo_rows.trainer(
        tmp_path,
        trainer_model=model,
        trainer_processing_class=processor,
        rollout_engine="vllm",
        language="english",
        gradient_accumulation_steps=2,
        max_completion_length=36,
        max_steps=2,
        learning_rate=1e-2,
    )
    trainer.train()
    gaps = grpo_rows.logged(trainer, "sampling/sampling_logp_difference/mean")
    ratios = grpo_rows.logged(trainer, "sampling/importance_sampling_ratio/mean")
    assert len(gaps) == 2 and max(gaps) < 1e-4 and ratios == pytest.approx([1.0, 1.0], abs=1e-3)
