"""The page on reproducing the paper: every key has the value that it states, every proof exists, and what it shows can be seen."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.settings.test_table_settings import paper
from tests.workflow.conftest import RESUME, ROOT, SNAKEMAKE, environment
from tests.workflow.planning import stand_in_data

ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in (ROOT / "docs/reproducing_the_paper.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| fact", "| what", "| packed as"))
]
STATED = re.compile(r"`(?:\[(\w+)\] )?([\w.]+) = ([^`]+)`")


def value_at(settings: Any, path: str) -> Any:
    for name in path.split("."):
        settings = settings[name] if isinstance(settings, dict) else getattr(settings, name)
    return list(settings) if isinstance(settings, tuple) else settings


def test_every_key_has_the_value_that_the_page_states() -> None:
    stated = [found for row in ROWS for found in STATED.findall(row[1]) if "." in found[1]]
    assert len(stated) > 70
    configs = {overlay: paper(*([overlay] if overlay else [])) for overlay in {overlay for overlay, *_ in stated}}
    wrong = {
        f"[{overlay}] {path}": (value_at(configs[overlay], path), text)
        for overlay, path, text in stated
        if value_at(configs[overlay], path) != number(yaml.safe_load(text))
    }
    assert not wrong


def number(value: Any) -> Any:
    """YAML reads 1.5e-4 as a text; settings do not."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[\d.]+e-?\d+", value) else value


def test_every_row_names_a_proof_that_exists_and_none_differs() -> None:
    assert len(ROWS) > 50
    for row in ROWS:
        if len(row) != 3:
            continue
        assert not re.search(r"\bdiffer", row[2])
        proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[2])
        assert proofs, row[0]
        for file, name in proofs:
            functions = {
                node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
            }
            assert name in functions, f"{file}::{name}"


def test_the_plan_lists_the_runs_of_four_anchors_and_the_longer_ones(tmp_path: Path) -> None:
    stand_in_data(tmp_path, ROOT / "workflow/experiments/paper.yaml")
    (tmp_path / "data/generators/gen_sis").mkdir(parents=True)
    configs = [str(ROOT / f"workflow/experiments/{name}.yaml") for name in ("paper", "table8", "figure9")]
    command = [*SNAKEMAKE, "--directory", str(tmp_path), *RESUME, "table8", "figure9", "-n", "-p", "--configfile", *configs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    commands = dict(
        re.findall(r"Shell command: [^\n]*--keep 'results/pretrain/(\w+/seed\d)/[^\n]*--settings '([^']*)'", done.stdout)
    )
    settings = {run: json.loads(text) for run, text in commands.items()}
    for run, key, value in (
        ("cdg_a4_r25", "num_anchors", 4), ("cdg_a4_r50", "num_anchors", 4), ("cropmae_200", "warmup_epochs", 10),
        ("cropmae_400", "warmup_epochs", 20),
    ):  # fmt: skip
        assert [settings[f"{run}/seed{seed}"][key] for seed in range(3)] == [value] * 3
    assert "results/shards/imagenet_originals/00127.tar" in done.stdout
