"""The CTC likelihood against all paths counted one by one, its gradient, and the memory it takes."""

from __future__ import annotations

import importlib
import json
import math

import pytest
import torch
from torch import Tensor, nn

from audiorl.losses import ctc, ctc_logps, frames_needed
from tests import oracles_ctc
from tests.live_memory import LiveMemory

BLANK = 2
# Hypotheses of three clips with 5, 4 and 2 frames; symbols 0, 1 and 3; padding is any symbol at all.
FRAMES = [5, 4, 2]
TEXTS = [[[0, 1], [], [0, 0, 0]], [[3], [1, 1], [0, 1, 3, 0]], [[0], [1, 3], []]]


def tiny(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities (3, 5, 4) float64, frames, tokens (3, 3, 4), lengths."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 4, (3, 3, 4), generator=generator)
    for b, group in enumerate(TEXTS):
        for k, ids in enumerate(group):
            tokens[b, k, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    lengths = torch.tensor([[len(ids) for ids in group] for group in TEXTS])
    return logits.log_softmax(-1), torch.tensor(FRAMES), tokens, lengths


def native(frame_logps: Tensor, frames: Tensor, tokens: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """torch's own, the frames repeated for each hypothesis."""
    repeated = frame_logps.repeat_interleave(tokens.shape[1], 0).transpose(0, 1)
    loss = nn.functional.ctc_loss(
        repeated,
        tokens.flatten(0, 1),
        frames.repeat_interleave(tokens.shape[1]),
        lengths.flatten(),
        blank=blank,
        reduction="none",
    )
    return -loss.view(lengths.shape)


@pytest.fixture(params=["torch's", "torch's, two clips at a time", "one round", "a hypothesis at a time"])
def way(request, monkeypatch):
    """Both ways; each of them in one go, and in several that do not divide what there is."""
    clips = {"torch's": 9, "torch's, two clips at a time": 2}.get(request.param, 0)
    monkeypatch.setattr(ctc, "_stock_clips", lambda *_: clips)
    if request.param == "a hypothesis at a time":
        monkeypatch.setattr(ctc, "_workspace", lambda frame_logps: 1)


def test_likelihoods_are_those_of_all_paths_counted_one_by_one(way):
    frame_logps, frames, tokens, lengths = tiny()
    found = ctc_logps(frame_logps, frames, tokens, lengths, blank=BLANK)
    for b, group in enumerate(TEXTS):
        says = oracles_ctc.distribution(frame_logps[b, : FRAMES[b]].tolist(), BLANK)
        assert sum(says.values()) == pytest.approx(1)
        for k, ids in enumerate(group):
            assert found[b, k].item() == pytest.approx(math.log(says[tuple(ids)]), rel=1e-12)


def test_the_gradient_is_how_likely_each_symbol_is_in_each_frame_of_the_paths(way):
    frame_logps, frames, tokens, lengths = tiny()
    weights = torch.tensor([[1.0, -2.0, 3.0], [0.0, 4.0, -0.5], [2.0, -1.0, 1.5]], dtype=torch.float64)
    frame_logps.requires_grad_()
    (ctc_logps(frame_logps, frames, tokens, lengths, blank=BLANK) * weights).sum().backward()
    expected = torch.zeros_like(frame_logps)
    for b, group in enumerate(TEXTS):
        for k, ids in enumerate(group):
            own = oracles_ctc.occupations(frame_logps[b, : FRAMES[b]].tolist(), ids, BLANK)
            expected[b, : FRAMES[b]] += weights[b, k] * torch.tensor(own, dtype=torch.float64)
    torch.testing.assert_close(frame_logps.grad, expected, rtol=1e-10, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences(way):
    logits, frames, tokens, lengths = tiny(seed=1)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: ctc_logps(x.log_softmax(-1), frames, tokens, lengths, blank=BLANK), (logits,)
    )


@pytest.mark.parametrize("frames", [[37, 20, 9], [37, 37, 37]])
def test_long_clips_agree_with_torch_whatever_the_span_and_the_round(monkeypatch, frames):
    """Every depth of recomputation, in rounds that do not divide the hypotheses."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 37, 6, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([[9, 0, 4, 7], [3, 8, 1, 2], [4, 3, 0, 2]])
    tokens = torch.randint(1, 6, (3, 4, 9), generator=generator)
    weights = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    gradients, values = [], []
    functions = [lambda x: native(x, torch.tensor(frames), tokens, lengths, 0)]
    functions += [lambda x: ctc_logps(x, torch.tensor(frames), tokens, lengths, blank=0)] * 6
    ways = [((1, 1), 0), ((5, 2), 0), ((12, 7), 0), ((1, 13), 0), ((7, 40), 0), ((1, 1), 1), ((1, 1), 2)]
    for function, (rounds, clips) in zip(functions, ways, strict=True):
        monkeypatch.setattr(ctc, "_cheapest_rounds", lambda *_, rounds=rounds: rounds)
        monkeypatch.setattr(ctc, "_stock_clips", lambda *_, clips=clips: clips)
        leaf = logits.clone().requires_grad_()
        values.append(function(leaf.log_softmax(-1)))
        (values[-1] * weights).sum().backward()
        gradients.append(leaf.grad)
    for found, gradient in zip(values[1:], gradients[1:], strict=True):
        torch.testing.assert_close(found, values[0], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-11)


def test_a_transcript_that_the_frames_cannot_say_has_no_probability_and_no_gradient(way):
    frame_logps, frames, _, _ = tiny()
    tokens = torch.tensor([[[0, 0, 0, 1]] * 2, [[0, 1, 0, 1]] * 2, [[1, 1, 0, 0]] * 2])
    lengths = torch.tensor([[4, 2], [4, 4], [2, 1]])
    assert frames_needed(tokens, lengths).tolist() == [[6, 3], [4, 4], [3, 1]]
    frame_logps.requires_grad_()
    found = ctc_logps(frame_logps, frames, tokens, lengths, blank=BLANK)
    assert torch.isneginf(found).tolist() == [[True, False], [False, False], [True, False]]
    found.masked_fill(torch.isneginf(found), 0.0).sum().backward()
    alone = frame_logps.detach().clone().requires_grad_()
    kept = ctc_logps(alone[:, :], frames, tokens[:, 1:], lengths[:, 1:], blank=BLANK).sum()
    (kept + ctc_logps(alone, frames, tokens, lengths, blank=BLANK)[1, 0]).backward()
    assert torch.isfinite(frame_logps.grad).all()
    torch.testing.assert_close(frame_logps.grad, alone.grad, rtol=1e-12, atol=1e-14)


def test_frames_without_probability_for_a_symbol_give_no_nan(way):
    """-1e4 nats for everything but blanks: far outside what probabilities could hold, in float32."""
    frame_logps = torch.full((1, 60, 4), -1e4).index_fill(2, torch.tensor([BLANK]), 0.0).requires_grad_()
    tokens, lengths = torch.tensor([[[0, 1, 0, 3]]]), torch.tensor([[4]])
    found = ctc_logps(frame_logps, torch.tensor([60]), tokens, lengths, blank=BLANK)
    found.sum().backward()
    assert found.item() == pytest.approx(-4e4, rel=1e-3)
    assert frame_logps.grad.sum(-1).allclose(torch.ones(1, 60), atol=1e-2)


def extra_copies(function, hypotheses: int, sizes: tuple[int, int, int, int]) -> float:
    """Peak memory beside the log-probabilities, in copies of them: of both passes, log-softmax and all."""
    clips, frames, symbols, length = sizes
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(clips, frames, symbols, generator=generator, requires_grad=True)
    tokens = torch.randint(1, symbols, (clips, hypotheses, length), generator=generator)
    lengths = torch.randint(length // 2, length + 1, (clips, hypotheses), generator=generator)
    with LiveMemory() as memory:
        frame_logps = logits.log_softmax(-1)
        function(frame_logps, torch.tensor([frames] * clips), tokens, lengths).sum().backward()
    return memory.peak_bytes / frame_logps.nbytes - 1


def ours(*arguments) -> Tensor:
    return ctc_logps(*arguments, blank=0)


@pytest.mark.parametrize("sizes", [(1, 150, 32, 45), (2, 50, 500, 10)])
def test_peak_memory_is_two_copies_of_the_frames_however_many_hypotheses(monkeypatch, sizes):
    """torch's needs K copies."""
    monkeypatch.setattr(ctc, "CPU_WORKSPACE", 0)
    monkeypatch.setattr(ctc, "_stock_clips", lambda *_: 0)
    assert max(extra_copies(ours, hypotheses, sizes) for hypotheses in (2, 12)) < 2.02
    assert extra_copies(lambda *arguments: native(*arguments, 0), 12, sizes) > 12


@pytest.mark.parametrize("sizes", [(8, 60, 64, 6), (6, 100, 200, 10)])
def test_peak_memory_of_torchs_own_is_two_copies_as_well(monkeypatch, sizes):
    monkeypatch.setattr(ctc, "CPU_WORKSPACE", 0)
    monkeypatch.setattr(ctc, "BREAK_EVEN", math.inf)
    clips, frames, symbols, length = sizes
    given = torch.zeros(clips, frames, symbols), torch.zeros(clips, 12, length, dtype=torch.long)
    assert 0 < ctc._stock_clips(*given) < clips
    assert max(extra_copies(ours, hypotheses, sizes) for hypotheses in (2, 12)) < 2.02


def test_small_frames_get_four_mebibytes_and_no_more():
    for sizes in ((1, 150, 32, 45), (4, 300, 32, 40), (2, 50, 500, 10)):
        copy = 4 * sizes[0] * sizes[1] * sizes[2]
        for hypotheses in (2, 12):
            assert extra_copies(ours, hypotheses, sizes) * copy < 1.02 * copy + 2**22 + 2**16


@pytest.mark.parametrize(
    ("sizes", "hypotheses", "stock"),
    [
        ((4, 500, 32, 40), 8, True),
        ((8, 500, 32, 40), 2, True),
        ((4, 250, 1025, 40), 2, True),
        ((4, 250, 1025, 40), 8, False),
        ((4, 250, 5000, 40), 8, False),
        ((4, 500, 32, 0), 8, False),  # nothing is said: torch's takes no empty table
        ((1, 40_000, 32, 300), 2, False),  # one table of states is larger than the frames
    ],
)
def test_the_way_is_the_one_that_measured_faster(sizes, hypotheses, stock):
    clips, frames, symbols, length = sizes
    given = torch.empty(clips, frames, symbols), torch.zeros(clips, hypotheses, length, dtype=torch.long)
    assert (ctc._stock_clips(*given) > 0) == stock


def test_the_benchmark_ends_with_its_record(capsys, tmp_path):
    benchmark = importlib.import_module("ctc_likelihood")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(benchmark, "CASES", [(2, 3, 20, 8, 4), (2, 3, 20, 4000, 4)])
        benchmark.main(["--repeats", "1", "--out", str(tmp_path / "ctc.json")])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record == json.loads((tmp_path / "ctc.json").read_text())
    assert [row["chosen"] for row in record["rows"]] == ["torch's", "recursion"]
    assert all(off < 1e-4 for row in record["rows"] for off in row["off_in_float32"].values())
    with pytest.raises(SystemExit):
        benchmark.main(["--repeats", "0"])
