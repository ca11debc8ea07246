"""What a failed job costs and prints: the end of its log, further tries where they may help, and every warning once."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cdgmae.settings.runtime import FAILS_AGAIN
from tests.workflow.conftest import environment

SNAKEFILE = f"""
import logging
from cdgmae.workflow.messages.run_messages import watch_run
watch_run(workflow, {{}}, lambda: [])
for _ in range(3):
    logging.getLogger("snakemake.logging").warning("the same for every job")
rule all:
    input: "hopeless", "unlucky", "lucky", "late"
rule hopeless:
    output: "hopeless"
    log: "hopeless.log"
    shell: "echo x >> hopeless.tries; echo 'error: {FAILS_AGAIN}' > {{log}}; exit 1"
rule unlucky:
    input: expand("input{{number}}", number=range(9))
    output: "unlucky"
    log: "unlucky.log"
    resources: mem_mb=lambda wildcards, attempt: 100 * attempt
    shell: "echo x >> unlucky.tries; seq -f line-%g 500 > {{log}}; exit 1"
rule lucky:
    output: "lucky"
    log: "lucky.log"
    shell: "echo x >> lucky.tries; test $(wc -l < lucky.tries) = 2; touch {{output}}"
rule late:  # as much memory as there is: it waits for what the others gave back
    input: "lucky"
    output: "late"
    resources: mem_mb=300
    shell: "touch {{output}}"
"""


def test_a_failure_that_would_come_again_is_not_tried_again_and_others_are(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    for number in range(9):
        (tmp_path / f"input{number}").touch()
    command = ["--cores", "3", "--resources", "mem_mb=300", "--retries", "2", "--keep-going"]
    done = subprocess.run(["snakemake", *command], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == 1
    tries = {name: (tmp_path / f"{name}.tries").read_text().count("x") for name in ("hopeless", "unlucky", "lucky")}
    assert tries == {"hopeless": 1, "unlucky": 3, "lucky": 2}
    assert (tmp_path / "late").exists()
    said = done.stdout + done.stderr
    assert said.count("the same for every job") == 1
    last = said[said.index("Error in rule unlucky") :]
    assert "line-481\n" in last
    assert "line-500\n" in last
    assert "line-480\n" not in said
    assert "end of hopeless.log: \n        error: " in said
    assert "input0, input1, input2, 6 more" in last
