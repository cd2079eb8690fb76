"""What the tutorial shows beneath its blocks is of that form and of those blocks; `test_docs.py` runs it in short."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import run_tutorial

WER = r"\d+\.\d %"
INTERVAL = r"95 % interval \d+\.\d to \d+\.\d"
DIFFERENCE = r"[+-]\d+\.\d points \(95 % interval [+-]\d+\.\d to [+-]\d+\.\d"
LOGGED = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")
# What each block prints; a text of the model is any text.
FORM = (
    r"tune: 480 clips of \d+ speakers, \d+ s\nheld_out: 240 clips of \d+ speakers, \d+ s\n\{\"audio\": .*\}\n",
    r"1,493,120 parameters, clips up to 3 s\n(said  .+\nheard.*\n){5}",
    r"\d+ pairs from 480 clips .*\nWER of the hypotheses: .*\n(\nchosen   .+\nrejected.*\n         WER \d+%\n){3}",
    rf"WER before  {WER} \({INTERVAL}\)  on 240 held-out clips\nWER after   {WER} \({INTERVAL}\)  on the same clips\n"
    rf"Difference  {DIFFERENCE}\), .* relative\nVerdict     better \(paired bootstrap p = .*\)\n",
    "".join(rf"{name} +-?\d+\.\d+  -> +-?\d+\.\d+\n" for name in LOGGED),
    r"model on data set(.*\n)+base on held_out\.jsonl .*\ntuned on held_out\.jsonl .*\n(.*\n)+base -> tuned(.*\n)+"
    r"Every number and clip is in tuned/evaluation\.json\n",
    r"The report lies in tuned/report\.html\n",
    r"# demo-dpo\n\n\|  \| before \| after \| difference \| p \|\n.*\n\| WER .*\n\| CER .*\n",
    r"tester/demo-dpo\n",
    r"said   .+\nbase   .*\ntuned  .*\n",
)


def assert_of_that_form(said: list[str]) -> None:
    for found, form in zip(said, FORM, strict=True):
        assert re.fullmatch(form, found), found


def test_the_outputs_on_the_page_are_of_the_blocks_on_the_page():
    """A changed block wants `python docs/run_tutorial.py`."""
    text = run_tutorial.page()
    assert run_tutorial.ran(text) == run_tutorial.digest(text)
    assert_of_that_form(run_tutorial.outputs(text))
    about = r"\*Outputs of one run, 20\d\d-\d\d-\d\d, commit [0-9a-f]{7,}: \d+ s on .+; torch .+\*"
    assert re.fullmatch(about, text.splitlines()[-1])
    assert run_tutorial.PICTURE.read_bytes().startswith(b"\x89PNG")


def test_outputs_are_put_beneath_their_blocks_and_exchanged():
    blocks = ("bash\npip install x", "python\nprint(1)", "python\nx = 2")
    page = "a\n\n```{}\n```\n\n```{}\n```\n\nb\n\n```{}\n```\n\n<!-- ran -->\n".format(*blocks)
    sources = [(cell.language, cell.code) for cell in run_tutorial.cells(page)]
    assert sources == [("python", "print(1)\n"), ("python", "x = 2\n")]
    assert run_tutorial.run_cells(sources) == ["1\n", ""]
    once = run_tutorial.with_outputs(page, ["1\n", ""], "*about*")
    assert "```python\nprint(1)\n```\n\n```text\n1\n```\n\nb\n" in once and once.endswith(" -->\n*about*\n")
    assert run_tutorial.outputs(once) == ["1\n", ""] and run_tutorial.ran(once) == run_tutorial.digest(page)
    assert run_tutorial.with_outputs(once, ["1\n", ""], "*about*") == once
    again = run_tutorial.with_outputs(once, ["", "2\n"], "*again*")
    assert run_tutorial.outputs(again) == ["", "2\n"] and "about" not in again
    changed = once.replace("print(1)", "print(3)")
    assert run_tutorial.ran(changed) != run_tutorial.digest(changed)
    with pytest.raises(ValueError, match="beneath no block"):
        run_tutorial.outputs("```text\n1\n```\n" + page)


@pytest.mark.slow
def test_the_whole_tutorial_lowers_wer():
    pytest.importorskip("espeakng_loader")
    said = run_tutorial.run(run_tutorial.page())
    assert_of_that_form(said)
    before, after = (float(rate) for rate in re.findall(r"WER (?:before|after) +(\S+) %", said[3]))
    assert after < 0.8 * before
