"""The workflow's code: lint, format, and rules of the house that no linter knows."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.workflow.conftest import ROOT, SNAKEMAKE, environment

RULE_FILES = sorted((ROOT / "workflow/rules").glob("*.smk"))
RULES = {
    match.group(1): match.group(2)
    for file in RULE_FILES
    for match in re.finditer(
        r"^ *(?:use rule \w+ as|rule) (\w+)(?: with)?:\n(.*?)(?=^ *(?:use )?rule[ :]|^for |\Z)",
        file.read_text(),
        re.MULTILINE | re.DOTALL,
    )
}
VARIANTS = {
    match.group(1): match.group(2)
    for file in RULE_FILES
    for match in re.finditer(r"^use rule \w+ as (\w+) with:\n(.*?)(?=^\S|\Z)", file.read_text(), re.MULTILINE | re.DOTALL)
}
"""What is different in every rule that is another one otherwise."""
WORKING = {name: body for name, body in RULES.items() if "output:" in body}


def test_lint_has_no_remarks() -> None:
    done = subprocess.run([*SNAKEMAKE, "--lint"], capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


def test_format_is_snakefmts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "workflow"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(WORKING))
def test_rule_has_every_section_and_calls_the_command_line(name: str) -> None:
    body = WORKING[name]
    for section in ("output:", "threads:", "resources:", "log:", "benchmark:", "conda:", "message:", "shell:"):
        assert section in body, section
    assert "retries:" not in body
    assert re.search(r'^ +"cdgmae \w+ ', body, re.MULTILINE)
    assert f"logs/{name}/" in body
    assert f"benchmarks/{name}/" in body


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_variant_has_its_own_message_log_and_benchmark(name: str) -> None:
    body = VARIANTS[name]
    assert "message:" in body
    assert f"logs/{name}/" in body
    assert f"benchmarks/{name}/" in body


def test_snakemake_knows_exactly_the_rules_that_stand_in_the_files() -> None:
    done = subprocess.run([*SNAKEMAKE, "--list-rules"], capture_output=True, text=True, cwd=ROOT, env=environment())
    generated = {"all", *re.findall(r"^table\w*|^figure\w*", done.stdout, re.MULTILINE)}  # one target per table of the paper
    assert set(done.stdout.split()) - generated == (set(RULES) | set(VARIANTS)) - generated
    assert "gather_views" in VARIANTS


def test_working_rules_are_verb_noun_and_stages_are_targets() -> None:
    assert all("_" in name for name in WORKING)
    assert {"shards", "views", "consistency", "pretrain", "propagation", "report"} <= set(RULES) - set(WORKING)
