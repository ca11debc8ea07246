"""Real clips of DAVIS and JHMDB with the official settings: the scores that the published evaluation gives."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from formula_checkpoint import write_formula_checkpoint

from cdgmae.commands.propagation import read_protocol
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.settings.encoder import EncoderSettings

CLIPS = Path(__file__).parents[3] / "shared/data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CLIPS / "real_scores.json").is_file(), reason="the real clips are not beside this checkout"),
]


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((CLIPS / "real_scores.json").read_text())


def run(kind: str, folder: Path) -> tuple[dict[str, float], list[dict]]:
    checkpoint, output = write_formula_checkpoint(folder / "formula.pth"), folder / "table.parquet"
    protocol = read_protocol(kind, None, str(CLIPS / kind.upper()))
    scores = run_propagation(protocol, EncoderSettings(checkpoint=str(checkpoint), num_heads=6), output)
    return scores, pq.read_table(output).to_pylist()


def test_j_and_f_of_real_sequences(tmp_path: Path, expected: dict) -> None:
    scores, rows = run("davis", tmp_path)
    assert len(rows) == len(expected["davis"]["per_object"])
    for row in rows:
        assert (row["J_mean"], row["F_mean"]) == pytest.approx(
            expected["davis"]["per_object"][f"{row['sequence']}_{row['item']}"], abs=1e-4
        )
    assert scores == pytest.approx({name: 100 * expected["davis"][name] for name in ("J&F", "J", "F")}, abs=1e-2)


def test_pck_of_real_clips(tmp_path: Path, expected: dict) -> None:
    scores, rows = run("jhmdb", tmp_path)
    assert {row["sequence"] for row in rows} == set(expected["jhmdb_videos"])
    assert scores == pytest.approx({f"PCK@{alpha}": values[0] for alpha, values in expected["jhmdb"].items()}, abs=0.1)
