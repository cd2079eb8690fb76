"""Finding code on a page: language, title, line, indented and nested blocks; the commands of a shell block."""

from __future__ import annotations

import pytest

from tests.code_blocks import Block, blocks_of, commands_of

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
