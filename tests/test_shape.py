"""What keeps the code readable, counted: few files per folder, one name per file, short functions, few options."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Any

import typer

from cdgmae.cli import app

PACKAGE = Path(__file__).parent.parent / "cdgmae"
LAYERS = ("commands", "settings", "workflow")  # their files are named after stages
MOST_FILES = 12
MOST_LINES = 70
MOST_OPTIONS = 200


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


def test_a_room_holds_a_dozen_files() -> None:
    rooms = Counter(path.parent for path in sources())
    assert not {str(room): count for room, count in rooms.items() if count > MOST_FILES}


def test_a_file_name_occurs_once_beside_the_layers_that_follow_the_stages() -> None:
    names = Counter(path.name for path in sources() if path.relative_to(PACKAGE).parts[0] not in LAYERS)
    assert not [name for name, count in names.items() if count > 1]


def test_a_function_fits_a_screen() -> None:
    functions = (
        (f"{path.relative_to(PACKAGE)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert not {name: lines for name, lines in functions if lines > MOST_LINES}


def test_the_command_line_has_few_options() -> None:
    """Every `--option` of every command counts, one that several commands share each time; --help does not."""
    commands: list[Any] = [typer.main.get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
    options = [parameter for command in commands for parameter in command.params if parameter.opts[0].startswith("--")]
    assert len(options) <= MOST_OPTIONS
