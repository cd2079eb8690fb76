"""The transducers against stock losses and `generate`, and their samples against all alignments counted one by one."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model

from audiorl.models import disable_dropout, speech_family
from audiorl.models.ctc_search import as_hypotheses
from audiorl.models.transducer_search import Drawn, Limits, TransducerSteps, best_transcripts, most_probable, walk
from audiorl.testing.case import gradients, group_batch
from tests import oracles_transducer
from tests.tiny_models import tiny_clips
from tests.tiny_transducers import KINDS, LOOKAHEAD, PROMPTS, tiny_transducer

ROWS = [{"language": "german"}, {"language": "fr-FR"}]
TEXTS = [["the fox", "a dog", ""], ["dogs", "so", "jumps"]]
needs_models = pytest.mark.skipif(len(KINDS) < 4, reason="this transformers lacks some transducers")


def ready(kind: str):
    model, processor = tiny_transducer(kind)
    family = speech_family(model, processor)
    disable_dropout(model)
    return family, model


def heard_alone(model, processor, clip, row) -> dict:
    """What the stock model takes of one clip, from its own processor."""
    language = {"language": "de" if row["language"] == "german" else row["language"]}
    options = language if hasattr(processor, "prompt_dictionary") else {}
    made = processor([clip], sampling_rate=16_000, **options)
    return {name: value for name, value in made.items() if name != "labels"}


def stock_logits(model, processor, clip, row, ids) -> torch.Tensor:
    """(S, U + 1, V + durations) of one clip and text by themselves."""
    given = heard_alone(model, processor, clip, row)
    features = {name: value for name, value in given.items() if name != "decoder_input_ids"}
    encoded = model.get_audio_features(**features)
    read = torch.tensor([[model.config.blank_token_id, *ids]])
    frames = int(encoded.attention_mask.sum())
    logits = model(encoder_outputs=encoded, decoder_input_ids=read).logits
    return logits.view(-1, len(ids) + 1, logits.shape[-1])[:frames]  # the stock model drops the axis of an empty text


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_stock_forwards_of_single_clips(kind):
    """By one recursion more: the plain alpha of the paper, in float64."""
    family, model = ready(kind)
    clips = tiny_clips(2)
    scores = family.score_groups(model, group_batch(family, clips, TEXTS, ROWS), temperature=0.8)
    for b, clip in enumerate(clips):
        for k, text in enumerate(TEXTS[b]):
            ids = family.transcripts.ids(text)
            logits = stock_logits(model, family.processor, clip, ROWS[b], ids) / 0.8
            expected = oracles_transducer.log_likelihood(
                logits.tolist(), ids, family.vocab_size, family.end_token, family.durations
            )
            assert scores.logps[b, k].item() == pytest.approx(expected, rel=1e-5)


@needs_models
def test_a_tdt_model_is_scored_by_minus_its_own_loss_and_so_are_its_gradients():
    family, model = ready("parakeet_tdt")
    clips = tiny_clips(2)
    texts = [["the fox", "a dog", "o"], *TEXTS[1:]]  # its loss takes no empty one
    weights = torch.tensor([[1.0, -2.0, 0.5], [3.0, -1.0, 2.0]])
    scores = family.score_groups(model, group_batch(family, clips, texts))
    found = gradients(model, (scores.logps.squeeze(-1) * weights).sum())
    total = torch.zeros(())
    for b, clip in enumerate(clips):
        for k, text in enumerate(texts[b]):
            given = heard_alone(model, family.processor, clip, ROWS[b])
            ids = family.transcripts.ids(text)
            labels = torch.tensor([ids], dtype=torch.long)
            read = torch.tensor([[family.end_token, *ids]])
            loss = model(**given, labels=labels, decoder_input_ids=read, reduction="sum").loss
            assert scores.logps[b, k].item() == pytest.approx(-loss.item(), rel=1e-5)
            total = total - loss * weights[b, k]
    for name, gradient in gradients(model, total).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-6)


@pytest.mark.parametrize("blank", [-1.5, -4.0, -30.0])
@pytest.mark.parametrize("kind", KINDS)
def test_transcribing_is_what_generate_writes(kind, blank):
    """With blanks as they are, rarer, and never: then the limits of `generate` end frames and transcripts."""
    family, model = ready(kind)
    with torch.no_grad():
        model.joint.head.bias[family.end_token] += blank
        if family.durations:
            model.joint.head.bias[family.vocab_size] += 6.0  # of no frame
    clips = tiny_clips(2, seconds=0.8)
    tags = {"languages": [row["language"] for row in ROWS]}
    found = family.transcribe(model, family.features(clips), **tags)
    for b, clip in enumerate(clips):
        given = heard_alone(model, family.processor, clip, ROWS[b])
        with pytest.warns(UserWarning, match="max_length"):
            ids = model.generate(**given).sequences[0].tolist()
        said = [i for i in ids if i not in (family.end_token, model.config.pad_token_id)]
        expected = family.processor.tokenizer.decode(said, skip_special_tokens=True, group_tokens=False)
        assert found[b] == expected
    assert any(found) or blank > -30


class TableModel(torch.nn.Module):
    """A transducer of four symbols whose logits are a table: of the frame, and of the last symbol."""

    blank, symbols = 3, 4

    def __init__(self, durations):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        width = self.symbols + len(durations or ())
        self.table = torch.randn(3, self.symbols, width, generator=generator, dtype=torch.float64)
        self.config = type("", (), {"blank_token_id": self.blank, "vocab_size": self.symbols, "num_decoder_layers": 1})
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def decoder(self, ids, cache):
        output = torch.nn.functional.one_hot(ids[:, -1:], self.symbols).double()
        cache.update(output, output.mT[:1].new_zeros(1, len(ids), 1), output.new_zeros(1, len(ids), 1))
        return output

    def joint(self, decoder_hidden_states, encoder_hidden_states):
        last, frame = decoder_hidden_states.argmax(-1), encoder_hidden_states[..., 0].long()
        return self.table[frame, last]

    def logits(self, transcript):
        """(S, U + 1, V + durations)."""
        return self.table[:, [self.blank, *transcript]].tolist()


def all_that_can_be_said(model, durations, longest):
    """Likelihood of every transcript of up to `longest` symbols."""
    known = {(): 0.0}
    texts = [()]
    for _ in range(longest):
        texts = [(*text, s) for text in texts for s in range(model.symbols) if s != model.blank]
        known.update(dict.fromkeys(texts, 0.0))
    counted = (model.symbols, model.blank, durations)
    return {text: oracles_transducer.likelihood(model.logits(text), text, *counted) for text in known}


@pytest.mark.parametrize("durations", [None, (0, 1, 2)])
def test_samples_are_as_frequent_as_the_alignments_that_write_them(durations):
    """Against the oracle's walk, which is the likelihood where every step counts, and more where it ends beyond."""
    model, draws, most = TableModel(durations), 20_000, 2
    heard = torch.arange(3.0, dtype=torch.float64)[None, :, None]
    steps = TransducerSteps(model, heard, durations, 1.0)
    length = 3 * most * (1 if durations is None else 2)
    noise = torch.rand(draws, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clips, frames = torch.zeros(draws, dtype=torch.long), torch.full((draws,), 3)
    limits = Limits(most, torch.full((draws,), 100), 100)
    symbols, counts = walk(steps, clips, frames, Drawn(noise, most, 1 if durations is None else 2), limits)
    drawn = Counter(tuple(row[:n].tolist()) for row, n in zip(symbols, counts.tolist(), strict=True))
    says = oracles_transducer.walked(model.logits, 3, most, model.symbols, model.blank, durations)
    assert sum(says.values()) == pytest.approx(1)
    for text, p in says.items():
        assert abs(drawn[text] / draws - p) < 5 * math.sqrt(p * (1 - p) / draws) + 1e-4, text
    likelihoods = all_that_can_be_said(model, durations, 3)
    assert (
        all(p <= says[text] + 1e-12 for text, p in likelihoods.items() if durations) and sum(likelihoods.values()) < 1
    )
    if durations is None:  # but for frames that reach `most`, the two are one
        assert all(p == pytest.approx(says[text]) for text, p in likelihoods.items() if len(text) < most)


@pytest.mark.parametrize("durations", [None, (0, 1, 2), (1, 3)])
def test_a_wide_beam_finds_the_most_probable_transcripts(durations):
    model = TableModel(durations)
    steps = TransducerSteps(model, torch.arange(3.0, dtype=torch.float64)[None, :, None], durations, 1.0)
    says = all_that_can_be_said(model, durations, 3)
    ranked = [text for text in sorted(says, key=lambda text: says[text], reverse=True) if says[text]]
    assert best_transcripts(steps, [3], 500, 3, 3)[0] == ranked
    assert best_transcripts(steps, [3], 500, 2, 3)[0] == [text for text in ranked if len(text) <= 2]
    narrow = best_transcripts(steps, [3], 8, 3, 3)[0]
    assert ranked[0] in narrow and len(narrow) == 8


@needs_models
def test_the_attention_context_is_the_processors():
    model, processor = tiny_transducer("nemotron_streaming")
    clips, texts = tiny_clips(2), TEXTS
    found = []
    for lookahead in LOOKAHEAD:
        processor.set_num_lookahead_tokens(lookahead)
        family = speech_family(model, processor)
        batch = group_batch(family, clips, texts)
        states = family.encode(model, batch)
        changed = batch.audio.clone()
        changed[:, :, 40:] += 1.0  # ten frames of the encoder
        later = family.encode(model, batch.replace(input_features=changed))
        moved = (later - states).abs().amax((0, 2)) > 1e-6
        # a frame hears what comes in its chunk, and no more
        assert not moved[: 10 // (lookahead + 1) * (lookahead + 1)].any() and moved[10:12].any()
        found.append(family.score_groups(model, batch).logps)
    assert (found[0] - found[1]).abs().min() > 1e-4 and (found[1] - found[2]).abs().min() > 1e-4


@needs_models
def test_a_language_is_asked_for_by_its_prompt():
    family, model = ready("nemotron3_5")
    clips = tiny_clips(1)

    def logp(**row) -> float:
        return family.score_groups(model, group_batch(family, clips, [["a fox"]], [row])).logps.item()

    assert logp(language="german") == logp(language="de-DE") != logp(language="fr-FR")
    assert logp() == logp(language=None) == pytest.approx(logp(language="auto"))
    assert family.tokenize("a", language="de").ids[0] == family.vocab_size + PROMPTS["de"]
    family.set_defaults(language="fr-FR")
    assert logp() == logp(language="fr-FR")
    with pytest.raises(ValueError, match=r"no language 'klingon'. Use one of auto, de"):
        family.tokenize("a", language="klingon")
    with pytest.raises(ValueError, match="only task is 'transcribe'"):
        family.set_defaults(task="translate")


@needs_models
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda family, model, batch: family.tokenize("a", prompt="names"), "no place for a prompt"),
        (lambda family, model, batch: family.tokenize("a", task="translate"), "only task is 'transcribe'"),
        (lambda family, model, batch: family.tokenize("Ω"), "no symbol for 'ω'"),
        (lambda family, model, batch: family.tokenize("a <blank>"), "no symbol for"),
        (lambda family, model, batch: family.transcribe(model, family.features(tiny_clips(1)), top_k=3), "top_k"),
        (
            lambda family, model, batch: family.beam_groups(
                model, batch, 4, max_tokens=3, num_beam_groups=2, diversity_penalty=1.0
            ),
            "no groups of beams",
        ),
    ],
)
def test_what_a_transducer_cannot_do_is_said(change, problem):
    family, model = ready("parakeet_rnnt")
    batch = group_batch(family, tiny_clips(1), [["a"]])
    with pytest.raises(ValueError, match=problem):
        change(family, model, batch)


