"""The transducer likelihood against all alignments counted one by one, stock losses, and the memory it takes."""

from __future__ import annotations

import importlib
import importlib.util
import math

import pytest
import torch
from torch import Tensor, nn

from audiorl.losses import transducer, transducer_scores
from audiorl.losses.transducer import StepStatistics, lattice_logps
from tests import oracles_transducer
from tests.live_memory import LiveMemory

SYMBOLS, BLANK, WIDTH = 5, 3, 4
# Hypotheses of three clips with 4, 3 and 1 frames; padding is any symbol at all.
FRAMES = [4, 3, 1]
TEXTS = [[[0, 1], [], [4, 4, 0]], [[2], [1, 1], [0, 1, 4]], [[0], [1, 4], []]]
DURATIONS = pytest.mark.parametrize("durations", [None, (0, 1, 2), (2, 0, 1, 4), (1,)], ids=str)


class Joint(nn.Module):
    """A joint network of a few numbers."""

    def __init__(self, width: int, symbols: int, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.head = nn.Linear(width, symbols).to(dtype)
        self.called: list[int] = []

    def forward(self, audio: Tensor, text: Tensor) -> Tensor:
        self.called.append(len(audio))
        return self.head((audio + text).tanh())


def tiny(durations, seed: int = 0) -> tuple[Joint, dict[str, Tensor]]:
    """A joint network, and audio (3, 4, D), text (3, 3, 4, D), frames, tokens (3, 3, 3), lengths."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        joint = Joint(WIDTH, SYMBOLS + len(durations or ()))
        joint.head.weight.data.mul_(4)
        audio = torch.randn(3, 4, WIDTH, dtype=torch.float64)
        text = torch.randn(3, 3, 4, WIDTH, dtype=torch.float64)
        tokens = torch.randint(0, SYMBOLS, (3, 3, 3))
    for b, group in enumerate(TEXTS):
        for k, ids in enumerate(group):
            tokens[b, k, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    lengths = torch.tensor([[len(ids) for ids in group] for group in TEXTS])
    return joint, {"audio": audio, "text": text, "frames": torch.tensor(FRAMES), "tokens": tokens, "lengths": lengths}


def scored(joint: Joint, given: dict[str, Tensor], durations, **more):
    settings = {"symbols": SYMBOLS, "blank": BLANK, "durations": durations, "parameters": [*joint.parameters()], **more}
    return transducer_scores(joint, **given, **settings)


def all_logits(joint: Joint, given: dict[str, Tensor], b: int, k: int) -> Tensor:
    """(S, U + 1, V + durations) of one hypothesis."""
    frames, length = int(given["frames"][b]), int(given["lengths"][b, k])
    return joint(given["audio"][b, :frames, None], given["text"][b, k, None, : length + 1])


@pytest.fixture(params=[10**6, 7], ids=["one chunk", "a node at a time"])
def chunk(request, monkeypatch):
    """In one go, and node by node, transcript by transcript."""
    monkeypatch.setattr(transducer, "CPU_CHUNK", request.param)
    monkeypatch.setattr(transducer, "CPU_PIECE", request.param)
    monkeypatch.setattr(transducer, "CPU_WORKSPACE", request.param)


@DURATIONS
def test_likelihoods_and_statistics_are_those_of_all_alignments_counted_one_by_one(chunk, durations):
    joint, given = tiny(durations)
    found = scored(joint, given, durations, temperature=0.8)
    for b, group in enumerate(TEXTS):
        for k, ids in enumerate(group):
            logits = all_logits(joint, given, b, k) / 0.8
            counted = (logits.tolist(), ids, SYMBOLS, BLANK, durations)
            p = oracles_transducer.likelihood(*counted)
            if not p:
                assert found.logps[b, k] == -math.inf and durations == (1,)
                continue
            assert found.logps[b, k].item() == pytest.approx(math.log(p), rel=1e-12)
            visits = torch.tensor(oracles_transducer.visits(*counted), dtype=torch.float64)
            parts = logits[..., :SYMBOLS].log_softmax(-1), logits[..., SYMBOLS:].log_softmax(-1)
            entropy = -sum((part.exp() * part).sum(-1) for part in parts)
            for value, nodes in ((found.entropy, entropy), (found.mean_logits, logits[..., :SYMBOLS].mean(-1))):
                assert value[b, k].item() == pytest.approx(((visits * nodes).sum() / visits.sum()).item(), rel=1e-9)


@DURATIONS
def test_gradients_are_those_of_finite_differences(chunk, durations):
    joint, given = tiny(durations, seed=1)
    weights = torch.tensor([[1.0, -2.0, 3.0], [0.5, 4.0, -0.5], [2.0, -1.0, 1.5]], dtype=torch.float64)
    leaves = [given["audio"].requires_grad_(), given["text"].requires_grad_(), *joint.parameters()]

    def loss(audio: Tensor, text: Tensor, *_: Tensor) -> Tensor:
        logps = scored(joint, {**given, "audio": audio, "text": text}, durations).logps
        return (torch.where(logps.isfinite(), logps, 0.0) * weights).sum()

    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)


@DURATIONS
def test_the_gradient_of_a_step_is_how_often_alignments_take_it(durations):
    """By autograd through the enumerated sum."""
    generator = torch.Generator().manual_seed(2)
    arcs = torch.randn(1, 4, 3, 2 + len(durations or ()), generator=generator, dtype=torch.float64).requires_grad_()
    paths = []
    for path in oracles_transducer.alignments(4, [0, 0], BLANK, durations):
        logp = arcs.new_zeros(())
        for t, u, symbol, duration in path:
            logp = logp + arcs[0, t, u, 0 if symbol == BLANK else 1]
            if durations:
                logp = logp + arcs[0, t, u, 2 + durations.index(duration)]
        paths.append(logp)
    expected = torch.stack(paths).logsumexp(0)
    (gradient,) = torch.autograd.grad(expected, arcs)
    found, taken = lattice_logps(arcs.detach(), torch.tensor([4]), torch.tensor([2]), durations)
    assert found.item() == pytest.approx(expected.item(), rel=1e-13)
    torch.testing.assert_close(taken, gradient, rtol=1e-11, atol=1e-13)


def long_case(durations, dtype=torch.float64):
    """Two clips of 23 and 17 frames, three hypotheses each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        joint = Joint(8, 12 + len(durations or ()), dtype)
        given = {
            "audio": torch.randn(2, 23, 8, dtype=dtype),
            "text": torch.randn(2, 3, 10, 8, dtype=dtype),
            "frames": torch.tensor([23, 17]),
            "tokens": torch.randint(1, 12, (2, 3, 9)),
            "lengths": torch.tensor([[9, 4, 0], [7, 1, 3]]),
        }
    return joint, given


def stock_tdt(logits: Tensor, targets: Tensor, durations) -> Tensor:
    tdt_loss = pytest.importorskip("transformers.loss.loss_tdt").tdt_loss
    sizes = torch.tensor([logits.shape[1]]), torch.tensor([targets.shape[1]])
    return tdt_loss(logits[..., :12], logits[..., 12:], targets, *sizes, 0, list(durations), reduction="none")


def torchaudio_rnnt(logits: Tensor, targets: Tensor, _) -> Tensor:
    from torchaudio.functional import rnnt_loss

    sizes = torch.tensor([logits.shape[1]], dtype=torch.int32), torch.tensor([targets.shape[1]], dtype=torch.int32)
    return rnnt_loss(logits.contiguous(), targets.int(), *sizes, blank=0, reduction="none")


@pytest.mark.parametrize(
    ("durations", "stock"),
    [
        ((0, 1, 2, 3, 4), stock_tdt),
        pytest.param(
            None,
            torchaudio_rnnt,
            marks=pytest.mark.skipif(importlib.util.find_spec("torchaudio") is None, reason="needs torchaudio"),
        ),
    ],
)
def test_values_and_gradients_are_those_of_the_stock_loss(chunk, durations, stock):
    """One call of it for each hypothesis, in float32, which is what both compute in."""
    joint, given = long_case(durations, torch.float32)
    given["audio"].requires_grad_()
    given["text"].requires_grad_()
    leaves = [given["audio"], given["text"], *joint.parameters()]
    weights = torch.tensor([[1.0, -0.5, 2.0], [0.7, 1.5, -1.0]])
    logps = transducer_scores(
        joint, **given, symbols=12, blank=0, durations=durations, parameters=[*joint.parameters()]
    ).logps
    expected = torch.zeros_like(logps)
    for b in range(2):
        for k in range(3):
            targets = given["tokens"][b, k, : given["lengths"][b, k]]
            expected[b, k] = -stock(all_logits(joint, given, b, k)[None], targets[None], durations)[0]
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad((logps * weights).sum(), leaves)
    for mine, theirs in zip(found, torch.autograd.grad((expected * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_a_transcript_that_the_frames_cannot_hold_has_no_probability_and_no_gradient():
    joint, given = tiny((1,))
    given["audio"].requires_grad_()
    logps = scored(joint, given, (1,)).logps
    # each symbol takes a frame, and the last blank one more
    needed = given["lengths"] + 1
    assert (logps == -math.inf).tolist() == (needed > given["frames"][:, None]).tolist()
    (gradient,) = torch.autograd.grad(logps[logps.isfinite()].sum(), given["audio"])
    assert gradient.isfinite().all() and gradient[0].any() and not gradient[1, 3].any()


def test_improbable_symbols_give_no_nan():
    """-1e4 nats for everything but blanks: far outside what probabilities could hold."""
    joint, given = tiny(None)
    joint = joint.float()
    joint.head.weight.data.zero_()
    joint.head.bias.data.fill_(-1e4)[BLANK] = 0.0
    given = {name: x.float() if x.is_floating_point() else x for name, x in given.items()}
    given["audio"].requires_grad_()
    scores = scored(joint, given, None)
    torch.testing.assert_close(scores.logps, -1e4 * given["lengths"], rtol=1e-3, atol=1e-3)
    assert torch.autograd.grad(scores.logps.sum(), joint.head.bias)[0].isfinite().all()
    assert scores.is_top1.tolist() == (given["lengths"] == 0).tolist()


def test_the_gradient_is_written_over_the_logits():
    logits = torch.randn(6, SYMBOLS, generator=torch.Generator().manual_seed(0)).requires_grad_()
    given = logits * 1.0
    arcs, *_ = StepStatistics.apply(given, torch.tensor([0, 1, 2, 3, 4, 0]), SYMBOLS, BLANK, 1.0)
    storage = given.data_ptr()
    (grad,) = torch.autograd.grad(arcs.sum(), given)
    assert grad.data_ptr() == storage


@DURATIONS
def test_durations_that_cannot_be_meant_are_refused(durations):
    assert transducer.Moves.of(durations).frames
    for wrong in ((0, 2), (1, 1), (-1, 1)):
        with pytest.raises(ValueError, match="Durations of a transducer are different numbers of frames"):
            transducer.Moves.of(wrong)


@pytest.mark.parametrize("durations", [None, (0, 1, 2)])
@pytest.mark.parametrize("hypotheses", [2, 8])
def test_peak_memory_is_two_chunks_however_many_hypotheses(monkeypatch, hypotheses, durations):
    """Of both passes; beside the chunks there are numbers of a node, not of its symbols."""
    monkeypatch.setattr(transducer, "CPU_CHUNK", 2**18)
    monkeypatch.setattr(transducer, "CPU_PIECE", 2**15)
    monkeypatch.setattr(transducer, "CPU_WORKSPACE", 2**17)
    clips, frames, length, width, symbols = 2, 40, 12, 8, 2000
    generator = torch.Generator().manual_seed(0)
    joint = Joint(width, symbols + len(durations or ()), torch.float32)
    audio = torch.randn(clips, frames, width, generator=generator, requires_grad=True)
    text = torch.randn(clips, hypotheses, length + 1, width, generator=generator, requires_grad=True)
    tokens = torch.randint(1, symbols, (clips, hypotheses, length), generator=generator)
    lengths = torch.randint(length // 2, length + 1, (clips, hypotheses), generator=generator)
    settings = {"symbols": symbols, "blank": 0, "durations": durations, "parameters": [*joint.parameters()]}
    with LiveMemory() as memory:
        logps = transducer_scores(joint, audio, text, torch.tensor([frames, 31]), tokens, lengths, **settings).logps
        logps.sum().backward()
    chunk = 4 * 2**18
    nodes = clips * hypotheses * frames * (length + 1)
    assert len(joint.called) > 4 and nodes * symbols * 4 > 15 * chunk
    parameters = 3 * 4 * sum(p.numel() for p in joint.parameters())
    assert memory.peak_bytes < 2 * chunk + parameters + nodes * 4 * 40


def test_the_ways_of_the_benchmark_have_the_same_gradients():
    pytest.importorskip("transformers.loss.loss_tdt")
    benchmark = importlib.import_module("transducer")
    sizes = {"layers": 1, "width": 32, "symbols": 40, "seconds": 1, "hypotheses": 3, "tokens": 4}
    found = {}
    for way in benchmark.WAYS:
        step = benchmark.ScoringStep(way, sizes)
        step.run()
        found[way] = step.finish()
        benchmark.check(found[way], found[benchmark.OURS], way)
    name = benchmark.COMPARED[0]
    spoiled = {**found[benchmark.OURS], name: [2 * value for value in found[benchmark.OURS][name]]}
    with pytest.raises(SystemExit, match="different gradients"):
        benchmark.check(spoiled, found[benchmark.OURS], "spoiled")
