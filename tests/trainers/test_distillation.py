"""`DistillationTrainer`: the divergence against a float64 loop and TRL, gradients against whole logits, who samples,
who hears what, and models whose tokens differ."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from audiorl.losses import generalized_jsd
from audiorl.models import speech_family, with_fewer_layers
from audiorl.trainers.distillation import DistillationConfig, DistillationTrainer, check_same_tokens
from tests.oracles import central_differences
from tests.tiny_audio_llms import KINDS as AUDIO_LLMS
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import saved, tiny_whisper
from tests.tiny_seq2seq import KINDS as SEQ2SEQ
from tests.tiny_seq2seq import tiny_seq2seq
from tests.trained_models import FAST_STUDENTS, LABEL_MODELS
from tests.trainers.pair_rows import largest_difference, logged, settings
from tests.trainers.text_rows import distillation, larger_whisper, text_rows

BETAS = [0.0, 0.1, 0.5, 1.0]


# ---- the divergence ----


def jsd_by_loop(student: list[float], teacher: list[float], beta: float) -> float:
    """arXiv:2306.13649, eq. 1, of two lists of logits; at 0 and 1 the forward and the reverse KL."""

    def softmax(logits: list[float]) -> list[float]:
        total = sum(math.exp(z) for z in logits)
        return [math.exp(z) / total for z in logits]

    def kl(first: list[float], second: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))

    p, q = softmax(teacher), softmax(student)
    if beta in (0.0, 1.0):
        return kl(p, q) if beta == 0.0 else kl(q, p)
    mixture = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)


def logits(rows: int = 3, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [2 * torch.randn(rows, 6, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]
    return made[0].requires_grad_(), made[1]


@pytest.mark.parametrize("beta", BETAS)
def test_values_and_gradients_equal_the_float64_loop(beta):
    student, teacher = logits()
    found = generalized_jsd(student.log_softmax(-1), teacher.log_softmax(-1), beta)
    expected = [jsd_by_loop(*pair, beta) for pair in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    found.sum().backward()

    def total(table: list[list[float]]) -> float:
        return sum(jsd_by_loop(row, other, beta) for row, other in zip(table, teacher.tolist(), strict=True))

    slope = torch.tensor(central_differences(total, student.tolist()), dtype=torch.float64)
    torch.testing.assert_close(student.grad, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("beta", BETAS)
def test_value_and_gradient_agree_with_trl(beta):
    trl = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
    results = []
    for ours in (True, False):
        student, teacher = logits(dtype=torch.float32)
        if ours:
            loss = generalized_jsd((student / 0.7).log_softmax(-1), (teacher / 0.7).log_softmax(-1), beta).mean()
        else:
            labels = torch.zeros(1, 3, dtype=torch.long)
            loss = trl.GKDTrainer.generalized_jsd_loss(student[None], teacher[None], labels, beta, 0.7)
        loss.backward()
        results.append((loss.detach(), student.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("beta", BETAS)
def test_it_is_zero_between_equals_and_finite_where_a_token_is_impossible(beta):
    student, teacher = logits()
    assert generalized_jsd(teacher.log_softmax(-1), teacher.log_softmax(-1), beta).abs().max() < 1e-12
    if beta in (0.1, 0.5):  # a KL alone is infinite there
        student = student.detach().clone()
        student[:, 0] = -torch.inf
        assert torch.isfinite(generalized_jsd(student.log_softmax(-1), teacher.log_softmax(-1), beta)).all()


# ---- the step ----


@pytest.mark.parametrize(("beta", "temperature"), [(0.5, 1.0), (0.0, 0.7)])
def test_loss_and_gradients_equal_stock_forwards_with_whole_logits(tmp_path, beta, temperature):
    made = distillation(tmp_path, lmbda=0.0, beta=beta, temperature=temperature)
    batch = made.data_collator([made.train_dataset[i] for i in range(3)])
    loss = made.compute_loss(made.model.train(), batch)
    loss.backward()
    stock, teacher = tiny_whisper()[0], larger_whisper()[0]
    inputs = {"input_features": batch.audio, "decoder_input_ids": batch.tokens[:, 0, :-1]}
    ours, theirs = (model(**inputs).logits[batch.keep[:, 0]] / temperature for model in (stock, teacher))
    expected = generalized_jsd(ours.log_softmax(-1), theirs.log_softmax(-1), beta).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    mine = {name: p.grad for name, p in made.model.named_parameters() if p.grad is not None}
    whole = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    scale = max(float(g.abs().max()) for g in whole.values())
    assert largest_difference(mine, whole) < 1e-4 * scale
    assert all(p.grad is None for p in made.teacher.parameters())


def test_logits_of_some_tokens_at_a_time_give_the_same_and_never_exist_together(tmp_path):
    made, sizes = distillation(tmp_path, lmbda=0.0), []
    batch = made.data_collator([made.train_dataset[i] for i in range(4)])
    for head in (made.model.proj_out, made.teacher.proj_out):
        head.register_forward_hook(lambda _, args, out: sizes.append(len(out)))

    def gradient(chunk: int) -> torch.Tensor:
        made.model.zero_grad()
        values = made.family.compare_tokens(made.model, batch, lambda z, _: z.log_softmax(-1)[:, :2], chunk=chunk)
        values.sum().backward()
        return made.model.model.decoder.layers[0].fc1.weight.grad.clone()

    torch.testing.assert_close(gradient(5), gradient(1000), rtol=1e-5, atol=1e-7)
    assert sizes.count(5) > 4 and max(sizes) == int(batch.keep.sum())
    sizes.clear()
    made.compute_loss(made.model.train(), batch)
    assert max(sizes) <= 256


@pytest.mark.parametrize("freeze", [True, False])
def test_each_model_encodes_a_clip_once_and_a_trained_student_once_more_to_sample(tmp_path, freeze):
    made = distillation(tmp_path, lmbda=1.0, max_steps=1, freeze_encoder=freeze)
    rows: dict[str, list[int]] = {"student": [], "teacher": []}
    for name, model in (("student", made.model), ("teacher", made.teacher)):
        model.model.encoder.layers[0].register_forward_pre_hook(lambda _, args, n=name: rows[n].append(len(args[0])))
    made.train()
    assert rows == {"student": [2] if freeze else [2, 2], "teacher": [2]}


def test_a_share_of_the_steps_is_on_policy_and_repeats_from_the_seed(tmp_path):
    made = distillation(tmp_path, lmbda=0.4)
    chosen = [made.on_policy(step) for step in range(500)]
    assert 0.3 < sum(chosen) / 500 < 0.5 and chosen == [made.on_policy(step) for step in range(500)]
    for lmbda, expected in ((0.0, False), (1.0, True)):
        made.args.lmbda = lmbda
        assert {made.on_policy(step) for step in range(50)} == {expected}


def test_on_policy_steps_need_no_transcript_and_learn_what_the_student_samples(tmp_path):
    rows = [{"audio": row["audio"]} for row in text_rows(4)]
    made = distillation(tmp_path, rows, lmbda=1.0, max_steps=2)
    batch = made.data_collator([made.train_dataset[i] for i in range(2)])
    (sampled,), _ = made.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    (again,), _ = made.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    assert torch.equal(sampled.tokens, again.tokens) and sampled.keep.sum() > batch.keep.sum()
    assert made.step_counts.tokens == sampled.keep.sum()
    made.train()
    assert set(logged(made, "on_policy")) == {1.0}


@pytest.mark.parametrize("lmbda", [0.0, 1.0])
def test_a_student_comes_nearer_to_its_teacher(tmp_path, lmbda):
    made = distillation(tmp_path, num_train_epochs=8, learning_rate=3e-3, lmbda=lmbda, per_device_train_batch_size=4)
    made.train()
    found = logged(made, "divergence")
    assert sum(found[-3:]) < 0.8 * sum(found[:3]), found
    log = next(log for log in made.state.log_history if "loss" in log)
    assert {"divergence", "entropy", "teacher_agreement", "on_policy"} <= log.keys()


# ---- the teacher's transcripts ----


def test_seq_kd_learns_what_the_teacher_writes(tmp_path):
    rows = [{"audio": row["audio"]} for row in text_rows(3)]
    teacher, _ = larger_whisper()
    teacher.generation_config.max_length = 10
    options = {"trainer_teacher_model": teacher, "allow_silence": True}
    made = distillation(tmp_path, rows, seq_kd=True, lmbda=0.0, max_steps=1, **options)
    said = made.teacher_family.transcribe(teacher, made.teacher_family.features([made_clip(row) for row in rows]))
    assert made.train_dataset["text"][:] == said
    made.train()
    assert made.state.global_step == 1


def test_where_the_teacher_says_nothing_the_row_and_its_place_in_the_balance_go(tmp_path, monkeypatch):
    rows = [{**row, "speaker": "b" if i > 5 else "a"} for i, row in enumerate(text_rows(8))]
    said = ["", *["a fox"] * 7]
    monkeypatch.setattr("audiorl.trainers.distillation.transcribe", lambda *args, **kwargs: list(said))
    settings = {"balance_column": "speaker", "on_bad_rows": "skip", "max_steps": 8}
    made = distillation(tmp_path, rows, seq_kd=True, lmbda=0.0, **settings)
    assert made._balance == made.train_dataset["speaker"][:] == [*"aaaaabb"]
    made.train()
    assert made.state.global_step == 8


def made_clip(row: dict[str, Any]) -> Any:
    return row["audio"]["array"]


def test_models_of_other_tokens_share_transcripts_alone(tmp_path):
    """A CTC student of a Whisper, which hears waveforms and writes other symbols."""
    student, processor = tiny_ctc()
    teacher, theirs = larger_whisper()
    options = {"train_dataset": text_rows(2), "processing_class": processor, "teacher_processing_class": theirs}
    with pytest.raises(ValueError, match=r"no distribution over tokens.*transcripts_only"):
        DistillationTrainer(student, teacher, DistillationConfig(**settings(tmp_path)), **options)
    with pytest.raises(ValueError, match=r"lmbda=0.5 asks it to score.*Set lmbda to 0"):
        DistillationConfig(**settings(tmp_path), transcripts_only=True)
    moonshine, its_own = tiny_seq2seq("moonshine")
    args = DistillationConfig(**settings(tmp_path), lmbda=0.0)
    with pytest.raises(ValueError, match=r"tokens of student and teacher differ|vocabulary of"):
        DistillationTrainer(moonshine, teacher, args, **{**options, "processing_class": its_own})
    teacher.generation_config.max_length = 10
    alone = {"transcripts_only": True, "lmbda": 0.0, "allow_silence": True, "max_steps": 1}
    args = DistillationConfig(**settings(tmp_path), **alone)
    made = DistillationTrainer(moonshine, teacher, args, **{**options, "processing_class": its_own})
    made.train()
    assert logged(made, "nll_loss") == pytest.approx(logged(made, "loss"), rel=1e-5)


def test_other_features_of_the_same_tokens_travel_beside_the_student_s(tmp_path):
    teacher, processor = larger_whisper()
    made = distillation(tmp_path, text_rows(2), lmbda=0.0, trainer_teacher_model=teacher)
    assert not any(name.startswith("teacher_") for name in made.data_collator([made.train_dataset[0]]).tensors)
    teacher.config.num_mel_bins = 128
    teacher.model.encoder.conv1 = torch.nn.Conv1d(128, teacher.config.d_model, 3, padding=1)
    other = type(processor)(type(processor.feature_extractor)(128, chunk_length=1), processor.tokenizer)
    options = {"trainer_teacher_model": teacher, "trainer_teacher_processing_class": other}
    made = distillation(tmp_path, text_rows(2), lmbda=0.5, max_steps=2, **options)
    batch = made.data_collator([made.train_dataset[i] for i in range(2)])
    assert batch.audio.shape[1] == 80 and batch["teacher_input_features"].shape[1] == 128
    made.train()
    assert made.state.global_step == 2


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind not in FAST_STUDENTS))
        for kind in (*SEQ2SEQ, *AUDIO_LLMS, *LABEL_MODELS)
    ],
)
def test_every_family_with_distributions_learns_from_one_of_its_kind(tmp_path, kind):
    def build():
        if kind in LABEL_MODELS:
            return tiny_classifier(kind.removesuffix("-labels"))
        return (tiny_audio_llm if kind in AUDIO_LLMS else tiny_seq2seq)(kind)

    (student, processor), (teacher, theirs) = build(), build()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.3)
    labels = kind in LABEL_MODELS
    words = ["one", "two", "three", "four"] if labels else ["the fox", "dog", "lazy dogs", "so"]
    rows = [{**row, "text": word, "language": "en"} for row, word in zip(text_rows(4), words, strict=True)]
    rows = [{name: value for name, value in row.items() if not labels or name != "language"} for row in rows]
    steps = {"per_device_train_batch_size": 4, "max_steps": 6, "lr_scheduler_type": "constant", "learning_rate": 3e-3}
    args = DistillationConfig(**{**settings(tmp_path), **steps, "lmbda": 0.3, "max_new_tokens": 6})
    made = DistillationTrainer(
        student, teacher, args, teacher_processing_class=theirs, train_dataset=rows, processing_class=processor
    )
    before = made.evaluate(rows)["eval_divergence"]
    made.train()
    assert made.evaluate(rows)["eval_divergence"] < 0.9 * before


# ---- settings ----


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lmbda": 1.2}, "lmbda is 0 to 1"),
        ({"beta": -0.1}, "beta is 0 to 1"),
        ({"temperature": 0.0}, "temperature has to be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens has to be 1 or more"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, changes, told):
    with pytest.raises(ValueError, match=told):
        DistillationConfig(**settings(tmp_path), **changes)


def test_a_teacher_is_needed_and_is_another_model(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no teacher to learn from.*--teacher_model_name_or_path"):
        DistillationTrainer(tiny_whisper()[0], args=DistillationConfig(**settings(tmp_path)))
    model, _ = tiny_whisper()
    with pytest.raises(ValueError, match="teacher is the model that is trained"):
        distillation(tmp_path, trainer_model=model, trainer_teacher_model=model)
    monkeypatch.chdir(tmp_path)
    saved(tiny_whisper(), "base"), saved(larger_whisper(), "large")
    args = DistillationConfig(**{**settings("out"), "teacher_model_name_or_path": "large", "max_steps": 1})
    made = DistillationTrainer("base", args=args, train_dataset=text_rows(2))
    made.train()
    assert made.teacher.config.d_model == 2 * made.model.config.d_model


# ---- a student to begin with ----


def test_a_student_has_some_of_its_teacher_s_layers_and_decodes(tmp_path):
    teacher, _ = tiny_whisper()
    layers = teacher.config.encoder_layers, teacher.config.decoder_layers
    same = with_fewer_layers(teacher, *layers)
    assert all(torch.equal(p, same.get_parameter(name)) for name, p in teacher.named_parameters())
    student = with_fewer_layers(teacher, layers[0], 1)
    assert (len(student.get_encoder().layers), len(student.get_decoder().layers)) == (layers[0], 1)
    first, own = (model.model.decoder.layers[0].fc1.weight for model in (student, teacher))
    assert torch.equal(first, own) and first is not own
    assert teacher.config.decoder_layers == layers[1]
    made = distillation(tmp_path, text_rows(2), trainer_model=student, trainer_teacher_model=teacher, max_steps=1)
    made.train()
    made.save_model()
    assert len(made.decode(text_rows(2)).hypotheses) == 2
    with pytest.raises(ValueError, match=r"9 decoder layers were asked for, and this model has \d decoder layers"):
        with_fewer_layers(teacher, 1, 9)
    with pytest.raises(ValueError, match="no encoder_layers in its config"):
        with_fewer_layers(tiny_ctc()[0], 1, 1)


def test_models_that_begin_a_transcript_differently_are_refused():
    model, processor = tiny_whisper("multilingual")
    families = [speech_family(model, processor) for _ in range(2)]
    for family, language in zip(families, ("en", "german"), strict=True):
        family.set_defaults(language=language)
    with pytest.raises(ValueError, match="begin a transcript with other tokens"):
        check_same_tokens(*families, model, model)
