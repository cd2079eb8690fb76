"""What tests of several trainers share: scores by stock forwards, a step's inputs, a policy moved off its reference."""

from __future__ import annotations

import torch

from audiorl import GRPOTrainer


def sequence_logp(model, features, ids, first_kept) -> torch.Tensor:
    """Log-probability of one transcript by a stock forward: the oracle."""
    logits = model(input_features=features[None], decoder_input_ids=torch.tensor([ids[:-1]])).logits[0]
    logps = logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1)
    return logps[first_kept - 1 :].sum()


def stock_scores(model, features, ids, keep, temperature):
    """Log-probability and entropy of the kept tokens of one hypothesis by a stock forward."""
    logits = model(input_features=features[None], decoder_input_ids=ids[None, :-1]).logits[0] / temperature
    log_probabilities = logits.log_softmax(-1)
    logps = log_probabilities.gather(-1, ids[1:, None]).squeeze(-1)
    return logps[keep], -(log_probabilities.exp() * log_probabilities).sum(-1)[keep]


def first_inputs(grpo: GRPOTrainer, count: int = 2):
    """What `compute_loss` gets for the first `count` rows in one micro-batch."""
    batch = grpo.data_collator([grpo.train_dataset[i] for i in range(count)])
    (inputs,), _ = grpo.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    grpo.current_gradient_accumulation_steps = 1
    grpo.model.train()
    return inputs


def nudge(model, amount: float = 0.01, seed: int = 3) -> None:
    """Move the policy away from its reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
