"""The bags of a view source as a data set folder: the shards of real images and of views, and a card that says what they are.

Nothing is packed anew: shards already are tar files in the WebDataset convention. They are linked where the file system allows it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from huggingface_hub import DatasetCard, DatasetCardData

from cdgmae import __version__
from cdgmae.interchange.cards import PAPER, card_text, licence_text, markdown_table, refuse_used_folder
from cdgmae.storage.files.atomic import atomic_folder, explain_write_errors
from cdgmae.storage.image_shards import OK, index_path, read_index
from cdgmae.storage.tables import read_table

FOLDERS = {"views": "generated views 1..M", "real": "the real images, view 0"}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


def export_bags(
    source: str, kind: str, real_tars: Sequence[Path], view_tars: Sequence[Path], output: Path, *, results: Path, licence: str
) -> dict[str, object]:
    """Write `real/`, `views/` and `README.md`, which `datasets.load_dataset(FOLDER, "views")` opens.

    Args:
        source: Name of the view source.
        kind: Its kind.
        real_tars: Shards of the real images.
        view_tars: Shards of the views, in the same order.
        output: The folder to write.
        results: Folder with the results of the workflow; its consistency summary gives the card's numbers.
        licence: Licence identifier for the card, or `other`.

    Returns:
        The folder, its shards, real images and views, and whether files were linked or copied.

    Raises:
        ValueError: if shards are missing, `output` is in use, or something cannot be written.
    """
    refuse_used_folder(output)
    tars = {"views": list(view_tars), "real": list(real_tars)}
    missing = [str(tar) for paths in tars.values() for tar in paths if not (tar.is_file() and index_path(tar).is_file())]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"--bags {source}: {', '.join(missing[:3])}{more} not there or without index; run the views stage first")
    counts = {name: sum(_images(tar) for tar in paths) for name, paths in tars.items()}
    linked = True
    with explain_write_errors(output), atomic_folder(output) as folder:
        for name, paths in tars.items():
            (folder / name).mkdir()
            for tar in paths:
                for file in (tar, index_path(tar)):
                    linked &= _link_or_copy(file, folder / name / file.name)
        _card(source, kind, counts, _provenance(view_tars[0]), _consistency(results, source), licence).save(folder / "README.md")
    return {"output": str(output), "shards": len(view_tars), **counts, "files": "linked" if linked else "copied"}


def _link_or_copy(file: Path, target: Path) -> bool:
    """Whether a hard link was possible: shards are never changed in place, only replaced."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
        return False
    return True


def _images(tar: Path) -> int:
    return int(pc.sum(pc.equal(read_index(tar, ["status"]).column("status"), OK)).as_py() or 0)


def _provenance(tar: Path) -> dict[str, Any]:
    """How the first view was made: generator, sampler, steps, guidance; without what is empty."""
    columns = ["generator", "sampler", "steps", "guidance"]
    rows = read_index(tar, columns).slice(0, 1).to_pylist()
    return {name: value for name, value in (rows[0] if rows else {}).items() if value is not None}


def _consistency(results: Path, source: str) -> dict[str, Any] | None:
    """The source's row of the consistency summary, or None."""
    path = results / "consistency/summary.parquet"
    rows = read_table(path).to_pylist() if path.is_file() else []
    return next((row for row in rows if row["source"] == source), None)


def _card(
    source: str, kind: str, counts: dict[str, int], provenance: dict[str, Any], consistency: dict[str, Any] | None, licence: str
) -> DatasetCard:
    size = next((name for limit, name in SIZES if counts["views"] < limit), "n>10M")
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*.tar"}], **({"default": True} if name == "views" else {})}
        for name in FOLDERS
    ]  # fmt: skip
    metadata = DatasetCardData(
        license=licence, task_categories=["image-feature-extraction"], tags=["webdataset", "synthetic", "multi-view", "cdg-mae"],
        size_categories=[size], configs=configs,
    )  # fmt: skip
    origin = ", ".join(f"{name} {value}" for name, value in provenance.items())
    content = markdown_table(
        ["folder", "holds", "images"], [[f"`{name}/`", text, counts[name]] for name, text in FOLDERS.items()]
    )
    sections = {
        "What it is": f"Bags of views: every real image with other views of what it shows, from view source `{source}` (kind `{kind}`"
        f"{', ' + origin if origin else ''}), the training data of *{PAPER}*. Written by cdgmae {__version__}.",
        "Content": f"{content}\n\nEach folder holds tar shards in the WebDataset convention, `KEY.VIEW_INDEX.jpg`, shard by shard in the "
        "same order; the `.parquet` beside a tar is its index (place, size, sha256, and of views: seed and how they were made; views that "
        "could not be made are rows with a reason).",
        "Use": '```python\nfrom datasets import load_dataset\n\nviews = load_dataset("FOLDER", "views", split="train", streaming=True)\n'
        'real = load_dataset("FOLDER", "real", split="train", streaming=True)\n```\n\n`__key__` joins the two; column `1.jpg` is view 1. '
        "`cdgmae pretrain run --shards FOLDER/real --views FOLDER/views` trains on the folder as it is.",
        "Consistency": _consistency_section(consistency),
        "Licence": licence_text(licence, "these images") + " The licence of the real images binds whatever is made from them.",
    }
    return DatasetCard(card_text(metadata, f"Bags of views: {source}", sections))


def _consistency_section(row: dict[str, Any] | None) -> str:
    """Mean similarity of views and real images."""
    if row is None:
        return "Not measured when this folder was written."
    means = {name: row.get(f"{name}_mean") for name in ("gs", "ls", "nps")}
    table = markdown_table(["GS", "LS", "NPS", "pairs"], [[*means.values(), row["pairs"]]])
    return (
        f"Mean cosine similarity of every view and its real image: global (GS), of patches at equal places (LS), of each patch and its "
        f"nearest (NPS).\n\n{table}"
    )
