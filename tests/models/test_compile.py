"""The compiled backbone: no graph break, equal numbers, and no trace in copies, checkpoints and ordinary calls."""

from __future__ import annotations

import copy
import inspect
import pickle
import shutil

import pytest
import torch
from accelerate.utils import DynamoBackend
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiorl.models import disable_dropout, speech_family
from audiorl.testing.case import assert_same_gradients, gradients, group_batch, loss_weights, weighted_loss
from audiorl.trainers.reference import adapter_off
from tests.families.toys import ToyCTC, build_toy
from tests.tiny_models import tiny_clips, tiny_whisper
from tests.trainers.pair_rows import PLAIN_STEPS, largest_difference, pair_rows, trainer, weights

# torch's compiler looks at .grad of tensors that have none
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
# Where every layer in training mode draws whether to skip itself, layers that are never skipped too: a branch on data.
unbroken = pytest.mark.skipif(
    "self.layerdrop > 0" not in inspect.getsource(WhisperEncoder), reason="this transformers breaks the graph"
)
TEXTS = (["the lazy dog", "dog"], ["all year", "she had your dark suit in greasy wash water"])


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that runs graphs as they are and remembers them."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return graph.forward


# Wider than two transcripts are long: torch's compiler takes sizes that are equal in the first batch for the same size,
# so a batch whose length is the model's width costs one more compilation.
ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 104}


def ready(**changes):
    """Model, plain family, compiled family and the graphs it makes; a graph break is an error."""
    model, processor = tiny_whisper(**{**ONE_LAYER, **changes})
    plain, compiled = speech_family(model, processor), speech_family(model, processor)
    disable_dropout(model)
    seen = Counting()
    compiled.compile_backbone(backend=seen, fullgraph=True)
    return model, plain, compiled, seen.graphs


def batch_of(family, clips: int, words: int = 3):
    return group_batch(family, tiny_clips(clips), [[" ".join([text] * words) for text in TEXTS[0]]] * clips)


@unbroken
def test_scoring_is_two_graphs_without_a_break_at_every_length_and_batch_size():
    model, plain, compiled, graphs = ready()
    model.train()
    for clips, words in ((2, 1), (2, 3), (3, 2)):
        batch = batch_of(plain, clips, words)
        scores = loss_weights(batch)
        expected = gradients(model, weighted_loss(plain.score_groups(model, batch).logps, scores))
        found = compiled.score_groups(model, batch)
        torch.testing.assert_close(found.logps, plain.score_groups(model, batch).logps, rtol=1e-5, atol=1e-5)
        assert_same_gradients(gradients(model, weighted_loss(found.logps, scores)), expected)
    assert len(graphs) == 2, "encoder and decoder, once each"


def test_the_head_sampling_and_transcribing_stay_outside():
    model, plain, compiled, graphs = ready()
    batch = batch_of(plain, 2)
    noise = torch.rand(2, 3, 5)
    sampled = compiled.sample_groups(model, batch, noise)
    assert torch.equal(sampled.tokens, plain.sample_groups(model, batch, noise).tokens)
    assert len(graphs) == 1, "sampling encodes with the compiled encoder and decodes without"
    audio = {"input_features": batch.audio}
    assert compiled.transcribe(model, audio) == plain.transcribe(model, audio)
    with torch.no_grad():
        compiled.score_groups(model, batch)
    assert len(graphs) == 2
    vocabulary = model.config.vocab_size
    shapes = [n.meta["example_value"].shape for g in graphs for n in g.graph.nodes if "example_value" in n.meta
              and isinstance(n.meta["example_value"], torch.Tensor) and n.op.startswith("call")]  # fmt: skip
    assert shapes and not any(vocabulary in shape for shape in shapes)


@unbroken
@pytest.mark.slow
def test_checkpointing_does_not_break_the_graph():
    model, plain, compiled, graphs = ready()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.train()
    batch = batch_of(plain, 2)
    scores = loss_weights(batch)
    expected = gradients(model, weighted_loss(plain.score_groups(model, batch).logps, scores))
    found = gradients(model, weighted_loss(compiled.score_groups(model, batch).logps, scores))
    assert_same_gradients(found, expected)
    assert len(graphs) == 2


