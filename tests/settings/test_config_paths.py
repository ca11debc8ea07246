"""Paths of a configuration: folders that are not what is meant, names that Snakemake reads otherwise, files that cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.config import ConfigError, load_config, read_files
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS
from cdgmae.workflow.named_files import check_run, load_run
from tests.settings.demo_config import ROOT, changed

LAYOUTS = {"davis": "DAVIS", "jhmdb": "JHMDB", "vip": "VIP"}


def test_a_folder_of_another_kind_one_level_off_or_empty_is_refused_and_the_right_one_named(tmp_path: Path) -> None:
    for kind, name in LAYOUTS.items():
        for part in BENCHMARKS[kind].layout:
            (tmp_path / name / part).mkdir(parents=True)
    (tmp_path / "few/a").mkdir(parents=True)
    (tmp_path / "few/a/1.JPG").touch()
    (tmp_path / "few/note.txt").touch()
    roots = {"davis": "JHMDB", "vip": "", "mine": "DAVIS/Annotations", "jhmdb": "few", "right": "VIP"}
    kinds = {"mine": "davis", "right": "vip"}
    values = {
        "shards": {"datasets": {"few": {"path": str(tmp_path / "few"), "num_shards": 2}, "none": {"path": str(tmp_path / "VIP")}}},
        "propagation": {
            "datasets": {name: {"root": str(tmp_path / root), "kind": kinds.get(name, name)} for name, root in roots.items()},
            "encoders": {"floor": {"pixels": 16}},
        },
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        check_run(values, "my.yaml")
    said = str(caught.value)
    for text in (
        f"shards.datasets.few.num_shards = 2, but {tmp_path}/few holds only 1 image(s); write at most 1",
        "VIP': holds no image (.avif, ",
        "JHMDB': holds no JPEGImages, Annotations, ImageSets/2017/val.txt, as DAVIS-2017 (kind davis) does; it is laid out as kind jhmdb",
        f"vip.root = '{tmp_path}': holds no Images, Annotations/Category_ids, as VIP (kind vip) does; {tmp_path}/VIP does: write that",
        f"mine.root = '{tmp_path}/DAVIS/Annotations': holds no JPEGImages, Annotations, ImageSets/2017/val.txt, as DAVIS-2017",
        f"{tmp_path}/DAVIS does: write that",
        "few': holds no Rename_Images, joint_positions, as JHMDB (kind jhmdb) does\n",
    ):
        assert text in f"{said}\n"
    assert "right" not in said


def test_missing_data_is_named_with_its_key() -> None:
    paper = ROOT / "workflow/experiments/paper.yaml"
    with pytest.raises(
        ConfigError, match=r"(?s)paper\.yaml cannot.*shards\.datasets\.imagenet\.path = .*propagation\.datasets\.davis\.root"
    ):
        load_run(paper)
    values = read_files(paper) | {"sed": 1}
    with pytest.raises(ConfigError, match=r"(?s)sed: unknown key.*views\.generators\.gen_sis\.path"):
        check_run(values, "paper.yaml")


@pytest.mark.parametrize("key", ["shards.datasets.demo.path", "propagation.datasets.davis.root", "demo.directory"])
@pytest.mark.parametrize("path", ["data/{x}", "a}", "", "a\nb"])
def test_paths_that_snakemake_reads_otherwise_are_refused(key: str, path: str) -> None:
    with pytest.raises(
        ConfigError, match=f"{re.escape(f'{key} = {path!r}')}(?s:.*)a brace \\(which Snakemake reads as a wildcard"
    ):
        check_run(changed(key, path), "config.yaml")


def test_markup_in_a_path_is_printed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "[bold]mine"
    folder.mkdir()
    (folder / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    path = folder.relative_to(tmp_path) / "my.yaml"
    path.write_text(f"shards: {{datasets: {{mine: {{path: '{folder.name}', num_shards: 1}}}}}}\n")
    done = CliRunner().invoke(app, ["config", "check", "--config", str(path)], catch_exceptions=False)
    assert str(path) in done.stdout
    path.write_text("shards: {datasets: {mine: {path: '[bold]none'}}}\n")
    with pytest.raises(ConfigError, match=r"'\[bold\]none'"):
        CliRunner().invoke(app, ["config", "check", "--config", str(path)], catch_exceptions=False)


def test_a_path_that_is_not_there_is_offered_what_lies_there_under_a_like_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data/imagenet/train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for written, offered in (
        (f"{tmp_path}/data/imagnet/train", f"{tmp_path}/data/imagenet/train"), ("data/imagenet/trian", "data/imagenet/train"),
        ("dat/imagenet", "data/imagenet"), ("data/imagnet/val", None), ("data/photos", None), ("/photos", None),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            check_run(changed("shards.datasets.demo.path", written), "config.yaml")
        said = next(problem for problem in caught.value.problems if problem.startswith("shards.datasets.demo.path"))
        assert re.findall(r"did you mean '(.*?)'", said) == ([offered] if offered else []), said


def test_demo_paths_need_not_exist_before_they_are_drawn() -> None:
    check_run(changed("demo.directory", "data/demo"), "config.yaml")
    with pytest.raises(ConfigError, match="does not exist"):
        check_run(changed("shards.datasets.demo.path", "data/other/images"), "config.yaml")


@pytest.mark.parametrize(
    ("text", "hint"), [("a:\n\tb: 1", "blanks, never with tabs"), ("a: b: c", "in quotes"), ("a:\n  b 1\n  c: 1", "KEY: VALUE")]
)
def test_what_is_usually_meant_by_a_yaml_error_is_said(text: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"(?s)my.yaml is not valid YAML: .*{hint}"):
        load_config(tmp_path / "my.yaml")


def test_unreadable_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match=r"holds no sections with keys; `cdgmae config new` writes"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "torn.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "torn.yaml")
