"""The page of logs names every column that runs log, and none that no run logs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.trainers import grpo_rows, pair_rows, raft_rows, text_rows

PAGE = Path(__file__).parents[1] / "docs" / "pages" / "logs.md"
# Of runs that other tests make: adapters whose ranks move, resampling, labels, a judge, several processes.
ELSEWHERE = {
    *("adalora/mean_rank", "frac_groups_resampled", "accuracy", "raft/kept_accuracy", "eval_accuracy"),
    *("judge/requests", "judge/cost"),
    *("audio_seconds_per_second/device", "train_audio_seconds_per_second/device"),
}


def documented() -> dict[str, re.Pattern]:
    """Each name in the first column of the page's last table, as a pattern."""
    table = PAGE.read_text(encoding="utf-8").partition("\n| column |")[2]
    names = {
        name for line in table.splitlines() if line.startswith("| ") for name in re.findall("`([^`]+)`", cell(line))
    }
    return {name: re.compile(re.sub(r"<\w+>", ".+", name)) for name in names}


def cell(line: str) -> str:
    return line.split("|")[1]


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> set[str]:
    """What a short run of each trainer logs, with an evaluation where that adds columns."""
    from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer
    from tests.tiny_models import tiny_whisper

    def folder():
        return tmp_path_factory.mktemp("run")

    held_out = pair_rows.pair_rows(2, text=list(pair_rows.CHOSEN))
    measured = {"eval_strategy": "steps", "eval_steps": 1, "eval_wer": True, "max_steps": 1}
    model, processor = tiny_whisper()
    orpo = ORPOTrainer(
        model,
        args=ORPOConfig(**{**pair_rows.settings(folder()), "max_steps": 1}),
        train_dataset=pair_rows.pair_rows(2),
        processing_class=processor,
    )
    runs = [
        pair_rows.trainer(folder(), trainer_eval_dataset=held_out, loss_type=["sigmoid", "sft"], **measured),
        orpo,
        grpo_rows.trainer(folder(), beta=0.1, sft_weight=0.1, trainer_eval_dataset=held_out, **measured),
        grpo_rows.trainer(folder(), online_dpo=True, max_steps=1, temperature_end=0.7),
        raft_rows.trainer(folder(), grpo_rows.rows(2), sft_weight=0.1, num_cycles=1),
        *(make(folder(), max_steps=1) for make in text_rows.MAKE.values()),
    ]
    for run in runs:
        run.train()
    return {name for run in runs for log in run.state.log_history for name in log}


def test_every_column_of_a_run_is_on_the_page(logged):
    known = documented()
    assert {name for name in logged if not any(found.fullmatch(name) for found in known.values())} == set()


def test_every_column_on_the_page_is_of_a_run(logged):
    unseen = {name for name, found in documented().items() if not any(map(found.fullmatch, logged))}
    assert unseen == ELSEWHERE
