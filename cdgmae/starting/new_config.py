"""Writes a commented configuration for a user's own folders, in one of three sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from cdgmae.config import ConfigError
from cdgmae.names import IMAGE_EXTENSIONS, STAGES
from cdgmae.settings.reading.messages import LISTED, did_you_mean
from cdgmae.settings.reading.plain_values import read_yaml_text
from cdgmae.storage.files.atomic import explain_write_errors, write_text
from cdgmae.storage.files.tree_listing import find_files
from cdgmae.workflow.named_files import check_run, like_named

Size = Literal["demo", "small", "paper"]
NEEDED = {"views": ["shards"], "consistency": ["views", "shards"], "pretrain": ["shards"]}
"""What a stage cannot do without."""

IMAGES_PER_SHARD = 10_000
BYTES_PER_IMAGE = 110_000
"""Of ImageNet: images in tars are not counted one by one."""

STEPS, BATCH_SIZE = 500, 16
PLAIN_FOLDERS = ("train", "val", "images", "data")
"""Names that say nothing: the folder above gives the name."""

PROTOCOLS: dict[Size, dict[str, str]] = {
    "demo": {
        "davis": ", input_size: [144, 192], radius: 9", "vip": ", input_size: 192, radius: 9", "jhmdb": ", input_size: [160, 160], radius: 9",
    },
    "small": {"davis": ", input_size: [240, 440]", "vip": ", input_size: 440", "jhmdb": ", input_size: [160, 160]"},
    "paper": {"davis": ", protocol: published", "vip": "", "jhmdb": ""},
}  # fmt: skip
"""Keys that differ from the paper's protocol, which are the defaults of every kind."""

PROTOCOL_NOTES: dict[Size, str] = {
    "demo": "Small frames and a small neighbourhood.",
    "small": "The paper's protocol on its grids of patches, at half the pixels.",
    "paper": "The paper's protocol.",
}


