"""View sources as objects: what the registry lists, and that reading them loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

from cdgmae.views.sources.view_kinds import KINDS

HEAVY = ("torch", "numpy", "pandas", "pyarrow", "PIL", "timm", "diffusers", "faiss", "av")


def test_the_registry_lists_every_kind_and_which_want_a_gpu() -> None:
    gpu = {kind for kind, source in KINDS.items() if source.on_gpu}
    assert gpu == {"s_ldm", "rcg", "diffusers"}
    assert {kind for kind, source in KINDS.items() if source.views_class is None} == {"crops"}


def test_the_configuration_and_the_kinds_load_nothing_heavy() -> None:
    code = f"import sys, cdgmae.config; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