@needs_models
@pytest.mark.parametrize("kind", ["parakeet_rnnt", "parakeet_tdt"])
def test_what_greedy_decoding_writes_is_top(kind):
    family, model = ready(kind)
    with torch.no_grad():
        model.joint.head.bias[family.end_token] -= 5.0
    clips = tiny_clips(3, seconds=0.6)
    batch = group_batch(family, clips, [["a", "so"]] * 3)
    frames = family._frames(batch)
    steps = TransducerSteps(model, model.encoder_projector(family.encode(model, batch)), family.durations, 1.0)
    limits = Limits(family.most, 100 * frames, 100)
    best, counts = walk(steps, torch.arange(3), frames, most_probable, limits)
    assert counts.any()
    tokens, keep = as_hypotheses(
        torch.stack([best, best.roll(1, 1)], 1), torch.stack([counts, counts], 1), family.end_token
    )
    top = family.score_groups(model, batch.replace(tokens=tokens, keep=keep)).is_top1[..., 0]
    assert top[:, 0].all() and not top[counts > 1, 1].all()


@needs_models
def test_a_processor_of_another_checkpoint_is_refused():
    model, processor = tiny_transducer("parakeet_rnnt")
    processor.blank_token_id = 5
    with pytest.raises(ValueError, match=r"model's blank is symbol 48 .* the tokenizer's is 5"):
        speech_family(model, processor)


@needs_models
def test_an_adapter_sits_in_encoder_prediction_and_joint_network():
    family, model = ready("parakeet_tdt")
    batch = group_batch(family, tiny_clips(2), TEXTS)
    targets = ["q_proj", "embedding", "decoder_projector", "encoder_projector", "head"]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    family.score_groups(adapted, batch).logps.sum().backward()
    trained = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
    for part in targets:
        assert any(part in name and grad.any() for name, grad in trained.items() if grad is not None), part
    assert all(grad is not None for grad in trained.values())


@needs_models
def test_half_precision_computes_its_statistics_in_float32():
    family, model = ready("parakeet_rnnt")
    batch = group_batch(family, tiny_clips(2), TEXTS)
    expected = gradients(model, family.score_groups(model, batch).logps.sum())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = family.score_groups(model, batch)
    assert scores.logps.dtype == torch.float32
    found = gradients(model, scores.logps.sum())
    for name in ("joint.head.weight", "encoder_projector.weight"):
        assert (found[name] - expected[name]).norm() < 0.05 * expected[name].norm()
