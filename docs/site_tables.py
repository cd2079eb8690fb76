"""Tables that repeat what the code knows: made when the site is built, or checked against it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import site_words
import yaml
from site_includes import lines_of

DOCS = Path(__file__).resolve().parent
_CHECK = re.compile(r"<!-- check: defaults ([\w.]+) -->\s*")


def table(words: str, page: Path) -> str:
    """The table that a marker names: `KIND` or `KIND ARGUMENT`.

    Raises:
        LookupError: no such kind, or what it shows is no longer in the code.
    """
    kind, _, argument = words.partition(" ")
    if kind not in TABLES:
        raise LookupError(f"There is no table {kind!r}, there are {', '.join(TABLES)}. Mend the marker.")
    return TABLES[kind](*filter(None, [argument]))


def nothing_to_show(words: str, page: Path) -> str:
    """Of a marker that checks the table beneath it."""
    return ""


def check_defaults(markdown: str) -> None:
    """Compare tables written by hand, each beneath `<!-- check: defaults CLASS -->`, with the code.

    A column is headed "default"; the first names one field in each line, in backticks.

    Raises:
        LookupError: another default, no such field, or no table.
    """
    lines = [line for line, _ in lines_of(markdown)]
    for i, line in enumerate(lines):
        if found := _CHECK.fullmatch(line):
            rows = list(_rows_beneath(lines[i + 1 :]))
            if not rows or "default" not in rows[0]:
                raise LookupError(f"No table with a column headed 'default' stands beneath {line!r}. Write one there.")
            column = rows[0].index("default")
            for row in rows[2:]:
                _check_default(found[1], row[0], row[column])


def _rows_beneath(lines: Sequence[str]) -> Iterator[list[str]]:
    begun = False
    for line in lines:
        if line.startswith("|"):
            begun = True
            yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        elif begun or line.strip():
            return


def _check_default(name: str, field_cell: str, written: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(_found(name))}
    field_name = field_cell.strip("`")
    if field_name not in fields:
        raise LookupError(f"{name} has no field {field_name!r}. Mend the table.")
    true = _default(fields[field_name])
    if written.strip("`*") != true.strip("`"):
        raise LookupError(f"The default of {name}.{field_name} is {true}, and a table says {written}. Mend the table.")


def defaults(name: str) -> str:
    """The fields of a dataclass of audiorl, by its public name or dotted path, with defaults and help.

    Fields that all trainers share are in the table of `SpeechConfig` alone.
    """
    config, shared = _found(name), _found("SpeechConfig")
    bases = [base for base in config.__mro__ if base.__module__.startswith("audiorl.")]
    own = {field for base in bases if base is not shared or config is shared for field in _own_names(base)}
    fields = [field for field in dataclasses.fields(config) if field.name in own]
    if silent := [field.name for field in fields if not field.metadata.get("help")]:
        raise LookupError(f"{name} has fields without help: {', '.join(silent)}. Describe them in the code.")
    rows = [[f"`{field.name}`", _default(field), _help(field)] for field in fields]
    return _markdown(["field", "default", "what it does"], rows)


def against(names: str) -> str:
    """Fields that two configs have with different defaults: `THEIRS OURS`, as `trl.DPOConfig DPOConfig`."""
    theirs, _, ours = names.partition(" ")
    known = {field.name: field for field in dataclasses.fields(_found(theirs))}
    rows = [
        [f"`{field.name}`", _default(known[field.name]), _default(field)]
        for field in dataclasses.fields(_found(ours))
        if field.name in known and _default(field) != _default(known[field.name])
    ]
    return _markdown(["field", theirs.partition(".")[0], "here"], rows)


def _own_names(config: type) -> set[str]:
    return set(inspect.get_annotations(config))


def _help(field: dataclasses.Field) -> str:
    parts = field.metadata["help"].split("`")  # every second one is code, which needs no escapes
    text = "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))
    choices = field.metadata.get("choices")
    if not choices or all(str(choice) in text for choice in choices):
        return text
    return f"{text} One of {', '.join(f'`{choice}`' for choice in choices)}."


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return _code(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else _code(field.default)


def _code(value: Any) -> str:
    if isinstance(value, float):
        return f"`{repr(value).replace('e-0', 'e-')}`"
    if isinstance(value, list):
        return f"`[{', '.join(_code(one).strip('`') for one in value)}]`"
    return f"`{value!r}`".replace("'", '"')


def losses(name: str) -> str:
    """The functions of `PREFERENCE_LOSSES`, `POLICY_LOSSES` or `ADVANTAGES`: what each is, and where it is from."""
    found = getattr(importlib.import_module("audiorl.losses"), name).items()
    rows = []
    for key, entry in found:
        function = getattr(entry, "function", entry)
        # five policy losses are one function, and say themselves what each is
        said = getattr(entry, "summary", "") or _first_sentence(function)
        rows.append([f"`{key}`", said, getattr(entry, "source", "") or _source(function)])
    return _markdown(["name", "what it is", "source"], rows)


def rewards() -> str:
    """What `audiorl.rewards.REWARDS` holds."""
    found = _found("REWARDS")
    rows = [[f"`{name}`", f"`{type(one).__name__}`", _first_sentence(type(one))] for name, one in found.items()]
    return _markdown(["name", "class", "what it is"], rows)


def corpora() -> str:
    """The corpora known by name."""
    from audiorl.datasets.corpus import CORPORA

    rows = []
    for corpus in CORPORA:  # without those that a program registered, the demo's rows for example
        languages = "any" if corpus.any_language else ", ".join(sorted(corpus.languages)) or "none"
        if corpus.languages and len(corpus.languages) > 8:
            languages = f"{len(corpus.languages)} codes"
        splits = ", ".join(f"`{split}`" for split in corpus.splits)
        rows.append([f"`{corpus.name}`", corpus.task, languages, f"{corpus.hours:,}", corpus.licence, splits])
    return _markdown(["name", "task", "languages", "hours", "licence", "splits"], rows)


def families() -> str:
    """Which family of models answers for which class."""
    from audiorl.models.registry import FAMILIES

    rows = [[f"`{name}`", f"`{str(family).rpartition(':')[2]}`"] for name, family in FAMILIES.items()]
    return _markdown(["model class, or `model_type`", "family"], rows)


def commands() -> str:
    """The commands of `audiorl`."""
    from audiorl.cli import COMMANDS

    return _markdown(["command", "what it does"], [[f"`audiorl {name}`", does] for name, does in COMMANDS.items()])


def trained() -> str:
    """What the tests train: their own list."""
    from tests.trained_models import table as trained_models

    return trained_models()


def pages() -> str:
    """The pages in the order of the navigation, each with its first sentence; of a section of the reference its first
    page."""
    lines = []
    for path in _pages_of(yaml.safe_load((DOCS / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]):
        text = (DOCS / "pages" / path).read_text(encoding="utf-8")
        title, _, rest = text.removeprefix("# ").partition("\n")
        paragraph = " ".join(rest.strip().partition("\n\n")[0].split())
        first = re.match(r"(?![<|#:]|```)(.+?[.?])(?: |$)", paragraph)
        if first is None:
            raise LookupError(f"{path} does not begin with a sentence that says what it is for. Write one there.")
        lines.append(f"* [{title}]({path}): {_without_links(first[1])}")
    return "\n".join(lines)


def _pages_of(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        place = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(place, list):
            within = list(_pages_of(place))
            yield from within[:1] if within[0] == "reference/index.md" else within
        elif place != "index.md":
            yield place


def _without_links(text: str) -> str:
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)


TABLES: dict[str, Callable[..., str]] = {
    "defaults": defaults,
    "against": against,
    "losses": losses,
    "rewards": rewards,
    "corpora": corpora,
    "families": families,
    "commands": commands,
    "trained": trained,
    "pages": pages,
    **site_words.TABLES,
}


def _found(name: str) -> Any:
    """A public name of audiorl, or the dotted path of another."""
    module, _, last = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module or "audiorl"), last)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"audiorl has no {name!r} ({error}). Name what took its place, or take it out.") from error


def _first_sentence(described: Any) -> str:
    text = inspect.getdoc(described)
    if not text:
        raise LookupError(f"{described!r} has no docstring, and a table shows it. Write one.")
    return " ".join(re.split(r"(?<=[.:])(?:\s|$)", text.replace("\n\n", ".\n", 1), maxsplit=1)[0].split()).rstrip(".:")


def _source(described: Any) -> str:
    text = inspect.getdoc(described) or ""
    found = re.search(r"^Sources?: (.+?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