@pytest.mark.slow
def test_an_adapter_and_its_reference_have_graphs_of_their_own():
    model, plain, compiled, graphs = ready()
    config = LoraConfig(r=2, target_modules=["q_proj", "fc1"], init_lora_weights=False)
    adapted = get_peft_model(model, config)
    batch = batch_of(plain, 2)
    for _ in range(2):
        policy = compiled.score_groups(adapted, batch).logps
        torch.testing.assert_close(policy, plain.score_groups(adapted, batch).logps, rtol=1e-5, atol=1e-5)
        with torch.no_grad(), adapter_off(adapted):
            frozen = compiled.score_groups(adapted, batch).logps
            torch.testing.assert_close(frozen, plain.score_groups(adapted, batch).logps, rtol=1e-5, atol=1e-5)
        assert (policy - frozen).abs().max() > 1e-3
    assert len(graphs) == 4


def test_copies_state_and_pickles_know_nothing_of_it():
    model, plain, compiled, _ = ready()
    names = set(model.state_dict())
    batch = batch_of(plain, 2)
    before = compiled.score_groups(model, batch).logps.detach()
    duplicate = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    moved = plain.score_groups(model, batch).logps
    torch.testing.assert_close(compiled.score_groups(model, batch).logps, moved, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compiled.score_groups(duplicate, batch).logps, before, rtol=1e-5, atol=1e-5)
    assert set(model.state_dict()) == set(duplicate.state_dict()) == names
    worker = pickle.loads(pickle.dumps(compiled))
    assert worker.tokenize("the dog") == compiled.tokenize("the dog")


def test_a_family_that_does_not_go_through_the_backbone_says_so():
    family = speech_family(*build_toy(ToyCTC))
    with pytest.raises(ValueError, match=r"ToyCTCFamily cannot compile its model.*Leave torch_compile off"):
        family.compile_backbone(backend="eager")


@pytest.mark.slow
@unbroken
def test_a_compiled_run_ends_with_the_weights_of_a_plain_one_and_its_checkpoints_know_nothing_of_it(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    compiling = {"torch_compile": True, "torch_compile_backend": "eager"}
    runs = {}
    for name, settings in (("plain", {}), ("compiled", compiling)):
        model, _ = tiny_whisper(**ONE_LAYER)
        runs[name] = trainer(tmp_path / name, trainer_model=model, **saving, **settings)
        runs[name].train()
    assert runs["compiled"].accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
    assert runs["compiled"].args.torch_compile_backend == "eager"
    # encoder and decoder, of the policy and of its frozen copy
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4
    assert not torch._dynamo.utils.counters["graph_break"]
    assert largest_difference(weights(runs["plain"].model), weights(runs["compiled"].model)) < 1e-6
    names = []
    for run in runs:
        with safe_open(tmp_path / run / "checkpoint-4" / "model.safetensors", "pt") as file:
            names.append(set(file.keys()))
    assert names[0] == names[1]
    shutil.rmtree(tmp_path / "compiled" / "checkpoint-4")
    model, _ = tiny_whisper(**ONE_LAYER)
    resumed = trainer(tmp_path / "compiled", trainer_model=model, **saving)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights(runs["plain"].model), weights(resumed.model)) < 1e-6


def test_compiling_by_accelerate_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(ValueError, match=r"accelerate was told to compile.*torch_compile=True"):
        trainer(tmp_path, pair_rows(2))


@pytest.mark.slow
# inductor loads parts of torch that torch itself has deprecated
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_inductor_gives_the_same_gradients_and_the_same_run(tmp_path):
    model, processor = tiny_whisper(**ONE_LAYER)
    plain, compiled = speech_family(model, processor), speech_family(model, processor)
    disable_dropout(model)
    compiled.compile_backbone(backend="inductor", fullgraph=True)
    for clips, words in ((2, 1), (2, 3)):
        batch = batch_of(plain, clips, words)
        scores = loss_weights(batch)
        expected = gradients(model, weighted_loss(plain.score_groups(model, batch).logps, scores))
        found = gradients(model, weighted_loss(compiled.score_groups(model, batch).logps, scores))
        assert_same_gradients(found, expected)
    runs = []
    for on in (False, True):
        model, _ = tiny_whisper(**ONE_LAYER)
        runs.append(trainer(tmp_path / str(on), trainer_model=model, torch_compile=on, **PLAIN_STEPS))
        runs[-1].train()
    assert runs[1].args.torch_compile_backend == "inductor"
    assert largest_difference(*(weights(run.model) for run in runs)) < 1e-4
