"""The recipe's parts, against values worked by hand, and its reproducibility."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperProcessor

from audiorl.demo.train_base import (
    Corpus,
    Recipe,
    build_processor,
    learning_rate_share,
    letter_loss,
    main,
    mask_spectrogram,
    token_targets,
    train,
)

TEXTS = ["send ten red boxes", "where is ann", "dial one two six nine", "call tim at ten past six"]


@pytest.fixture(scope="module")
def processor() -> WhisperProcessor:
    return build_processor(TEXTS, merges=10)


def small_corpus() -> Corpus:
    features = torch.randn(4, 80, 300, generator=torch.Generator().manual_seed(0))
    return Corpus(features.half(), TEXTS)


def test_learning_rate_rises_linearly_and_falls_by_half_a_cosine() -> None:
    recipe = Recipe(steps=110, warmup=10)
    shares = [learning_rate_share(step, recipe) for step in (0, 4, 9, 10, 60, 110)]
    assert shares == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.0])


def test_targets_are_the_next_ids_with_the_end_and_without_the_prefix(processor: WhisperProcessor) -> None:
    inputs, targets = token_targets(processor, TEXTS[:2])
    for row, text in enumerate(TEXTS[:2]):
        ids = processor.tokenizer(text).input_ids
        assert inputs[row, : len(ids) - 1].tolist() == ids[:-1]
        assert targets[row, : len(ids) - 1].tolist() == [-100, *ids[2:]]
        assert (targets[row, len(ids) - 1 :] == -100).all()


def test_masks_are_seeded_and_hide_a_small_part() -> None:
    features = small_corpus().features.float()
    first, second = (mask_spectrogram(features.clone(), np.random.default_rng(1)) for _ in range(2))
    torch.testing.assert_close(first, second)
    changed = (first != features).float().mean()
    assert 0 < changed <= 10 / 80 + 30 / 300


def test_letter_loss_is_near_zero_for_frames_that_spell_the_text_and_high_for_others() -> None:
    spelling = [3, 27, 1, 27, 2]  # "c", blank, "a", blank, "b"; 0 is the space, 27 the blank
    logits = torch.nn.functional.one_hot(torch.tensor([spelling]), 28).float() * 30
    assert letter_loss(logits, ["cab"]) < 1e-6
    assert letter_loss(logits, ["bac"]) > 1.0


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(processor: WhisperProcessor) -> None:
    def weights(seed: int) -> torch.Tensor:
        recipe = Recipe(clips=4, steps=2, batch_size=2, warmup=1, seed=seed)
        model = train(recipe, processor, small_corpus(), show_progress=False)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_a_batch_that_is_repeated_is_learnt(processor: WhisperProcessor) -> None:
    def loss(steps: int) -> float:
        recipe = Recipe(clips=4, steps=steps, batch_size=4, warmup=1)
        model = train(recipe, processor, small_corpus(), show_progress=False)
        inputs, targets = token_targets(processor, TEXTS)
        with torch.no_grad():
            logits = model(input_features=small_corpus().features.float(), decoder_input_ids=inputs).logits
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))

    assert loss(15) < 0.7 * loss(1)


def test_the_command_line_saves_a_checkpoint_and_prints_its_figures_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"output_dir": tmp_path, "clips": 3, "steps": 2, "batch_size": 2, "measure_clips": 2}
    main([part for name, value in options.items() for part in (f"--{name}", str(value))])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["recipe"]["steps"] == 2 and set(figures["wer"]) == {"base", "tune", "held_out"}
    assert (tmp_path / "model.safetensors").exists()
    WhisperProcessor.from_pretrained(tmp_path)


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(SystemExit):
        main(["--step", "2"])
