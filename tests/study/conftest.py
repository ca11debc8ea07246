"""Tiny stand-ins for the study's images and clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.study.data import lay_out
from perf.study.scale import draw_tiny_data

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "workflow/experiments/small_study.yaml"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "small_study"
    draw_tiny_data(folder)
    return folder


@pytest.fixture(scope="session")
def laid_out(data: Path) -> Path:
    """As the study lays it out."""
    lay_out(data, folder := data.with_name("laid_out"), per_class=0)
    return folder
