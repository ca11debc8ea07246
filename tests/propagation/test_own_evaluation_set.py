"""One's own clips beside DAVIS: a second set of a kind reaches the DAG, the tables, the summary, the page and `cdgmae status`."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from drawn_clips import write_davis
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.config import ConfigError, check_config
from cdgmae.paper import PAPER_TABLES
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS, column_of
from cdgmae.report.pages.propagation.propagation_page import write_propagation_page
from cdgmae.report.propagation_scores import read_scores, score_columns
from cdgmae.settings.report import ReportJobSettings
from cdgmae.status.status_summary import workflow_status
from tests.workflow.conftest import SNAKEMAKE, environment

ROOT = Path(__file__).parents[2]
SMALL = {"input_size": [64, 96], "radius": 4.0}


def config_with(**datasets: Any) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    return values | {"propagation": {**values["propagation"], "datasets": datasets}}


def test_a_second_set_of_a_kind_stands_beside_the_first_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    davis, lab = write_davis(tmp_path / "DAVIS"), write_davis(tmp_path / "lab", ("rat",), step=4)
    config = check_config(config_with(davis={"root": str(davis), **SMALL}, lab={"kind": "davis", "root": str(lab), **SMALL}))
    tables = []
    for encoder, floor in (("random", "pixels:16"), ("cdg", "pixels:8")):
        for name, protocol in config.propagation.datasets.items():
            arguments = ["run", protocol.kind, "--set", name, "--settings", protocol.canonical_json(), "--encoder", floor]
            output = f"results/propagation/{encoder}"
            result = CliRunner().invoke(
                app, ["propagation", *arguments, "--name", encoder, "--output", output, "--strips", "--device", "cpu"]
            )
            assert result.exit_code == 0, result.output
            tables.append(f"{output}/{name}.parquet")
    CliRunner().invoke(app, ["propagation", "summarise", "--output", "results/propagation/summary.parquet", *tables])

    summary = pq.read_table("results/propagation/summary.parquet").to_pylist()
    assert {(row["encoder"], row["set"], row["kind"], row["measure"]) for row in summary} == {
        (encoder, name, "davis", measure)
        for encoder in ("random", "cdg") for name in ("davis", "lab") for measure in ("J&F", "J", "F")
    }  # fmt: skip
    wide = pd.read_csv("results/propagation/summary.csv")
    assert list(wide.columns) == ["encoder", "J&F", "J", "F", "lab J&F", "lab J", "lab F"]

    encoders = read_scores(Path("results/propagation"))
    write_propagation_page(ReportJobSettings(), Path("results"), Path("page"), encoders)
    page, script = (Path(f"page/propagation/{name}").read_text() for name in ("index.html", "data.js"))
    for text in (
        '<th class="n">DAVIS J&amp;F</th>',
        '<th class="n">lab J&amp;F</th>',
        f"{wide['lab J&F'][1]:.1f}",
        'id="bars-lab"',
    ):
        assert text in page
    data = json.loads(script.removeprefix("const propagationData = ").removesuffix(";\n"))
    assert [(part["name"], part["sequences"]) for part in data["sets"]] == [("davis", ["one", "two"]), ("lab", ["rat"])]
    assert all((Path("page/propagation") / file).is_file() for file in data["sets"][1]["strips"]["files"]["cdg"].values())
    assert [column.label for column in score_columns(encoders) if column.headline] == ["DAVIS J&F", "lab J&F"]

    rows = workflow_status(config, tmp_path)["groups"]
    group = next(row for row in rows if row["group"] == "evaluation sets")
    assert (group["done"], group["total"]) == (4, 6)  # of encoder crops nothing is there


def test_sets_become_wildcards_of_the_dag(tmp_path: Path) -> None:
    write_davis(tmp_path / "lab")
    values = config_with(davis={"root": "data/demo/DAVIS", **SMALL}, lab={"kind": "davis", "root": "lab"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    command = [*SNAKEMAKE, "--directory", str(tmp_path), "--configfile", str(tmp_path / "config.yaml"), "-n", "propagation", "-p"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "results/propagation/cdg/lab.parquet" in done.stdout
    assert "cdgmae propagation run davis --set lab" in done.stdout


def test_every_kind_has_the_paper_s_values_of_its_own() -> None:
    roots: dict[str, Any] = {kind: {"root": kind} for kind in ("davis", "vip", "jhmdb")}
    sets = check_config(config_with(**roots, lab={"kind": "vip", "root": "lab"})).propagation.datasets
    assert {name: (protocol.input_size, protocol.top_k) for name, protocol in sets.items()} == {
        "davis": ((480, 880), 7), "vip": (880, 10), "jhmdb": ((320, 320), 7), "lab": (880, 10)
    }  # fmt: skip
    assert {(protocol.queue_length, protocol.radius, protocol.temperature) for protocol in sets.values()} == {(20, 20, 0.7)}


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({"lab": {"root": "x"}}, r"propagation\.datasets\.lab\.kind: required and not given; one of davis, vip, jhmdb"),
        ({"lab": {"kind": "davs", "root": "x"}}, r"kind = 'davs': no such kind; allowed: davis, .*did you mean 'davis'"),
        ({"vip": {"root": "x", "resolution": "480p"}}, r"propagation\.datasets\.vip\.resolution: unknown key"),
        ({"davis": {"kind": "vip", "root": "x"}}, r"datasets\.davis\.kind = 'vip', but 'davis' is the name of another kind"),
    ],
)
def test_sets_that_mean_nothing_are_refused(datasets: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_config(config_with(**datasets))


def test_columns_of_the_paper_s_tables_are_measures_of_the_kinds_that_they_name() -> None:
    columns = {name: column for table in PAPER_TABLES.values() for name, column in table.columns.items()}
    measured = {name: column.kind for name, column in columns.items() if column.stage == "propagation"}
    assert measured
    for name, kind in measured.items():
        assert kind is not None
        assert name in [measure.name for measure in BENCHMARKS[kind].measures]


def test_measures_of_all_kinds_differ_so_that_the_wide_summary_has_no_column_twice() -> None:
    names = [measure.name for benchmark in BENCHMARKS.values() for measure in benchmark.measures]
    assert len(set(names)) == len(names)
    for kind, benchmark in BENCHMARKS.items():
        assert benchmark.kind == kind == benchmark.protocol.model_fields["kind"].default
    for one, other in itertools.combinations(BENCHMARKS, 2):
        assert column_of("lab", one, BENCHMARKS[one].headline.name) != column_of("lab", other, BENCHMARKS[other].headline.name)
