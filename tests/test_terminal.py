"""The one rule for what commands print: names come out as they are, whole, in a terminal of any width, in a pipe or in a file."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import pytest

from cdgmae.cli import main
from cdgmae.commands.options import print_result
from cdgmae.consistency.score_display import ConsistencyDisplay, render_display, render_rows
from cdgmae.propagation.measures.intervals import Interval
from cdgmae.propagation.output.encoder_comparison import SetComparison, render_comparison
from cdgmae.runtime.logs import OneLineFormatter
from cdgmae.terminal import ResultTable, key_column, open_console

PACKAGE = Path(__file__).parents[1] / "cdgmae"
KEY = "a_long_name_without_any_place_to_break_" + "x" * 40
CELLS = (KEY, "nps >= 0.6 and gs >= 0.9", "several words in one cell, and some more of them", "1,234,567")
HOSTILE = ("[bold]mine[/bold]", "[/red]", "a:bug:b", "[link=file:x]y", r"back\[slash]", "[0.5]", "{x}")


def set_width(monkeypatch: pytest.MonkeyPatch, columns: str | None) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)


def print_table() -> None:
    table = ResultTable("name_of_it", key_column("filter"), "note", "pairs", box=None)
    table.add_row(*CELLS)
    open_console().print(table)


@pytest.mark.parametrize("columns", ["24", "80", "200"])
def test_cells_wrap_between_words_and_neither_keys_nor_headers_are_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    set_width(monkeypatch, columns)
    print_table()
    text = capsys.readouterr().out
    words = ["several", "words", "in", "one", "cell,", "and", "some", "more", "of", "them"]
    assert all(word in text for word in ("name_of_it", "filter", "note", "pairs", KEY, CELLS[1], CELLS[3], *words))
    if columns == "200":
        assert max(map(len, text.splitlines())) <= 200


def test_in_a_pipe_a_row_is_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_width(monkeypatch, None)
    print_table()
    _, row = capsys.readouterr().out.splitlines()
    assert re.split(" {2,}", row.strip()) == list(CELLS)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    set_width(monkeypatch, "60")
    long = f"{name}_{KEY}"
    one = {"J": Interval(1.0, 0.5, 1.5)}
    summary = {"source": name, "pairs": 1, "bad": 0, "distance": None, "gs_low": None}
    scores = {f"{score}_{of}": 0.5 for score in ("gs", "ls", "nps", "nps_reverse") for of in ("mean", "std")}
    print_result({"path": long})
    render_rows(name, [{"key": long, name: name}], text=("key",))
    render_comparison(SetComparison(name, "J", (1, 1), one, one, one, {long: (1.0, 2.0)}), name, name)  # type: ignore[arg-type]
    render_display(ConsistencyDisplay([summary | scores], "nps", [0.0] * 49, {name: [1] * 48}))
    text = capsys.readouterr().out
    assert text.count(long) == 3
    assert text.count(name) == 3 + 12


def test_all_commands_print_this_way() -> None:
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py") if path.name not in ("terminal.py", "progress.py")}
    other = re.compile(r"rich\.table import .*\bTable\b|rich\.table\.Table|\bConsole\(|from_markup|markup=True")
    assert [str(path) for path, text in sources.items() if other.search(text)] == []


def test_what_other_libraries_break_into_lines_is_told_in_one_line_and_a_list_in_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("shards: {datasets: {}\nviews: 3\n")
    monkeypatch.setattr(sys, "argv", ["cdgmae", "config", "check", "--config", "my.yaml"])
    with pytest.raises(SystemExit):
        main()
    _, said = capsys.readouterr().err.split("error: ")
    assert re.fullmatch(
        r"my\.yaml is not valid YAML: while parsing a flow mapping in line 1, column 9: expected ',' or .* in line 2, column 1\n",
        said,
    )
    Path("my.yaml").write_text("sed: 1\nsort: 2\n")
    with pytest.raises(SystemExit):
        main()
    _, said = capsys.readouterr().err.split("error: ")
    assert [line[:10] for line in said.splitlines()] == ["my.yaml ca", "  - sed: u", "  - sort: "]
    record = logging.makeLogRecord({"msg": "%s", "args": ("cannot load (\n\tmissing)",), "levelname": "WARNING"})
    assert OneLineFormatter("%(levelname)s %(message)s").format(record) == "WARNING cannot load ( missing)"
