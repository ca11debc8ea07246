"""Every command that a message names works: it exists with its options, and what must be made again is made again."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.names import output_with
from cdgmae.paper import PAPER_TABLES
from cdgmae.propagation.layouts.prepare_davis import check_prepared
from cdgmae.report.training_curves import read_runs
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.files.publishing import published
from cdgmae.storage.files.records import record_path
from cdgmae.storage.image_shards import ImageShard, read_index
from cdgmae.storage.tables import read_table, write_table
from cdgmae.training.metrics import METRICS_SCHEMA
from tests.docs.remedies import COMMAND, ROOT, messages, page
from tests.docs.test_pages_say_what_is import COMMANDS, options
from tests.generators.conftest import KEYS, write_shard
from tests.propagation.drawn_clips import write_davis
from tests.workflow.conftest import Workplace, environment, tiny_config

PAGE = ROOT / "docs/when_things_fail.md"
FOUND = messages()


def test_the_page_is_what_the_source_says(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--write-pages"):
        PAGE.write_text(page(FOUND), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(FOUND)
    assert len(FOUND) > 30


@pytest.mark.parametrize("command", sorted({command for message in FOUND for command in message.commands}))
def test_a_named_command_exists_with_its_options(command: str) -> None:
    program, *words = shlex.split(command)
    if program == "rm":
        assert words == ["-r", "RESULT"]
    elif program == "snakemake":
        rules = set(
            re.findall(
                r"^rule (\w+):", "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")), re.MULTILINE
            )
        )
        targets = [word for word in words if not word.startswith("-") and word not in ("2", "all", "RESULT", "STAGE")]
        assert set(targets) <= rules | set(PAPER_TABLES), command
        assert "--cores" in words, f"snakemake asks for --cores: {command}"
    elif words != ["VERB"]:  # the command that was given
        known = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
        assert {word for word in words if word.startswith("--") and word != "--"} <= options(COMMANDS[known]), command
        done = CliRunner().invoke(app, [*known.split(), "--help"])
        assert done.exit_code == 0, done.output


def remedy(call: Callable[[], Any]) -> str:
    """The command in the message of a failure."""
    with pytest.raises(ValueError, match="`") as caught:
        call()
    (command,) = COMMAND.findall(str(caught.value))
    return str(command)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[520] ^= 1
    path.write_bytes(content)


TAR, INDEX = "results/shards/a b/00000.tar", "results/shards/a b/00000.parquet"
TABLE, RUN_CONFIG = "results/propagation/a/davis.parquet", "results/pretrain/a/seed0/config.json"
DAMAGES: dict[str, tuple[str, Callable[[Path], object], Callable[[], object], str]] = {
    "a cut tar": (TAR, cut, lambda: ImageShard(Path(TAR)), TAR),
    "a lost tar": (TAR, Path.unlink, lambda: read_index(Path(TAR)), INDEX),
    "a cut index": (INDEX, cut, lambda: Bags([Path(TAR)]), INDEX),
    "another table as index": (INDEX, lambda path: Path("other.parquet").replace(path), lambda: ImageShard(Path(TAR)), INDEX),
    "a table that is none": (TABLE, lambda path: path.write_text("x"), lambda: read_table(Path(TABLE)), TABLE),
    "a run's result": (
        RUN_CONFIG, lambda path: (path.write_text("{"), write_other_table(path.with_name("metrics.parquet"))),
        lambda: read_runs(Path("results/pretrain"), {"a": [0]}), RUN_CONFIG,
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_remedy_in_a_message_deletes_what_the_workflow_makes_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(Path(TAR), KEYS[:3])
    write_other_table(Path("other.parquet"))
    file, harm, read, deleted = DAMAGES[damage]
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    harm(Path(file))
    command = remedy(read)
    assert command == f"rm -r {shlex.quote(deleted)}"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0
    assert not Path(deleted).exists()
    assert output_with(Path(deleted)) == Path(deleted)  # what a plan of the workflow misses: tests/workflow/test_plans.py


def write_other_table(path: Path) -> None:
    write_table(path, METRICS_SCHEMA.empty_table(), METRICS_SCHEMA)


def test_what_a_message_of_provenance_names_has_a_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with published(Path(TAR), Path(INDEX)):
        write_shard(Path(TAR), KEYS[:3])

    def run(command: str) -> None:
        CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)

    command = remedy(lambda: run("cdgmae provenance results"))
    assert command == f"cdgmae provenance '{INDEX}'"
    record_path(Path(TAR)).write_text("{")
    mend = remedy(lambda: run(command))
    assert mend == "cdgmae verify --repair 'results/shards/a b'"
    CliRunner().invoke(app, shlex.split(mend)[1:])  # ends with 1, as something was damaged
    run(command)


def test_the_copy_that_a_message_asks_for_is_the_one_that_is_taken(tmp_path: Path) -> None:
    root, copy = write_davis(tmp_path / "my davis", frames=3), tmp_path / "copy"
    command = remedy(lambda: check_prepared(root))
    words = [str(copy) if word == "COPY" else word for word in shlex.split(command)[1:]]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    check_prepared(copy)


@pytest.mark.slow
def test_an_encoder_that_is_not_there_is_made_by_the_command_of_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a demo that was run in the repository has such an encoder
    place = Workplace(tmp_path)
    place.write_config(tiny_config())
    missing = EncoderSettings(checkpoint="results/pretrain/cdg/seed0/encoder.safetensors")
    command = remedy(lambda: load_encoder(missing, device=torch.device("cpu")))
    words = shlex.split(command)[1:]
    line = [*place.command(), "--dry-run", *words]
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pretrain_encoder" in done.stdout + done.stderr
