"""The shipped Slurm profile: it names rules that exist and switches on nothing that is known not to work."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "workflow/profiles/slurm/config.yaml").read_text()
PROFILE = yaml.safe_load(TEXT)


def test_resources_are_set_for_rules_that_exist() -> None:
    rules = {
        name
        for file in (ROOT / "workflow/rules").glob("*.smk")
        for name in re.findall(r'(?:^ *rule |block\.rule\(")(\w+)', file.read_text(), re.MULTILINE)
    }
    assert set(PROFILE["set-resources"]) <= rules


def test_every_gpu_rule_of_the_profile_hears_signals_and_the_rules_let_it() -> None:
    text = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    assert text.count("        **ON_GPUS,") == len(PROFILE["set-resources"])
    own_commands = text.count("        launched(") + text.count("use rule make_views as")
    assert text.count("        **ON_GPUS,") + text.count("        **ON_CPUS,") == own_commands
    for resources in PROFILE["set-resources"].values():
        assert resources["launcher"] == "srun"
        assert "--signal=USR1@600" in resources["slurm_extra"]
        assert "mpi" not in resources  # the rule's empty one: a single process


def test_nothing_is_on_that_does_not_work() -> None:
    assert PROFILE["slurm-status-command"] == "squeue"
    assert PROFILE["retries"] > 0
    assert ("slurm-requeue" in PROFILE) != ("slurm-no-requeue" in PROFILE)  # exactly one owner of lost jobs
    assert not {"slurm-array-jobs", "slurm-no-account", "groups", "group-components"} & PROFILE.keys()
    assert not any("retries:" in file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))


def test_the_user_s_part_comes_first_and_every_other_line_is_explained() -> None:
    yours, rest = TEXT.split("# ---- How it runs", 1)
    assert set(yaml.safe_load(yours)) == {"default-resources", "set-resources"}
    lines = rest.splitlines()[1:]
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            above = next(text for text in reversed(lines[:number]) if text == "" or text.startswith("#"))
            assert above.startswith("#"), line
