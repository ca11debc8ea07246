"""MkDocs hook: pages that are written by no one, because the schema, the command line and files of the repository already say it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs runs this file, but does not import from its folder

from command_reference import command_page
from configuration_reference import configuration_page
from table_costs import table_costs_page

import cdgmae

ROOT = Path(__file__).parents[2]
os.environ["JUPYTER_PATH"] = str(Path(__file__).parent / "jupyter")  # the kernel that executes notebooks

REPOSITORY_PAGES = {"contributing": "CONTRIBUTING.md", "releasing": "RELEASING.md", "changelog": "CHANGELOG.md"}
"""Pages below `project/` that are files of the repository's root."""

DRILLS = ROOT / "perf/results/faults.md"
"""What `make drills` wrote: counts, no measurement."""

REPORT_IMAGES = ("bag_of_views.jpg", "explorer.png")
"""Images of workflow/report that pages show as `images/NAME`."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and images that lie elsewhere in the repository."""
    pages = {
        "reference/configuration.md": configuration_page(),
        "reference/commands.md": command_page(),
        "reference/paper_tables.md": table_costs_page(),
        "reference/python.md": python_page(),
        "reference/numbers.md": numbers_page(ROOT / "perf/results"),
        "reference/fault_drills.md": DRILLS.read_text(),
    }
    pages |= {f"project/{name}.md": repository_page(ROOT / file) for name, file in REPOSITORY_PAGES.items()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for name in REPORT_IMAGES:
        files.append(File.generated(config, f"images/{name}", abs_src_path=str(ROOT / "workflow/report" / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that leave docs/, which forges follow: measurements have a page here, other files of the repository are named."""
    depth = page.file.src_uri.count("/")

    def here(link: re.Match[str]) -> str:
        text, file = link.groups()
        if ROOT / file == DRILLS:
            return f"[{text}]({'../' * depth}reference/fault_drills.md)"
        if file.startswith("perf/results/"):
            return f"[{text}]({'../' * depth}reference/numbers.md)"
        return text if file in text else f"{text} (`{file}`)"

    return re.sub(rf"(?<!!)\[([^\]]*)\]\({re.escape('../' * (depth + 1))}([\w][^)#]*)(?:#[^)]*)?\)", here, markdown)


def python_page() -> str:
    """The names of the Python interface; mkdocstrings fills in signatures and docstrings."""
    head = "# Python\n\nSignatures of the eight names; [In Python](../python_api.md) shows them at work.\n"
    return head + "".join(f"\n::: cdgmae.{name}\n" for name in cdgmae.__all__)


def repository_page(file: Path) -> str:
    """A file of the repository's root as a page of `project/`: its links into docs/ lead to the pages."""
    return re.sub(r"\]\(docs/", "](../", file.read_text())


def numbers_page(folder: Path) -> str:
    """All measurements of perf/results on one page, each with the headings one level down."""
    parts = [
        "# Numbers\n\nWhat was measured, each time as a ratio against a stated baseline in one run, by a script of `perf/` that repeats it. "
        "What nobody has measured yet is said where it belongs.\n"
    ]
    for file in sorted({*folder.glob("*.md")} - {DRILLS}):
        parts.append(re.sub(r"^(#+ )", r"#\1", file.read_text(), flags=re.MULTILINE))
    return "\n".join(parts)
