"""What a generator folder may be made of, checked before any library sees the folder: its index names classes, and naming is running."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers

INDEX_FILE = "model_index.json"
PIPELINE = "LatentDiffusionPipeline"
PARTS = "cdgmae.generators.parts"

COMPONENTS: dict[str, frozenset[tuple[str | None, str | None]]] = {
    "unet": frozenset({("diffusers", "UNet2DConditionModel")}),
    "projector": frozenset(
        {(f"{PARTS}.condition_projector", "ConditionProjector"), (f"{PARTS}.grid_projector", "GridProjector")}
    ),
    "autoencoder": frozenset(
        {
            ("diffusers", "VQModel"),
            ("diffusers", "AutoencoderKL"),
            (f"{PARTS}.patch_autoencoder", "PatchAutoencoder"),
            (None, None),
        }
    ),
    "scheduler": frozenset(("diffusers", name) for name in dir(diffusers) if name.endswith("Scheduler")),
}
"""Component -> (library, class) that it may be."""


def check_components(folder: Path) -> None:
    """Refuse a generator folder that names anything but the known components, or holds code.

    Raises:
        ValueError: naming the entry and what it may be.
    """
    path = folder / INDEX_FILE
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}); give a folder that this package wrote") from None
    named = {name: value for name, value in index.items() if not name.startswith("_")} if isinstance(index, dict) else {}
    foreign = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.py"))
    if not named or index.get("_class_name") != PIPELINE:
        foreign.insert(0, f"_class_name = {index.get('_class_name') if isinstance(index, dict) else index!r}")
    foreign += [f"{name} = {value!r}" for name, value in named.items() if not _is_known(name, value)]
    if foreign:
        raise ValueError(
            f"{folder} is not made of this package's and diffusers' parts alone ({'; '.join(foreign[:3])}), so it is not loaded; "
            f"a generator has {', '.join(COMPONENTS)}"
        )


def _is_known(name: str, value: object) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(part, str | None) for part in value)
        and tuple(value) in COMPONENTS.get(name, frozenset())
    )
