"""What a run remembers: which configuration it had, what changed since, and what commands make of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.config import check_config
from cdgmae.workflow.last_run import RECORD, changed_keys, read_last_run, remember_run
from cdgmae.workflow.messages.reasons import PARAMS_CHANGED, changed_inputs, short_reason
from tests.propagation.drawn_clips import write_davis
from tests.workflow.conftest import Workplace, environment, set_key, tiny_config
from tests.workflow.test_partial_workflows import PARTS


def test_every_changed_key_is_one_line_and_defaults_are_told_once() -> None:
    old = tiny_config()
    new = set_key(set_key(old, "pretrain.defaults.depth", 2), "views.sources.s_ldm.sampling.guidance_scale", 2.0)
    new["propagation"]["encoders"]["floor"] = {"pixels": 8}
    new["consistency"]["sources"] = ["s_ldm", "crops"]
    assert changed_keys(check_config(old), check_config(new)) == [
        "views.sources.s_ldm.sampling.guidance_scale: 1.5 -> 2.0",
        'consistency.sources: ["s_ldm"] -> ["s_ldm", "crops"]',
        "pretrain.defaults.depth: 1 -> 2",
        'propagation.encoders.floor: (not there) -> {"pixels": 8}',
    ]


REASONS = [
    (
        "Params have changed since last execution: Union of exclusive params before and now across all output: before: "
        """'{"batch":2,"sampling":{"eta":0.0,"steps":10}}' now: '{"batch":2,"sampling":{"eta":0.5,"steps":10}}' """,
        "Changed: sampling.eta: 0.0 -> 0.5",
    ),
    (
        "Code has changed since last execution; Params have changed since last execution: Union of exclusive params before and now "
        """across all output: before: '{"a":1,"b":2}','{"x":1,"y":2}' now: '{"x":1,"y":3}','{"a":2,"b":2}' ; Missing""",
        "Code has changed since last execution; Changed: a: 1 -> 2, y: 2 -> 3; Missing",
    ),
    (
        "Params have changed since last execution: Union of exclusive params before and now across all output: before: 0 now: 1 ",
        "Changed: 0 -> 1",
    ),
    ("Missing output files: a.parquet", "Missing output files: a.parquet"),
    ("Updated input files: ; Input files updated by another job: a.tar", "Input files updated by another job: a.tar"),
]


@pytest.mark.parametrize(("reason", "short"), REASONS)
def test_a_reason_names_the_keys(reason: str, short: str) -> None:
    assert short_reason(reason) == short


def test_a_reason_names_the_parameters_that_are_no_settings() -> None:
    reason = (
        "Params have changed since last execution: Union of exclusive params before and now across all output: before: "
        """'1f2e',0,'{"path":"a","seed":1}' now: '3c4d',1,'{"path":"b","seed":1}' """
    )
    params = {"settings": '{"path":"b","seed":1}', "images": "3c4d", "seed": 1, "work": "work/1"}
    assert short_reason(reason, params) == "Changed: path: a -> b, seed: 0 -> 1"
    of_images = f"{PARAMS_CHANGED}Union of exclusive params before and now across all output: before: '1f2e' now: '3c4d' "
    assert short_reason(of_images, params) == "Changed: files below b were added, removed or replaced"


def test_a_reason_names_the_files_that_came_and_went() -> None:
    assert changed_inputs(["a", "b"], ["b", *"cdefg"]) == "New input files: c, d, e, 2 more, No longer input files: a"


@pytest.mark.usefixtures("forked_commands")
def test_commands_go_by_the_last_run_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = Workplace(tmp_path)
    (tmp_path / "mine.yaml").write_text("propagation: {datasets: {davis: {root: a}}, encoders: {floor: {pixels: 8}}}\n")
    place.write_config(tiny_config())
    with pytest.raises(ValueError, match="nothing was run in this folder; give two files"):
        CliRunner().invoke(app, ["config", "diff", "mine.yaml"], catch_exceptions=False)
    remember_run(
        {"propagation": {"datasets": {"davis": {"root": "a"}}, "encoders": {"floor": {"pixels": 8}}}}, [tmp_path / "mine.yaml"]
    )

    def said(*arguments: str) -> tuple[str, str]:
        found = CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "150"})
        return found.stdout, found.stderr

    shown, note = said("status")
    assert "0 of 3 jobs done" in shown
    assert note.startswith("configuration: mine.yaml (last run, 20")
    assert "of 36 jobs done" in said("status", "--config", "config.yaml")[0]
    assert said("status", "--config", "config.yaml")[1] == ""
    assert said("config", "diff")[0].startswith("no key differs from mine.yaml (last run")
    (tmp_path / "mine.yaml").write_text("propagation: {datasets: {davis: {root: b}}, encoders: {floor: {pixels: 8}}}\n")
    assert said("config", "diff")[0] == "propagation.datasets.davis.root: a -> b\n"
    assert (
        said("status")[1]
        .splitlines()[1]
        .startswith("the next run goes by mine.yaml as it is now (propagation.datasets.davis.root: a -> b); `cdgmae config diff`")
    )
    with pytest.raises(ValueError, match="--folder /nope: there is no such folder"):
        CliRunner().invoke(app, ["status", "--folder", "/nope"], catch_exceptions=False)
    (tmp_path / "other.yaml").write_text("propagation: {datasets: {davis: {root: b}}, encoders: {floor: {pixels: 16}}}\n")
    assert said("config", "diff", "mine.yaml", "other.yaml")[0] == "propagation.encoders.floor.pixels: 8 -> 16\n"
    assert json.loads(said("config", "diff", "other.yaml", "--json")[0].splitlines()[-1])["changed"] == [
        "propagation.datasets.davis.root: a -> b", "propagation.encoders.floor.pixels: 8 -> 16",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="takes at most two files, found 3"):
        CliRunner().invoke(app, ["config", "diff", "a", "b", "c"], catch_exceptions=False)
    (tmp_path / RECORD).write_text("torn")
    assert read_last_run() is None


@pytest.mark.slow
def test_a_run_says_what_changed_and_where_the_report_is(tmp_path: Path) -> None:
    config, _, _ = PARTS["encoders judged"]
    write_davis(tmp_path / "DAVIS")
    place = Workplace(tmp_path)
    place.write_config(config)
    first = place.run()
    assert first.returncode == 0, first.stderr[-2000:]
    assert "Changed since" not in first.stderr
    changed = set_key(config, "propagation.datasets.davis.radius", 4)
    place.write_config(set_key(changed, "propagation.encoders.coarse", {"pixels": 16}))
    plan, second, third = place.run("--dry-run"), place.run(), place.run()
    for said in (plan.stdout + plan.stderr, second.stdout + second.stderr):
        assert said.count("Changed since config.yaml (last run, ") == 1
        assert "    propagation.datasets.davis.radius: 3.0 -> 4.0\n" in said
        assert "Changed: radius: 3.0 -> 4.0" in said
        assert "before:" not in said
    for done in (first, second, third):
        assert "The report: results/report/index.html" in done.stderr
    assert "Nothing to be done" in third.stderr
    command = ["cdgmae", "status"]
    status = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(), check=True)
    assert "4 of 4 jobs done" in status.stdout
    place.write_config(changed)
    plan = place.run("--dry-run")
    assert "Reason: No longer input files: results/propagation/coarse/davis.parquet" in plan.stdout + plan.stderr
    assert "Set of input files" not in plan.stdout + plan.stderr
