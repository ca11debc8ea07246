"""`cdgmae verify`, `doctor`, `config` as a user calls them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.config import ConfigError, json_schema
from cdgmae.runtime.environment import PackageState, package_states
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter
from cdgmae.workflow.last_run import remember_run
from tests.docs.test_pages_say_what_is import COMMANDS

ROOT = Path(__file__).parents[1]


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    with ImageShardWriter(tmp_path / "00000.tar") as writer:
        writer.add_image(ImageRow("a", 0, extension="jpg"), b"x" * 900)
        writer.commit(settings_digest="x")
    return tmp_path / "00000.tar"


def test_verify_passes_whole_files_and_names_damaged_ones(shard: Path) -> None:
    code, output = invoke("verify", str(shard.parent), "--json")
    assert code == 0
    result = json.loads(output.splitlines()[-1])
    assert result == {"files": 1, "bad_files": 0, "problems": [], "repairs": [], "unrecorded": [str(shard)]}
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    code, output = invoke("verify", str(shard.parent), "--json")
    assert code == 1
    assert "00000.tar: image a.0" in json.loads(output.splitlines()[-1])["problems"][0]
    code, output = invoke("verify", str(shard))
    assert code == 1
    assert "1 with problems" in output


def test_verify_of_nothing_is_an_error(tmp_path: Path) -> None:
    code, _ = invoke("verify", str(tmp_path / "nowhere"))
    assert code == 1
    with pytest.raises(ValueError, match="nothing to verify"):
        invoke("verify", str(tmp_path))


def test_config_check_accepts_the_shipped_file_and_names_faults(tmp_path: Path) -> None:
    code, output = invoke("config", "check", "--config", str(ROOT / "config.yaml"), "--json")
    assert code == 0
    assert "demo" in json.loads(output.splitlines()[-1])["datasets"]
    broken = tmp_path / "config.yaml"
    broken.write_text((ROOT / "config.yaml").read_text().replace("num_shards: 2", "num_shard: 2"))
    with pytest.raises(ConfigError, match=r"num_shard: unknown key.*did you mean 'num_shards'"):
        invoke("config", "check", "--config", str(broken))


BY_CONFIGURATION = (
    "status", "fetch", "config check", "report write", "report table table1", "views plan --seconds-per-view 1",
    "export hub --bags x --output y",
)  # fmt: skip


@pytest.mark.parametrize("command", BY_CONFIGURATION)
def test_a_command_that_finds_no_configuration_says_how_to_get_one(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"holds no config\.yaml.*`cdgmae init FOLDER`.*`cdgmae config new`"):
        invoke(*command.split())
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read .*`cdgmae config new` writes one"):
        invoke(*command.split(), "--config", "none.yaml")


@pytest.mark.parametrize("command", BY_CONFIGURATION)
def test_after_config_new_a_command_without_config_is_told_its_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    invoke("config", "new", "--images", ".", "--stages", "shards", "--output", "my photos.yaml")
    Path("environment.yaml").write_text("dependencies: []\n")
    with pytest.raises(ValueError, match=r"holds no config\.yaml, and no workflow ran there yet: run `") as caught:
        invoke(*command.split())
    (line,) = re.findall("`(.*?)`", str(caught.value))
    assert shlex.split(line) == ["cdgmae", *command.split(), "--config", "my photos.yaml"]
    said = CliRunner().invoke(app, shlex.split(line)[1:])
    assert not isinstance(said.exception, ConfigError)
    assert "no workflow ran" not in str(said.exception)  # the next thing is said: what has not run yet
    Path("config.yaml").write_text(Path("my photos.yaml").read_text())
    assert f"so config.yaml is taken; for another file `{line}`\n" in CliRunner().invoke(app, command.split()).stderr


def test_commands_go_by_the_last_run_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["pretrain"]["runs"]["mine"] = values["pretrain"]["runs"].pop("cdg")
    values["propagation"] = None
    values["report"] = {}
    remember_run(values, [Path("mine.yaml")])
    assert "mine" in json.loads(invoke("pretrain", "flops", "--json")[1].splitlines()[-1])["runs"]
    assert json.loads(invoke("fetch", "--json")[1].splitlines()[-1])["networks"] == []
    with pytest.raises(ValueError, match=r"--run min: .* it has conditioning, crops, mine \(did you mean 'mine'\?\)"):
        invoke("pretrain", "flops", "--run", "min")


PASSED_OVER = (
    ("doctor --config none.yaml", "--config says what is tried on a cluster.* give --cluster, too"),
    ("doctor --wait 3", "--wait says what is tried on a cluster"),
    ("pretrain flops --settings num_anchors=1 --run cdg", "--settings and --run do not go together"),
    ("report table table1 --config a.yaml --settings rows=x", "--config and --settings do not go together"),
    ("report write --config a.yaml --settings title=x", "--config and --settings do not go together"),
    ("consistency query nps>0 --csv --output a.json", "--csv and --output do not go together"),
    ("consistency query nps>0 --csv --json", "--csv and --json do not go together"),
)


@pytest.mark.parametrize(("command", "message"), PASSED_OVER)
def test_no_option_is_passed_over(command: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        invoke(*command.split())


def test_a_configuration_that_stands_alone_is_told_how_to_be_given() -> None:
    done = CliRunner().invoke(app, ["status", "my.yaml"], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "given with --config my.yaml" in done.stderr


def test_a_wrong_choice_is_told_with_the_choices() -> None:
    said = CliRunner().invoke(app, ["cluster", "launch", "non", "--", "x"], env={"COLUMNS": "200"}).stderr
    assert "Invalid value for 'launcher': 'non' is not one of 'none', 'torchrun', 'srun'." in said


def test_help_texts_flow_and_show_their_brackets() -> None:
    for words, command in COMMANDS.items():
        lines = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "80"}).stdout.splitlines()
        first, *others = command.help.split("\n\n")
        assert first.endswith("."), words
        shown = " ".join(" ".join(lines).split())
        assert all(paragraph.replace("\\[", "[") in shown for paragraph in (first, *others)), words


def test_config_schema_is_printed_or_written(tmp_path: Path) -> None:
    code, output = invoke("config", "schema")
    assert (code, output) == (0, json_schema())
    invoke("config", "schema", "--output", str(tmp_path / "s.json"))
    assert (tmp_path / "s.json").read_text() == json_schema()


def test_doctor_says_what_is_there() -> None:
    code, output = invoke("doctor", "--json")
    result = json.loads(output.splitlines()[-1])
    assert code == 0
    assert result["packages"]["torch"]["installed"]
    assert result["packages"]["snakemake-executor-plugin-slurm"]["extra"] == "slurm"
    assert {"python", "device", "disk", "memory", "tools"} <= result.keys()
    code, output = invoke("doctor")
    assert code == 0
    assert "usable cores" in output


def test_doctor_misses_a_compiler_only_where_something_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdgmae.runtime.environment.c_compiler", lambda: None)
    assert invoke("doctor")[0] == 0
    code, output = invoke("doctor", "--runtime", '{"compile": true}')
    assert code == 1
    assert "there is no C compiler" in output
    monkeypatch.setattr("cdgmae.runtime.environment.c_compiler", lambda: "/usr/bin/gcc")
    assert invoke("doctor", "--runtime", '{"compile": true}')[0] == 0


def test_missing_parts_come_with_the_way_to_get_them() -> None:
    assert PackageState("faiss-cpu", ">=1.8", None, "knn").remedy == "pip install 'cdgmae[knn]'"
    assert PackageState("torch", ">=99", "2.11", None).remedy == "pip install 'torch>=99'"
    assert PackageState("torch", ">=2.11", "2.15.0", None).remedy == ""
    assert all(state.ok for state in package_states() if state.extra is None)


def test_a_user_s_error_is_one_paragraph_without_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "cdgmae.cli", "shards", "write", "--root", str(tmp_path / "nowhere"), "--output",
        str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
