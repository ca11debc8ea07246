"""Images for the shards tests, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_images import image_bytes

from cdgmae.settings.shards import DatasetSettings


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., Path]:
    """A tree of images: relative paths -> files."""

    def make(*paths: str, root: str = "images") -> Path:
        for number, path in enumerate(paths):
            file = tmp_path / root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            kind = {".png": "PNG", ".webp": "WEBP"}.get(file.suffix.lower(), "JPEG")
            file.write_bytes(image_bytes(number, format=kind))
        return tmp_path / root

    return make


@pytest.fixture
def dataset() -> Callable[..., DatasetSettings]:
    def make(root: Path, **values: object) -> DatasetSettings:
        return DatasetSettings.from_plain({"path": str(root), "num_shards": 1, **values})

    return make