def write_new_config(
    output: Path, images: str | None, sets: Mapping[str, str], size: Size, stages: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write a configuration that passes the check of `cdgmae config check`.

    Args:
        output: The file to write, which must not exist.
        images: Folder of the images: a tree, or tars.
        sets: Evaluation set (`davis`, `vip`, `jhmdb`, or `clips` for clips in DAVIS's layout) -> its folder.
        size: `demo`: minutes, `small`: a quarter of an hour of two cores for few images, `paper`: a cluster.
        stages: The stages to write; all that the folders allow if None. What a stage cannot do without is added.

    Returns:
        The file, its size, stages and images, and which protocol evaluates.

    Raises:
        ValueError: if a folder is missing or holds no images, the stages do not fit the folders, or `output` exists.
    """
    if output.exists():
        raise ValueError(f"{output} exists and is left as it is; give another --output, or delete it first")
    wanted = _stages(stages, images is not None, bool(sets))
    values = _facts_of_images(Path(images)) if images is not None and "shards" in wanted else {"num_images": 0}
    runs = _runs(wanted, size)
    judged = runs if "pretrain" in wanted else []
    scale = size if judged else "paper"  # encoders from elsewhere have patches of 16 pixels
    title = f"CDG-MAE on {values['name']}" if "name" in values else "Encoders on video label propagation"
    text = _template().render(
        **values, images=images, size=size, file=output, title=title, stages=wanted, runs=runs, judged=judged,
        protocol_note=PROTOCOL_NOTES[scale],
        epochs=max(2, round(STEPS * BATCH_SIZE / max(1, values["num_images"]))),
        sets={key: _protocol(key, root, scale) for key, root in sets.items()} if "propagation" in wanted else {},
    )  # fmt: skip
    try:
        check_run(read_yaml_text(text, str(output)), str(output))
    except ConfigError as error:
        raise ValueError(
            f"{output} is not written:" + "".join(f"{LISTED}{_of_option(problem)}" for problem in error.problems)
        ) from None
    with explain_write_errors(output):
        write_text(output, text)
    summary = {"config": str(output), "size": size, "stages": ", ".join(wanted), "images": values["num_images"]}
    if "propagation" in wanted:
        summary["protocol"] = PROTOCOL_NOTES[scale] + (
            "" if judged else " It holds at every --size: nothing is trained that it could follow."
        )
    return summary if values["num_images"] else {key: value for key, value in summary.items() if key not in ("size", "images")}


def _stages(asked: Sequence[str] | None, have_images: bool, have_sets: bool) -> list[str]:
    """The stages to write, in order, with those that they need."""
    possible = [stage for stage in STAGES[:-1] if (have_sets if stage == "propagation" else have_images)]
    if not possible:
        raise ValueError("nothing to configure: give --images FOLDER, or --davis, --vip, --jhmdb or --clips with a folder")
    for stage in asked or ():
        if stage not in STAGES:
            raise ValueError(f"--stages {stage}: no such stage; allowed: {', '.join(STAGES)}{did_you_mean(stage, STAGES)}")
        if stage != "report" and stage not in possible:
            lacking = "--davis, --vip, --jhmdb or --clips" if stage == "propagation" else "--images"
            raise ValueError(f"--stages {stage} needs {lacking} with a folder")
    wanted = set(possible if asked is None else asked)
    wanted |= {needed for stage in wanted for needed in NEEDED.get(stage, ())}
    return [stage for stage in possible if stage in wanted]


def _runs(stages: Sequence[str], size: Size) -> list[str]:
    """The pre-training runs: without stage pretrain the one whose encoder the small generators need."""
    if "pretrain" not in stages:
        return ["crops"] if "views" in stages and size != "paper" else []
    drawn = ["cdg_a1", "cdg_a3"] if size == "paper" else ["cdg"]
    return ["crops", *(drawn if "views" in stages else ())]


def _facts_of_images(root: Path) -> dict[str, Any]:
    """Name, layout, number of images and of shards of a folder of images."""
    if not root.exists():
        raise ValueError(f"--images {root}: no such folder{like_named(str(root))}")
    layout, count = "images", sum(1 for _ in find_files(root, IMAGE_EXTENSIONS)) if root.is_dir() else 0
    if not count:
        tars = list(find_files(root, frozenset({".tar"}))) if root.is_dir() else []
        count = sum(tar.byte_size for tar in tars) // BYTES_PER_IMAGE + len(tars)
        layout = "class_tars" if tars and all(re.fullmatch(r"(.*/)?n\d{8}\.tar", tar.path) for tar in tars) else "webdataset"
    if not count:
        raise ValueError(f"--images {root}: holds neither images ({', '.join(sorted(IMAGE_EXTENSIONS))}) nor .tar files")
    folder = root.resolve()
    if folder.name.lower() in PLAIN_FOLDERS:
        folder = folder.parent
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", folder.name).strip("_-") or "images"
    return {"name": name, "layout": layout, "num_images": count, "num_shards": min(count, max(2, -(-count // IMAGES_PER_SHARD)))}


def _protocol(name: str, root: str, size: Size) -> tuple[str, str]:
    """Folder and further keys of an evaluation set."""
    if name != "clips":
        return root, PROTOCOLS[size][name]
    return root, ", kind: davis" + ("" if size == "paper" else PROTOCOLS[size]["davis"])


def _of_option(problem: str) -> str:
    """A problem of a folder's key, said of the option that gave the folder."""
    return re.sub(
        r"^(?:propagation\.datasets\.(\w+)\.root|shards\.datasets\.[\w-]+\.path) = ",
        lambda match: f"--{match[1] or 'images'} ",
        problem,
    )


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("cdgmae.starting"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["text"] = lambda value: value if re.fullmatch(r"[A-Za-z./][\w./ -]*[\w.)/]", value) else json.dumps(value)
    return environment.get_template("config.yaml.j2")


SIZES: tuple[Size, ...] = get_args(Size)
