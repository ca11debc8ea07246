"""The demo's configuration, as it is and with one key changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEMO: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())


def changed(key: str, value: Any) -> dict[str, Any]:
    """The demo config with one dotted key set."""
    values = copy.deepcopy(DEMO)
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    return values
