"""A vocabulary enlarged, then an adapter: it trains, is saved with its embeddings and processor, loads, resumes, merges."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from audiorl.trainers.loading import load_checkpoint, load_processor, merge_and_unload
from tests.tiny_models import saved, tiny_whisper
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
