"""The documentation says what the software does: keys, options, columns, commands and paths on its pages exist."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cdgmae.cli import app
from cdgmae.config import json_schema

ROOT = Path(__file__).parents[2]

PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("config/*.md"), *ROOT.glob("docs/**/*.md")]
    if path.name != "CHANGELOG.md"  # speaks of what was
)
ROOMS = "cdgmae|config|docs|envs|perf|tests|workflow"


def generated_page(name: str) -> Any:
    """A module of docs/hooks, imported as the site's build does."""
    folder = str(ROOT / "docs/hooks")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return import_module(name)


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands() -> Iterator[tuple[str, Any]]:
    """(words after `cdgmae`, command) of every command that does something."""
    waiting: list[tuple[str, Any]] = [("", get_command(app))]
    while waiting:
        words, command = waiting.pop()
        below = getattr(command, "commands", {})
        waiting += [(f"{words} {name}".strip(), inner) for name, inner in below.items()]
        if not below:
            yield words, command


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("-")}


COMMANDS = dict(commands())


def shell_lines(text: str) -> Iterator[str]:
    """The command lines of all shell blocks, continued lines joined, comments cut."""
    for block in re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                yield re.sub(r"\s+#.*", "", line)


def cdgmae_calls(text: str) -> Iterator[list[str]]:
    """The words of every call of `cdgmae` in shell blocks and in code within sentences."""
    for line in [*shell_lines(text), *re.findall(r"`((?:python -m )?cdgmae [^`\n]+)`", text)]:
        words = list(takewhile(lambda word: word not in ("|", ">", "&&"), shlex.split(line)))
        if "cdgmae" in words:
            yield words[words.index("cdgmae") + 1 :]


def test_the_configuration_page_describes_every_key_of_the_schema() -> None:
    page = generated_page("configuration_reference").configuration_page()
    schema = json.loads(json_schema())
    for name, definition in schema["$defs"].items():
        if "properties" not in definition:
            continue
        table = re.search(rf"\{{ #{name} \}}\n(.*?)(?=\n##|\Z)", page, re.DOTALL)
        assert table is not None, f"{name} stands nowhere"
        shown = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table.group(1), re.MULTILINE))
        assert set(shown) == set(definition["properties"]), name
        for key, value in definition["properties"].items():
            assert value.get("description", "").split("|")[0] in shown[key], f"{name}.{key}"
    assert set(re.findall(r"^## `(\w+)`", page, re.MULTILINE)) == set(schema["properties"])


def test_the_command_page_names_every_command_and_option() -> None:
    page = generated_page("command_reference").command_page()
    sections = dict(re.findall(r"^#+ `cdgmae ([\w -]+)`\n(.*?)(?=^#|\Z)", page, re.DOTALL | re.MULTILINE))
    for words, command in COMMANDS.items():
        for name in options(command) - {"--help"}:
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", sections[words]), f"{words} {name}"


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_commands_on_a_page_exist_with_their_options(path: Path) -> None:
    groups = {name.split()[0] for name in COMMANDS}
    for words in cdgmae_calls(path.read_text()):
        names = [word for word in words[:2] if re.fullmatch(r"[a-z][a-z-]*", word)]
        if not names:  # `cdgmae STAGE VERB`, `cdgmae --help`
            continue
        known = next((name for name in (" ".join(names), names[0]) if name in COMMANDS), None)
        if known is None:
            assert names in [[group] for group in groups], f"no command {words}"
            continue
        used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        if not COMMANDS[known].context_settings.get("ignore_unknown_options"):  # what it hands on to snakemake
            assert used <= options(COMMANDS[known]) | {"--help", "--json"}, words


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_paths_of_the_repository_that_a_page_names_exist(path: Path) -> None:
    words = {word for code in re.findall(r"`([^`\n]+)`", path.read_text()) for word in code.split()}
    words |= {word for line in shell_lines(path.read_text()) for word in line.split()}
    named = {word.rstrip(",.:;") for word in words if re.fullmatch(rf"(?:{ROOMS})/[\w./-]+", word)}
    assert [name for name in sorted(named) if not (ROOT / name).exists() and "KIND" not in name] == []


def test_columns_on_the_page_of_file_formats_are_those_of_the_files() -> None:
    text = (ROOT / "docs/reference/files.md").read_text()
    tables = re.findall(r"<!-- schema: ([\w.]+)\.(\w+) -->\n((?:\|.*\n)+)", text)
    assert len(tables) == 7
    for module, name, table in tables:
        shown = re.findall(r"^\| `(\w+)` \| ([\w<>]+) \|", table, re.MULTILINE)
        fields = [
            (field.name, str(field.type).replace("item: ", "").replace("element: ", ""))
            for field in getattr(import_module(module), name)
        ]
        assert shown == fields, f"{module}.{name}"


@pytest.mark.parametrize("page", ["docs/reference/files.md", "docs/stages/propagation.md"])
def test_every_kind_of_evaluation_set_has_a_row(page: str) -> None:
    from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS

    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / page).read_text(), re.MULTILINE))
    assert set(BENCHMARKS) <= set(rows)
    if page.endswith("files.md"):  # of columns that count up, the first and the last are enough
        for kind, benchmark in BENCHMARKS.items():
            named = [
                name
                for name in benchmark.columns
                if not re.search(r"0\.[234]$|(within|jaccard)_[248]$", name) or kind == "key_points"
            ]
            assert [name for name in named if f"`{name}`" not in rows[kind]] == [], kind


def test_every_kind_of_view_source_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/stages/views.md").read_text(), re.MULTILINE)
    schema = json.loads(json_schema())
    kinds = {definition["properties"]["kind"]["const"] for name, definition in schema["$defs"].items() if name.endswith("Source")}
    assert set(rows) - {"kind"} == kinds


def test_the_table_of_stages_names_every_command() -> None:
    page = (ROOT / "docs/stages/index.md").read_text()
    for stage, verbs in re.findall(r"`cdgmae (\w+) ([\w-]+`(?:, `[\w-]+`)*) \| `results", page):
        named = {f"{stage} {verb}" for verb in re.findall(r"[\w-]+", verbs)}
        assert named == {name for name in COMMANDS if name.startswith(f"{stage} ")}
