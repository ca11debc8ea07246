"""What the repository says about the workflow at its front door: README's diagram of rules, the catalog's metadata."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from tests.workflow.conftest import ROOT, SNAKEMAKE, environment


def rulegraph(folder: Path) -> list[str]:
    """`rule --> rule` of every edge that Snakemake draws for the shipped config, sorted; the target `all` left out."""
    command = [*SNAKEMAKE, "--directory", str(folder), "--configfile", str(ROOT / "config.yaml"), "--rulegraph", "mermaid-js"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", done.stdout, re.MULTILINE))
    edges = re.findall(r"^\s*(id\d+) --> (id\d+)", done.stdout, re.MULTILINE)
    return sorted(f"{names[source]} --> {names[target]}" for source, target in edges if names[target] != "all")


def test_readme_shows_the_rulegraph_that_snakemake_draws(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"--rulegraph mermaid-js`.*?```mermaid\nflowchart \w+\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    shown = [line.strip() for line in block.group(1).splitlines()]
    expected = rulegraph(tmp_path)
    assert len(expected) > 20
    assert shown == expected, "put these lines into README:\n" + "\n".join(f"    {line}" for line in expected)


def test_what_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if ":" not in link and not (ROOT / link).exists()] == []
    images = [ROOT / link for link in links if link.endswith((".jpg", ".png"))]
    assert images
    assert max(image.stat().st_size for image in images) < 300_000


def test_catalog_metadata_names_what_the_workflow_has() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert usage["software-stack-deployment"] == {"conda": "conda:" in rules}
    assert usage["report"] == ("report(" in rules)
    assert (ROOT / "Snakefile").is_file()
