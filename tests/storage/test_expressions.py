"""Filter expressions: what is accepted, what is refused, and that rows pass as pandas says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cdgmae.settings.reading.expressions import parse_expression
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
    ],
)  # fmt: skip
def test_rows_pass_as_pandas_says(table: pa.Table, text: str) -> None:
    frame: pd.DataFrame = table.to_pandas()
    passed = table.filter(arrow_filter(text, COLUMNS)).to_pandas()
    pd.testing.assert_frame_equal(passed, frame.query(text).reset_index(drop=True))
    assert 0 < len(passed) < len(frame)


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
    ],
)
def test_everything_else_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="expression") as caught:
        parse_expression(text, COLUMNS)
    assert message in str(caught.value)
