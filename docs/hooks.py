"""What the build adds to the pages: parts of other files, tables made from the code, formulas, search from a disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import material
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# audiorl and the tests' lists, whether installed or not
sys.path.insert(0, str(ROOT))

import site_includes  # noqa: E402
import site_math  # noqa: E402
import site_tables  # noqa: E402

MARKERS = {
    "table": site_tables.table,
    "include": site_includes.section,
    "check": site_tables.nothing_to_show,
}
# Pages that a search shows before others with the same words: answers before what explains them.
BOOST = {"faq.md": 2.0}
SHIM = "javascripts/iframe-worker.js"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    # mkdocs puts back the path it had before it read this file
    sys.path.insert(0, str(ROOT))
    fence = {"name": "math", "class": "math", "format": site_math.fence}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for drawing in site_includes.drawings():
        files.append(File.generated(config, site_includes.place_of(drawing), abs_src_path=str(drawing)))
    files.append(File.generated(config, SHIM, content=worker_shim()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    source = ROOT / "docs" / "pages" / page.file.src_uri
    if page.file.src_uri in BOOST:
        page.meta["search"] = {"boost": BOOST[page.file.src_uri]}
    try:
        site_tables.check_defaults(markdown)
        text = site_includes.with_links_of_the_site(markdown, source.parent, source)
        return site_includes.with_markers(text, MARKERS, source)
    except LookupError as error:
        raise PluginError(f"docs/pages/{page.file.src_uri}: {error.args[0]}") from error


def worker_shim() -> str:
    """A browser starts no worker from a file; it does from a text that the page brings along."""
    workers = list(Path(material.__file__).parent.glob("templates/assets/javascripts/workers/search.*.min.js"))
    if len(workers) != 1:
        raise PluginError(
            f"mkdocs-material has {len(workers)} search workers, one is packed for search from a disk. "
            "See where this version keeps it and mend worker_shim in docs/hooks.py."
        )
    code = workers[0].read_text(encoding="utf-8").partition("//# sourceMappingURL")[0]
    return f"""if (location.protocol === "file:") {{
  const code = {json.dumps(code)};
  const Stock = window.Worker;
  window.Worker = function () {{
    return new Stock(URL.createObjectURL(new Blob([code], {{type: "text/javascript"}})));
  }};
}}
"""
