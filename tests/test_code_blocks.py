"""Finding code on a page and running its commands: what is found, what fails, what counts as the same output."""

from __future__ import annotations

import pytest

from tests import page_commands
from tests.code_blocks import Block, blocks_of, commands_of, same_print

PAGE = """# A page
```python title="a.py"
x = 1
```
* in a list:

  ```json
  {"a": 1}
  ```
````text
```bash
no block of its own
```
````
"""


def test_blocks_have_their_language_title_line_and_code():
    assert blocks_of("page.md", PAGE) == [
        Block("page.md", 3, "python", "a.py", "x = 1\n"),
        Block("page.md", 8, "json", None, '{"a": 1}\n'),
        Block("page.md", 11, "text", None, "```bash\nno block of its own\n```\n"),
    ]


def test_a_block_that_does_not_end_is_an_error():
    with pytest.raises(ValueError, match=r"line 2 of page\.md does not end"):
        blocks_of("page.md", "\n```python\nx = 1\n")


def test_commands_are_joined_split_and_freed_of_comments():
    code = "a --b \\\n    'c d'   # why\n\n# alone\ne && f --g\n"
    assert commands_of(Block("page.md", 1, "bash", None, code)) == ["a --b 'c d'", "e", "f --g"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("audiorl datasets nosuch", "audiorl datasets nosuch ended with 1"),
        ("audiorl dpo --learning_rat 1", "ended with 2"),
        ("torchrun --processes=2 examples/dpo_whisper.py", "2"),
    ],
)
def test_a_command_that_fails_is_a_failure(command, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, SystemExit), match=message):
        page_commands.run(command, monkeypatch)


@pytest.mark.parametrize(
    "command", ["make site", "python nosuch.py", "accelerate launch --config_file nosuch.yaml a.py"]
)
def test_a_command_that_nobody_knows_how_to_run_is_an_error(command, monkeypatch):
    with pytest.raises(ValueError, match=r"is not known here|is not there"):
        page_commands.run(command, monkeypatch)


def test_what_a_page_shows_as_printed_is_compared():
    assert same_print("1 of 2:\n  a ... d", "1 of 2:\n    a b c\nd\n")
    assert not same_print("1 of 2", "1 of 3\n")
    assert not same_print("a ...", "b a c")
