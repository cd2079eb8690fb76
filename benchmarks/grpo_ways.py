"""The two ways of one GRPO step that grpo_step.py compares: the library's, and stock calls with the audio repeated."""

from __future__ import annotations

from pathlib import Path

import torch
from counting import Sharing, forward_flops, step_flops
from rollout_ways import PREFIX_TOKENS, Setting, endless_model, prefix_batch, settings_of
from safetensors.torch import save_file
from scoring_ways import group_family
from torch import Tensor

from audiorl.losses.advantages import ADVANTAGES
from audiorl.losses.policy import PolicyBatch, PolicyObjective, policy_counts
from audiorl.models.head import score_tokens
from audiorl.models.sampling import rollout_noise
from audiorl.rewards import RewardSet

LEARNING_RATE = 1e-6
# K samples of random weights have nothing in common with a transcript but characters, so that is what is rewarded; the
# transcripts are as long as the samples, since one that is much shorter puts all of them at the reward's floor
REWARD = "negative_cer"


class GrpoTask:
    """Rollout, rewards, policy pass and update by one way; see measuring.Task. `finish` gives the loss.

    Args:
        row: "groups" or "audio".
        frozen: no gradient in the encoder; the library then encodes once for rollout and policy pass.
        gradients: a file for the gradients of one policy pass over hypotheses that both ways are given.
    """

    def __init__(self, row: str, setting: Setting, frozen: bool, gradients: Path):
        self.setting, self.frozen = setting, frozen
        self.model, self.batch = endless_model(setting), prefix_batch(setting)
        self.family = group_family(self.model, setting.shape)
        self.family.whisper_text.tokenizer.decode = _written
        if frozen:
            self.family.freeze_encoder(self.model)
        # the stock way sees no grouped attention
        if row == "audio":
            self.model.set_attn_implementation("sdpa")
        self.rollout = {"groups": self.grouped_rollout, "audio": self.repeated_rollout}[row]
        self.scores = {"groups": self.grouped_scores, "audio": self.repeated_scores}[row]
        self.rewards, self.objective = RewardSet([REWARD]), PolicyObjective("grpo", epsilon=0.2)
        self.transcripts = [_written(ids.tolist()) for ids in self._random_tokens(setting.tokens)[:, 0]]
        self.step, self.loss = 0, torch.zeros(())
        self.states: Tensor | None = None
        self._agree(gradients)
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE)

    def run(self) -> None:
        self.step += 1
        tokens, keep = self.rollout()
        rewards = self._rewards(tokens, keep)
        self.loss = self._loss(tokens, keep, rewards)
        self.loss.backward()
        self.optimizer.step()

    def finish(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        self.states = None
        return self.loss.item()

    # ---- the two ways ----

    def grouped_rollout(self) -> tuple[Tensor, Tensor]:
        noise = rollout_noise(
            range(self.setting.clips),
            seed=0,
            step=self.step,
            num_generations=self.setting.hypotheses,
            max_tokens=self.setting.tokens,
        )
        if self.frozen:
            self.states = self.family.encode(self.model, self.batch)
        samples = self.family.sample_groups(self.model, self.batch, noise.to(self.setting.device), self.states)
        return samples.tokens, samples.keep

    def grouped_scores(self, tokens: Tensor, keep: Tensor) -> Tensor:
        batch = self.batch.replace(tokens=tokens, keep=keep)
        return self.family.score_groups(self.model, batch, self.states).logps

    def repeated_rollout(self) -> tuple[Tensor, Tensor]:
        torch.manual_seed(self.step)
        with torch.no_grad():
            ids = self.model.generate(self.batch.audio, **settings_of(self.setting))[:, -self.setting.tokens :]
        prefix = self.batch.tokens[:, :, :PREFIX_TOKENS].expand(-1, self.setting.hypotheses, -1)
        tokens = torch.cat([prefix, ids.unflatten(0, prefix.shape[:2])], -1)
        return tokens, _behind_prefix(tokens)

    def repeated_scores(self, tokens: Tensor, keep: Tensor) -> Tensor:
        audio = self.batch.audio.repeat_interleave(self.setting.hypotheses, 0)
        out = self.model.model(input_features=audio, decoder_input_ids=tokens[..., :-1].flatten(0, 1), use_cache=False)
        hidden = out.last_hidden_state.unflatten(0, tokens.shape[:2])
        return score_tokens(hidden, self.model.get_output_embeddings(), tokens[..., 1:], keep, hidden, 1.0).logps

    # ---- what they share ----

    def _rewards(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """(B, K)."""
        texts = [text for group in self.family.text(tokens, keep) for text in group]
        ids = [row[kept].tolist() for row, kept in zip(tokens[..., 1:].flatten(0, 1), keep.flatten(0, 1), strict=True)]
        repeated = [text for text in self.transcripts for _ in range(self.setting.hypotheses)]
        table = self.rewards(texts, ids, {"text": repeated}, [f"clip {i}" for i in range(len(texts))])
        return torch.tensor(table.total, device=tokens.device).view(tokens.shape[:2])

    def _loss(self, tokens: Tensor, keep: Tensor, rewards: Tensor) -> Tensor:
        advantages = ADVANTAGES["group"](rewards, torch.ones_like(rewards, dtype=torch.bool))
        logps = self.scores(tokens, keep)
        return self.objective(PolicyBatch(logps, logps.detach(), keep, advantages), policy_counts(keep)).loss

    def _random_tokens(self, length: int) -> Tensor:
        """(B, K, length) the same in every process."""
        shape = (self.setting.clips, self.setting.hypotheses, length)
        generator = torch.Generator().manual_seed(2)
        return torch.randint(2, self.setting.shape.vocabulary - 1, shape, generator=generator).to(self.setting.device)

    def _agree(self, gradients: Path) -> None:
        """One policy pass over random hypotheses with random rewards, in the precision that is measured."""
        prefix = self.batch.tokens[:, :, :PREFIX_TOKENS].expand(-1, self.setting.hypotheses, -1)
        tokens = torch.cat([prefix, self._random_tokens(self.setting.tokens)], -1)
        rewards = torch.rand(tokens.shape[:2], generator=torch.Generator().manual_seed(3)).to(tokens.device)
        loss = self._loss(tokens, _behind_prefix(tokens), rewards)
        loss.backward()
        found = {name: weight.grad for name, weight in self.model.named_parameters() if weight.grad is not None}
        # at the first update the loss is zero whatever the policy, so its size is that of the log-probabilities
        with torch.no_grad():
            size = self.scores(tokens, _behind_prefix(tokens)).sum()
        save_file({**{name: grad.float() for name, grad in found.items()}, "loss": size.float()}, gradients)
        self.model.zero_grad(set_to_none=True)


def _written(ids: list[int], **options: bool) -> str:
    """Any text that follows from the tokens."""
    return " ".join(map(str, ids))


def _behind_prefix(tokens: Tensor) -> Tensor:
    keep = torch.ones(tokens[..., 1:].shape, dtype=torch.bool, device=tokens.device)
    keep[..., : PREFIX_TOKENS - 1] = False
    return keep


def predicted_flops(row: str, setting: Setting, frozen: bool) -> float:
    """Rollout, and forward and backward of the policy pass; a backward counts as two forwards. The encoder's is left
    out where it is frozen, and for groups its second forward too."""
    hypotheses = setting.clips * setting.hypotheses
    rows = setting.clips if row == "groups" else hypotheses
    work = Sharing(rows, rows, hypotheses, setting.tokens, hypotheses * setting.tokens)
    forward = forward_flops(setting.shape, work)
    total = sum(forward.values()) + step_flops(setting.shape, work)
    if frozen:
        total -= (3 if row == "groups" else 2) * forward["encoder"]
    return total
