"""AdaLoRA in a trainer: ranks come down to the target, its term is in the loss, and a resumed run goes on with both."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from audiorl.trainers.adapters import adapter_ranks
from audiorl.trainers.checkpoints import run_of, write_list
from tests.trainers.adapted import SAVING, adalora, adapted
from tests.trainers.pair_rows import PLAIN_STEPS, largest_difference, pair_rows, trainer, weights


def test_the_sum_of_ranks_comes_down_to_the_target_along_the_papers_schedule(tmp_path):
    dpo = adapted(tmp_path, adalora(), num_train_epochs=2)
    dpo.train()
    ranks = adapter_ranks(dpo.model)
    # q_proj: 2 encoder layers, 2 decoder layers with 2 attentions each; fc1: 4 layers
    assert len(ranks) == 10
    assert sum(ranks.values()) == 2 * 10
    assert len(set(ranks.values())) > 1, "every layer kept as many: nothing was allocated"
    logged = [log["adalora/mean_rank"] for log in dpo.state.log_history if "adalora/mean_rank" in log]
    # by hand, arXiv:2303.10512 eq. 12: 20 + 40 (1 - (step - tinit) / (last cut - tinit))^3 ranks, rounded down, in 10
    # layers; steps 1 to 8, tinit = 1, last cut at step 8 - tfinal = 6
    assert logged == pytest.approx([6.0, 4.0, 2.8, 2.2, 2.0, 2.0, 2.0, 2.0])
    assert dpo.model.peft_config["default"].total_step == 8


@pytest.mark.parametrize(("tfinal", "steps"), [(0, 0), (0.5, 2)])
def test_the_last_cut_comes_whatever_the_schedule(tmp_path, tfinal, steps):
    dpo = adapted(tmp_path, adalora(tinit=0, tfinal=tfinal), max_steps=4)
    dpo.train()
    assert sum(adapter_ranks(dpo.model).values()) == 2 * 10
    assert dpo.model.peft_config["default"].tfinal == steps


def test_the_orthogonality_term_is_in_the_loss_and_moves_the_factors(tmp_path):
    losses, distances = {}, {}
    for weight in (0.0, 0.5):
        dpo = adapted(tmp_path / str(weight), adalora(orth_reg_weight=weight), num_train_epochs=2)
        dpo.train()
        log = dpo.state.log_history[0]
        losses[weight] = log["loss"]
        distances[weight] = [dpo.ranks.penalty().item(), log["loss/orthogonality"]]
    # before the first step E is 0, so the policy is its reference whatever A and B are
    assert losses[0.0] == pytest.approx(0.693147, abs=1e-4)
    assert losses[0.5] - losses[0.0] == pytest.approx(distances[0.5][1], rel=1e-4)
    assert distances[0.0][1] == 0 and distances[0.5][1] > 0.1
    assert distances[0.5][0] < 0.9 * distances[0.5][1], "the factors did not come nearer to orthogonal"


def test_the_term_is_not_in_the_evaluation_loss(tmp_path):
    found = []
    for weight in (0.0, 0.5):
        dpo = adapted(tmp_path / str(weight), adalora(orth_reg_weight=weight))
        found.append(dpo.evaluate(pair_rows(4))["eval_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_accumulating_four_micro_batches_of_one_equals_one_batch_of_four_with_adalora(tmp_path):
    settings = {**PLAIN_STEPS, "num_train_epochs": 3}
    big = adapted(tmp_path / "a", adalora(), per_device_train_batch_size=4, **settings)
    small = adapted(tmp_path / "b", adalora(), per_device_train_batch_size=1, gradient_accumulation_steps=4, **settings)
    big.train()
    small.train()
    assert big.state.global_step == small.state.global_step == 6
    assert largest_difference(weights(big.model), weights(small.model)) < 1e-5
    assert adapter_ranks(big.model) == adapter_ranks(small.model)
    for name in ("loss", "loss/orthogonality"):
        logged = [[log[name] for log in t.state.log_history if name in log] for t in (big, small)]
        assert logged[0] == pytest.approx(logged[1], rel=1e-4)


PROCESS = """
import sys
sys.path.insert(0, {root!r})
import torch
from audiorl.trainers.adapters import adapter_ranks
from tests.trainers.pair_rows import PLAIN_STEPS, weights
from tests.trainers.adapted import adalora, adapted
torch.set_num_threads(1)
dpo = adapted({out!r}, adalora(), per_device_train_batch_size={batch}, num_train_epochs=3, **PLAIN_STEPS)
dpo.train()
if dpo.is_world_process_zero():
    torch.save({{"weights": weights(dpo.model), "ranks": adapter_ranks(dpo.model)}}, {out!r} + ".pt")
