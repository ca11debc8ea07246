"""The one rule for tables of all commands: nothing is cut, in a terminal, in a pipe or in a file."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from cdgmae.terminal import ResultTable, open_console

PACKAGE = Path(__file__).parents[1] / "cdgmae"
CELLS = ("a_long_name_without_any_place_to_break_" + "x" * 40, "0.417 ± 0.118", "several words in one cell", "1,234,567")


def printed(monkeypatch: pytest.MonkeyPatch, columns: str | None) -> list[str]:
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    table = ResultTable("name", "value", "note", "pairs", box=None)
    table.columns[1].no_wrap = True
    table.add_row(*CELLS)
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    open_console().print(table)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("columns", ["24", "80", "200"])
def test_cells_fold_and_keep_every_character(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    lines = printed(monkeypatch, columns)
    assert max(map(len, lines)) <= int(columns)
    letters = "".join(lines).replace(" ", "")
    assert sorted(letters) == sorted("".join(("name", "value", "note", "pairs", *CELLS)).replace(" ", ""))


def test_in_a_pipe_a_row_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _, row = printed(monkeypatch, None)
    assert re.split(" {2,}", row.strip()) == list(CELLS)


def test_all_commands_print_their_tables_this_way() -> None:
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "terminal.py"}
    assert [
        str(path) for path, text in sources.items() if re.search(r"rich\.table import .*\bTable\b|rich\.table\.Table", text)
    ] == []
