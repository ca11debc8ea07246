"""Filter expressions: what is accepted, what is refused, and that rows pass as pandas says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cdgmae.consistency.score_tables import QUERY_SCHEMA
from cdgmae.settings.reading.expressions import TEXT_COLUMNS, parse_expression
from cdgmae.storage.expressions import arrow_filter

COLUMNS = ["gs", "ls", "nps", "key"]


@pytest.fixture(scope="module")
def table() -> pa.Table:
    generator = np.random.default_rng(0)
    columns = {name: generator.uniform(-1, 1, 400) for name in ("gs", "ls", "nps")}
    return pa.table({**columns, "key": [f"k{number % 7}" for number in range(400)]})


@pytest.mark.parametrize(
    "text",
    [
        "nps >= 0.6 and gs >= 0.9",
        "nps < 0.5 or not gs > 0.1",
        "0.1 < ls <= 0.7",
        "nps - ls > 0.2 and (gs < -0.3 or key == 'k3')",
        "-gs * 2 > ls / 3 and key != \"k1\"",
        "gs > 1 / 3 and ls < 2 / 3",
    ],
)  # fmt: skip
def test_rows_pass_as_pandas_says(table: pa.Table, text: str) -> None:
    frame: pd.DataFrame = table.to_pandas()
    passed = table.filter(arrow_filter(text, COLUMNS)).to_pandas()
    pd.testing.assert_frame_equal(passed, frame.query(text).reset_index(drop=True))
    assert 0 < len(passed) < len(frame)


def test_division_by_nothing_gives_no_error_in_a_job() -> None:
    table = pa.table({"gs": [0.0, 0.5, -1.0]})
    assert table.filter(arrow_filter("1 / gs > 1 and gs / 0 > 1", ["gs"]))["gs"].to_pylist() == [0.5]


def test_columns_of_text_are_known_as_such() -> None:
    texts = {field.name for field in QUERY_SCHEMA if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)}
    assert texts == TEXT_COLUMNS & set(QUERY_SCHEMA.names)


def test_missing_values_never_pass() -> None:
    table = pa.table({"gs": [0.95, None, 0.1]})
    assert table.filter(arrow_filter("gs > 0.5", ["gs"])).num_rows == 1
    assert table.filter(arrow_filter("not gs > 0.5", ["gs"])).num_rows == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nbs > 0.5", "no column 'nbs'; columns: gs, ls, nps, key"),
        ("nps >", "cannot be read"),
        ("nps", "is no comparison"),
        ("nps + 1", "is no comparison"),
        ("__import__('os').system('true') == 0", "is not allowed"),
        ("gs.real > 0", "is not allowed"),
        ("nps in [1]", "is no comparison"),
        ("(lambda: 1)() > 0", "is not allowed"),
        ("gs ** 2 > 1", "is not allowed"),
        ("gs > True", "is not allowed"),
        ("nps >= '0.6'", "compares a number with a text; quotes make a text"),
        ("key == 3", "compares a number with a text"),
        ("0.1 < gs < 'a'", "compares a number with a text"),
        ("gs + 'a' > 0", "calculates with text"),
        ("-key == 'a'", "calculates with text"),
        ("1 < 2", "names no column; columns: gs, ls, nps, key"),
        ("gs > 1e999", "is larger than any score"),
        (f"gs > {10**60}", "is larger than any score"),
        ("gs > " + "9" * 900, "is larger than any score"),
        ("gs > 1j", "is not allowed"),
        ("gs > b'a'", "is not allowed"),
        ("gs > None", "is not allowed"),
        ("gs > ...", "is not allowed"),
        ("f'{gs}' == 'a'", "is not allowed"),
        ("gs is not 1", "is no comparison"),
        ("(gs := 1) > 0", "is not allowed"),
        ("gs if gs > 0 else ls", "is no comparison"),
        ("gs[0] > 0", "is not allowed"),
        ("gs > 0; ls > 0", "cannot be read"),
        ("gs > 0\0", "cannot be read"),
        ("gs > 0 # \ud800", "cannot be read"),
        ("", "cannot be read"),
        ("(" * 300 + "gs" + ")" * 300 + " > 0", "cannot be read"),
        ("-" * 900 + "gs > 0", "is nested deeper than 40 levels"),
        ("not " * 200 + "gs > 0", "is nested deeper than 40 levels"),
        ("+".join(["gs"] * 300) + " > 0", "is nested deeper than 40 levels"),
        ("gs > 0" + " or gs > 0" * 200, "characters; at most 1,000 are read"),
    ],
)
def test_everything_else_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="expression") as caught:
        parse_expression(text, COLUMNS)
    assert message in str(caught.value)
