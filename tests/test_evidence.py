"""The tables of the README and of the benchmarks' page say what is in the records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def rows_under(page: str, heading: str, column: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of the table under a heading whose header has this column."""
    lines = page.split(f"\n{heading}\n")[1].split("\n#")[0].splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("|") and f" {column} |" in line)
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = cells
    return rows


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{percent(value)} % ({percent(interval[0])} to {percent(interval[1])})"


def compared(one: Mapping[str, Any], field: str) -> str:
    found = one.get(field)
    if not found:
        return ""
    difference = f"{100 * found['difference']:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")
    return f"{difference}, p = {found['p_holm']:.2g}"


@pytest.mark.parametrize(
    ("page", "heading", "minutes"),
    [
        ("README.md", "## Results on real speech", 4),
        ("benchmarks/README.md", "## Which method lowers the WER of speakers that it never heard?", 4),
        ("benchmarks/README.md", "### Three times the time", 12),
    ],
)
def test_methods_have_the_error_rates_of_the_record(page, heading, minutes):
    record = json.loads((RESULTS / f"leave_one_out-{minutes}min.json").read_text(encoding="utf-8"))["methods"]
    rows = rows_under((ROOT / page).read_text(encoding="utf-8"), heading, "against SFT")
    assert list(rows) == sorted(record, key=lambda method: record[method]["wer"])
    for method, cells in rows.items():
        one = record[method]
        assert cells[0] == with_interval(one["wer"], one["interval"]), method
        assert cells[-2:] == [compared(one, "against_checkpoint"), compared(one, "against_sft")], method


def test_methods_are_compared_with_their_four_minutes_as_the_record_says():
    record = json.loads((RESULTS / "leave_one_out-12min.json").read_text(encoding="utf-8"))
    assert record["against_minutes"] == 4
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    rows = rows_under(page, "### Three times the time", "against SFT")
    for method, test in record["against_itself"].items():
        low, high = (f"{100 * end:+.1f}" for end in test["interval"])
        assert rows[method][3] == f"{100 * test['difference']:+.1f} ({low} to {high}), p = {test['p_holm']:.2g}", method
        assert rows[method][1] == ", ".join(percent(wer) for wer in record["methods"][method]["by_seed"])


def test_arms_of_grpo_have_the_figures_of_the_record():
    record = json.loads((RESULTS / "grpo_settings.json").read_text(encoding="utf-8"))["arms"]
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    rows = rows_under(page, "## Which settings make better use of GRPO's samples?", "against more SFT")
    assert list(rows) == sorted(record, key=lambda arm: record[arm]["wer"])
    for arm, cells in rows.items():
        one = record[arm]
        assert cells[0] == ", ".join(map(str, one["steps"] or []))
        assert cells[1] == f"{percent(one['wer'])} %"
        assert cells[3] == f"{percent(one['sample_wer'])}, {percent(one['best_sample_wer'])} %"


@pytest.mark.parametrize(
    ("study", "heading", "column", "figures"),
    [
        ("hallucination", "### Words where nobody speaks", "WER", ["WER"]),
        ("keywords", "### Rare words", "keyword F1", ["keyword F1", "keyword CER", "WER"]),
        ("noise", "### Noise", "clean", ["WER, clean", "WER, 10 dB", "WER, 5 dB", "WER, 0 dB"]),
        ("no_transcripts", "### Speech without transcripts", "WER", ["WER"]),
    ],
)
def test_studies_have_the_figures_of_the_record(study, heading, column, figures):
    """The page calls some methods otherwise than the record, so the values of a column are compared."""
    record = json.loads((RESULTS / f"beyond-{study}.json").read_text(encoding="utf-8"))["figures"]
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    rows = rows_under(page, heading, column).values()
    for place, figure in enumerate(figures):
        expected = [with_interval(one["value"], one["interval"]) for one in record[figure].values()]
        assert sorted(cells[place] for cells in rows) == sorted(expected), figure
