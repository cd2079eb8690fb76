"""Beams against transformers' generate on a stock Whisper, and in groups against float64 loops over lists."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from audiorl.batch import GroupBatch
from audiorl.models import speech_family
from audiorl.models.beam_search import BeamSettings, beam_search
from audiorl.testing.case import group_batch
from tests.oracles_decoding import diverse_beams
from tests.tiny_models import tiny_clips, tiny_whisper
from tests.tiny_seq2seq import tiny_seq2seq

LIMIT = 7
SETTINGS = [
    {"length_penalty": 1.0},
    {"length_penalty": 0.0, "early_stopping": "never"},
    {"length_penalty": 2.0, "early_stopping": "never"},
    {"length_penalty": 2.0, "early_stopping": True},
    {"length_penalty": -1.0},
]
VOCABULARY, END = 11, 3


def by_generate(model, features: Tensor, prefix: Tensor, end: int, beams: int, **settings):
    """Sequences and scores of transformers' own beam search, nothing suppressed."""
    model.generation_config = GenerationConfig()
    config = GenerationConfig(
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=LIMIT,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=int(prefix[0, 0]),
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    return GenerationMixin.generate(model, inputs=features, decoder_input_ids=prefix, generation_config=config)


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_beams_equal_those_of_generate_on_stock_whisper(beams, settings):
    stock, processor = tiny_whisper("english")
    model, _ = tiny_whisper("english")
    family = speech_family(model, processor)
    batch = group_batch(family, tiny_clips(4), [["a fox"]] * 4)
    prefix = batch.tokens[:, 0, :2]
    expected = by_generate(stock, batch.audio, prefix, family.end_token, beams, **settings)
    for engine in ("dynamic", "static"):
        family.set_engine(engine)
        found = family.beam_groups(model, batch, beams, max_tokens=LIMIT, **settings)
        sequences = expected.sequences.unflatten(0, (4, beams))
        length = min(sequences.shape[-1], found.tokens.shape[-1])
        assert torch.equal(found.tokens[..., :length], sequences[..., :length])
        assert (found.tokens[..., length:] == family.end_token).all() and (
            sequences[..., length:] == family.end_token
        ).all()
        scores = expected.sequences_scores.unflatten(0, (4, beams))
        torch.testing.assert_close(found.scores, scores, rtol=1e-5, atol=1e-5)
    assert found.finished.any()


def test_beams_by_generate_have_the_scores_of_generate():
    """The family without a step decoder, against the call it makes."""
    model, processor = tiny_seq2seq("speech2text")
    family = speech_family(model, processor)
    clips = [clip[:7000] for clip in tiny_clips(3)]  # equally long: stock Speech2Text hears padding
    batch = group_batch(family, clips, [["a"]] * 3)
    found = family.beam_groups(model, batch, 4, max_tokens=LIMIT, length_penalty=0.5)
    stock, _ = tiny_seq2seq("speech2text")
    features = batch.audio.transpose(1, 2)
    expected = by_generate(stock, features, batch.tokens[:, 0, :1], family.end_token, 4, length_penalty=0.5)
    torch.testing.assert_close(found.scores.flatten(), expected.sequences_scores, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"no diverse beams.*num_beam_groups"):
        family.beam_groups(model, batch, 4, max_tokens=LIMIT, num_beam_groups=2, diversity_penalty=0.5)


class TableDecoder:
    """Logits that depend on a hypothesis' last two tokens, its clip and its length, as they were read and reordered."""

    def __init__(self, hypotheses: int):
        self.hypotheses, self.read = hypotheses, None

    def __call__(self, tokens: Tensor, start: int) -> Tensor:
        self.read = tokens if start == 0 else torch.cat([self.read, tokens], -1)
        assert self.read.shape[-1] == start + tokens.shape[-1]
        rows = [[table(b, tuple(ids)) for ids in group] for b, group in enumerate(self.read.tolist())]
        return torch.stack([torch.stack(group) for group in rows])

    def reorder(self, parents: Tensor) -> None:
        self.read = self.read.take_along_dim(parents[..., None], 1)


@functools.cache
def table(clip: int, ids: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(
        1000 * clip + 121 * ids[-1] + (11 * ids[-2] if len(ids) > 1 else 0) + len(ids)
    )
    logits = 1.5 * torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    return logits.index_add(0, torch.tensor([END]), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("groups, penalty", [(1, 0.0), (2, 0.6), (4, 0.6), (4, 5.0)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_diverse_beams_equal_loops_over_lists(groups, penalty, settings):
    """Clips of unequal prefixes, each against a search of its own."""
    prefixes = [[5, 6, 7], [5], [8, 9]]
    tokens = torch.full((3, 1, 5), END)
    keep = torch.zeros((3, 1, 4), dtype=torch.bool)
    for b, ids in enumerate(prefixes):
        tokens[b, 0, : len(ids)] = torch.tensor(ids)
        keep[b, 0, len(ids) - 1] = True
    batch = GroupBatch(input_values=torch.zeros(3, 1), tokens=tokens, keep=keep, row_ids=torch.arange(3))
    asked = BeamSettings(4, LIMIT, groups, penalty, **settings)
    found = beam_search(TableDecoder(4), batch, asked, end_token=END, max_tokens=100)
    for b, prefix in enumerate(prefixes):
        expected = diverse_beams(
            lambda ids, b=b, prefix=prefix: table(b, (*prefix, *ids)).log_softmax(-1).tolist(),
            end=END,
            limit=LIMIT,
            beams=4,
            groups=groups,
            diversity_penalty=penalty,
            **settings,
        )
        ids = [tuple(row[kept].tolist()) for row, kept in zip(found.tokens[b, :, 1:], found.keep[b], strict=True)]
        assert ids == [hypothesis[0] for hypothesis in expected]
        wanted = torch.tensor([hypothesis[1] for hypothesis in expected], dtype=torch.float64)
        torch.testing.assert_close(found.scores[b].double(), wanted, rtol=1e-5, atol=1e-5)
        wanted = torch.tensor([hypothesis[2] for hypothesis in expected])
        torch.testing.assert_close(found.logps[b].sum(-1), wanted, rtol=1e-5, atol=1e-5)
        assert found.tokens[b, :, : len(prefix)].tolist() == [prefix] * 4


def test_a_strong_penalty_makes_groups_begin_differently():
    model, processor = tiny_whisper("english")
    family = speech_family(model, processor)
    batch = group_batch(family, tiny_clips(2), [["a fox"]] * 2)

    def first_tokens(**settings) -> list[int]:
        found = family.beam_groups(model, batch, 4, max_tokens=LIMIT, **settings)
        return [len(set(group.tolist())) for group in found.tokens[:, :, 2]]

    assert first_tokens(temperature=0.2, num_beam_groups=4, diversity_penalty=50.0) == [4, 4]
    assert min(first_tokens(temperature=0.2)) < 4


def test_the_end_of_the_decoder_ends_the_search():
    model, processor = tiny_whisper("english")
    family = speech_family(model, processor)
    batch = group_batch(family, tiny_clips(1), [["a fox"]])
    found = family.beam_groups(model, batch, 2, max_tokens=100, length_penalty=20.0, early_stopping="never")
    assert found.tokens.shape[-1] == 49 and not found.finished.all()


@pytest.mark.parametrize(
    "wrong, name",
    [
        ({"num_beams": 0}, "num_beams"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"num_beam_groups": 3, "diversity_penalty": 1.0}, "num_beam_groups"),
        ({"num_beam_groups": 2}, "diversity_penalty"),
        ({"diversity_penalty": 0.5}, "diversity_penalty"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"early_stopping": "soon"}, "early_stopping"),
        ({"temperature": 0.0}, "temperature"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong, name):
    with pytest.raises(ValueError, match=rf"Beam search: {name}=.* out of its range\. Use a value"):
        BeamSettings(**{"num_beams": 4, "max_tokens": LIMIT, **wrong})


def test_more_beams_than_the_vocabulary_has_room_for_are_refused():
    batch = GroupBatch(
        input_values=torch.zeros(1, 1),
        tokens=torch.tensor([[[5, END]]]),
        keep=torch.tensor([[[True]]]),
        row_ids=torch.tensor([0]),
    )
    with pytest.raises(ValueError, match="vocabulary has 11 tokens"):
        beam_search(TableDecoder(6), batch, BeamSettings(6, LIMIT), end_token=END, max_tokens=10)