"""


@pytest.mark.slow
def test_two_processes_cut_the_ranks_that_one_does(tmp_path):
    found = []
    for processes, batch in ((1, 4), (2, 2)):
        out, script = str(tmp_path / str(processes)), tmp_path / f"{processes}.py"
        script.write_text(PROCESS.format(root=str(Path(__file__).parents[2]), out=out, batch=batch))
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [sys.executable, *launcher, str(script)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(torch.load(out + ".pt", weights_only=True))
    assert found[0]["ranks"] == found[1]["ranks"] and sum(found[0]["ranks"].values()) == 2 * 10
    assert largest_difference(found[0]["weights"], found[1]["weights"]) < 1e-5


def test_the_best_checkpoint_is_loaded_with_its_ranks(tmp_path):
    class Remember(TrainerCallback):
        seen: dict = {}  # noqa: RUF012

        def on_save(self, args, state, control, model=None, **kwargs):
            self.seen[state.global_step] = weights(model)

    remember = Remember()
    dpo = adapted(
        tmp_path,
        adalora(),
        **SAVING,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        trainer_eval_dataset=pair_rows(3),
        trainer_callbacks=[remember],
    )
    dpo.train()
    best = dpo.state.best_global_step
    assert largest_difference(remember.seen[best], weights(dpo.model)) == 0


def test_a_checkpoint_without_the_allocators_state_is_refused(tmp_path):
    dpo = adapted(tmp_path, adalora(), **SAVING)
    dpo.train()
    (tmp_path / "checkpoint-8" / "adalora.pt").unlink()
    with pytest.raises(ValueError, match=r"not a whole checkpoint: adalora.pt is missing"):
        adapted(tmp_path, adalora(), **SAVING).train(resume_from_checkpoint=True)
    write_list(str(tmp_path / "checkpoint-8"), run_of(tmp_path / "checkpoint-8"))
    with pytest.raises(ValueError, match=r"no adalora.pt.*AdaLoRA cannot resume"):
        adapted(tmp_path, adalora(), **SAVING).train(resume_from_checkpoint=True)


def test_resuming_with_another_adapter_or_fewer_steps_is_refused(tmp_path):
    adapted(tmp_path, adalora(), **SAVING).train()
    shutil.rmtree(tmp_path / "checkpoint-8")
    with pytest.raises(ValueError, match="other layers or ranks"):
        changed = {**SAVING, "allow_changed_resume": True}
        adapted(tmp_path, adalora(init_r=5), **changed).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"cut over 8 optimizer steps, this run ends after 7"):
        adapted(tmp_path, adalora(), **{**changed, "max_steps": 7}).train(resume_from_checkpoint=True)


def test_a_step_that_the_scaler_skipped_does_not_count_for_importance(tmp_path):
    dpo = adapted(tmp_path, adalora(), num_train_epochs=2)
    seen = []
    update = dpo.ranks.tuner.update_and_allocate
    dpo.ranks.tuner.update_and_allocate = lambda step: (seen.append(step), update(step))
    skipped = {2, 6, 7}
    step = dpo.ranks.on_optimizer_step

    class Accelerator:
        @property
        def optimizer_step_was_skipped(self):
            return dpo.state.global_step + 1 in skipped

    class Stand:
        def __getattr__(self, name):
            return Accelerator() if name == "accelerator" else getattr(dpo, name)

    dpo.ranks.trainer = Stand()
    assert step == dpo.ranks.on_optimizer_step
    dpo.train()
    # the last cut, step 6, and the masks after it need no gradients
    assert seen == [1, 3, 4, 5, 6, 7, 8]
    assert sum(adapter_ranks(dpo.model).values()) == 2 * 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 1}, r"cannot cut ranks in 1 optimizer steps"),
        ({"max_steps": 3}, r"cannot cut ranks in 3 optimizer steps of which tinit=1 .* tfinal=2"),
        ({"trainer_peft_config": adalora(total_step=1000), "max_steps": 8}, r"total_step is 1000.*takes 8 optimizer"),
        ({"freeze_encoder": True}, r"freeze_encoder leaves.*decoder-linear"),
    ],
)
def test_a_rank_schedule_that_does_not_fit_the_run_is_refused_when_the_trainer_is_built(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **{"trainer_peft_config": adalora(), **changes})


def test_a_schedule_too_long_for_the_epochs_is_refused_before_the_first_step(tmp_path):
    dpo = adapted(tmp_path, adalora(tinit=3, tfinal=3))
    before = weights(dpo.model)
    with pytest.raises(ValueError, match="cannot cut ranks in 4 optimizer steps"):
        dpo.train()
    assert largest_difference(before, weights(dpo.model)) == 0
