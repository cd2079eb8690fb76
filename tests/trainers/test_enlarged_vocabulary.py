"""A vocabulary enlarged, then an adapter: it is saved with embeddings and processor, loads, resumes, merges."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from audiorl.commands.evaluate import ModelArguments, local_models
from audiorl.evaluation import transcribe
from audiorl.trainers.loading import load_checkpoint, load_processor, merge_and_unload, plan_adapter
from audiorl.trainers.reference import adapter_off
from tests.cards import WITHOUT_AUDIOREAD, card_of, run_snippet
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import saved, tiny_clips, tiny_whisper
from tests.trainers.pair_rows import pair_rows, trainer

NEW = ["zyzzyva", "quokka"]
LORA = {"r": 4, "target_modules": ["q_proj", "fc1"]}
WAYS = {
    "lora alone": lambda ids: LoraConfig(**LORA),
    "modules_to_save": lambda ids: LoraConfig(**LORA, modules_to_save=["embed_tokens", "proj_out"]),
    "modules_to_save, one of two tied": lambda ids: LoraConfig(**LORA, modules_to_save=["embed_tokens"]),
    "trainable_token_indices": lambda ids: LoraConfig(**LORA, trainable_token_indices=ids),
}


@pytest.fixture
def enlarged(tmp_path):
    """A base in a folder, loaded again, with two tokens more."""
    folder = saved(tiny_whisper(), tmp_path / "base")
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    processor = WhisperProcessor.from_pretrained(folder)
    assert processor.tokenizer.add_tokens(NEW) == len(NEW)
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    return model, processor


def rows():
    return [{**row, "chosen": f"{NEW[i % 2]} {row['chosen']}"} for i, row in enumerate(pair_rows())]


def tuned(enlarged, folder, way, **changes):
    model, processor = enlarged
    ids = processor.tokenizer.convert_tokens_to_ids(NEW)
    dpo = trainer(
        folder,
        rows(),
        trainer_model=model,
        trainer_processing_class=processor,
        trainer_peft_config=WAYS[way](ids),
        learning_rate=1e-2,
        **changes,
    )
    dpo.train()
    dpo.save_model()
    return dpo


def scores(model, dpo) -> torch.Tensor:
    dpo.family.install(model.get_base_model() if isinstance(model, PeftModel) else model)
    batch = dpo.data_collator([dpo.train_dataset[i] for i in range(2)])
    with torch.no_grad():
        return dpo.family.score_groups(model.eval(), batch).logps


@pytest.mark.parametrize("way", WAYS)
def test_it_comes_back_from_its_folder(enlarged, tmp_path, way):
    dpo = tuned(enlarged, tmp_path / "out", way)
    before = scores(dpo.model, dpo)
    loaded = load_checkpoint(tmp_path / "out", {"dtype": "float32"})
    torch.testing.assert_close(scores(loaded, dpo), before)
    processor = load_processor(None, loaded)
    assert processor.tokenizer.convert_tokens_to_ids(NEW) == enlarged[1].tokenizer.convert_tokens_to_ids(NEW)
    assert loaded.get_base_model().get_input_embeddings().weight.shape[0] == len(processor.tokenizer)


@pytest.mark.parametrize("way", WAYS)
def test_it_comes_back_merged(enlarged, tmp_path, way):
    dpo = tuned(enlarged, tmp_path / "out", way)
    before = scores(dpo.model, dpo)
    merged = dpo.save_merged()
    plain = WhisperForConditionalGeneration.from_pretrained(merged)
    torch.testing.assert_close(scores(plain, dpo), before)
    assert len(WhisperProcessor.from_pretrained(merged).tokenizer) == len(enlarged[1].tokenizer)
    torch.testing.assert_close(scores(merge_and_unload(tmp_path / "out"), dpo), before)


def saved_weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@WITHOUT_AUDIOREAD
@pytest.mark.parametrize("way", WAYS)
def test_its_card_loads_it(enlarged, tmp_path, capsys, way):
    dpo = tuned(enlarged, tmp_path / "out", way)
    _, text = card_of(tmp_path / "out")
    rows = [{"audio": {"array": tiny_clips(1)[0], "sampling_rate": 16_000}}]
    (said,) = transcribe(dpo.model, enlarged[1], rows, progress=False)
    assert run_snippet(text, tmp_path, capsys) == said.strip()


def test_evaluate_measures_with_the_tokenizer_of_the_adapters_folder(enlarged, tmp_path):
    tuned(enlarged, tmp_path / "out", "trainable_token_indices")
    (system,) = local_models(ModelArguments(model_name_or_path=[str(tmp_path / "out")]))
    assert system.family.processor.tokenizer.convert_tokens_to_ids(NEW) == [283, 284]


@pytest.mark.parametrize("way", WAYS)
def test_it_goes_on_from_its_folder_and_is_saved_whole_again(enlarged, tmp_path, way):
    tuned(enlarged, tmp_path / "out", way)
    start = {"trainer_model": str(tmp_path / "out"), "trainer_processing_class": None}
    again = trainer(tmp_path / "more", rows(), learning_rate=1e-2, **start)
    with adapter_off(again.model):  # the reference is the adapter as it came
        reference = scores(again.model, again)
    torch.testing.assert_close(reference, scores(again.model, again))
    again.train()
    again.save_model()
    loaded = load_checkpoint(tmp_path / "more", {"dtype": "float32"})
    torch.testing.assert_close(scores(loaded, again), scores(again.model, again))


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_ends_where_one_in_a_single_go_does(enlarged, tmp_path, way):
    model, processor = enlarged
    other = copy.deepcopy(model)
    steps = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    whole = tuned((copy.deepcopy(model), processor), tmp_path / "out", way, **steps)
    resumed = trainer(
        tmp_path / "out",
        rows(),
        trainer_model=other,
        trainer_processing_class=processor,
        trainer_peft_config=WAYS[way](processor.tokenizer.convert_tokens_to_ids(NEW)),
        learning_rate=1e-2,
        **steps,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    torch.testing.assert_close(scores(resumed.model, resumed), scores(whole.model, whole))


def test_what_was_trained_of_the_new_tokens_is_in_the_files(enlarged, tmp_path):
    before = enlarged[0].get_input_embeddings().weight.detach().clone()
    dpo = tuned(enlarged, tmp_path / "out", "modules_to_save")
    after = saved_weights(tmp_path / "out")["base_model.model.model.decoder.embed_tokens.weight"]
    assert after.shape == before.shape and not torch.equal(after[-2:], before[-2:])
    assert dpo.model.get_base_model().config.tie_word_embeddings


def test_without_new_tokens_an_adapter_is_saved_alone(tmp_path):
    folder = saved(tiny_whisper(), tmp_path / "base")
    dpo = trainer(tmp_path / "out", trainer_model=folder, trainer_peft_config=LoraConfig(**LORA))
    dpo.save_model()
    assert all("lora_" in name for name in saved_weights(tmp_path / "out"))


def test_a_ctc_head_of_another_size_is_refused_before_an_adapter_is_trained(tmp_path):
    model, processor = tiny_ctc()
    folder = saved((model, processor), tmp_path / "base")
    grown = type(model).from_pretrained(folder, vocab_size=model.config.vocab_size + 2, ignore_mismatched_sizes=True)
    with pytest.raises(ValueError, match=r"has \d+ tokens, but this base has \d+.*Save the base as it is now"):
        plan_adapter(grown, LoraConfig(r=4))
