"""What the repository says about the workflow at its front door: the rules, README's links and citation, the catalog's metadata."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from cdgmae import __version__
from tests.workflow.conftest import ROOT, SNAKEMAKE, environment


def rulegraph(folder: Path) -> list[str]:
    """`rule --> rule` of every edge that Snakemake draws for the shipped config, sorted; the target `all` left out."""
    command = [*SNAKEMAKE, "--directory", str(folder), "--configfile", str(ROOT / "config.yaml"), "--rulegraph", "mermaid-js"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", done.stdout, re.MULTILINE))
    edges = re.findall(r"^\s*(id\d+) --> (id\d+)", done.stdout, re.MULTILINE)
    return sorted(f"{names[source]} --> {names[target]}" for source, target in edges if names[target] != "all")


def test_the_page_of_stages_shows_the_rulegraph_that_snakemake_draws(tmp_path: Path) -> None:
    page = (ROOT / "docs/stages/index.md").read_text()
    shown = [
        f"{source} --> {rule}"
        for rule, sources in re.findall(r"^(\w+) +<- (.+)$", page, re.MULTILINE)
        for source in sources.split(", ")
    ]
    expected = rulegraph(tmp_path)
    assert len(expected) > 20
    assert sorted(shown) == expected, "the block of rules in docs/stages/index.md must say:\n" + "\n".join(expected)


def test_readme_cites_the_paper_and_this_version() -> None:
    entries = dict(re.findall(r"@(\w+)\{[\w]+,\n(.*?)\n\}", (ROOT / "README.md").read_text(), re.DOTALL))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = citation["preferred-citation"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert f"author  = {{{authors}}}" in re.sub(r"\s*\n\s{6,}", " ", entries["article"])
    assert paper["title"] in entries["article"]
    assert paper["identifiers"][0]["value"] in entries["article"]
    assert f"version = {{{__version__}}}" in entries["software"]
    assert citation["version"] == __version__


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
