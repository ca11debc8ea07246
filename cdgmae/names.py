"""Names of files and folders: the one place that knows where a stage's declared outputs lie.

All paths are relative to the working directory of the workflow. Import-light: the Snakefile uses it at DAG-build time.
"""

from __future__ import annotations

import shlex
from pathlib import Path

STAGES = ("shards", "views", "consistency", "pretrain", "propagation", "report")

RESULTS = "results"
MANIFEST = "manifest.parquet"
LEFT_OUT = "left_out.csv"
"""Beside the manifest: every file below the data set's path that was not taken, with its reason."""
BAD_IMAGES = "bad_images.csv"
"""Beside the summary of the shards: every image that could not be used, with its reason."""
REFUSED_IMAGES = "too_many_bad_images.csv"
"""The same of a data set that fails its check, whose outputs Snakemake removes."""
DEMO_MARKER = "demo.json"
RECORD_SUFFIX = ".record.json"
"""How the name of a result's record ends; see `cdgmae.storage.files.records`."""

IMAGE_EXTENSIONS = frozenset(
    {".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".avif"}
)
"""File endings that count as images, in lower case; compared without regard to case."""

FOREIGN_FOLDERS = frozenset(
    {
        "@eadir", "#recycle", "#snapshot", "$recycle.bin", "recycler", "system volume information", "__macosx", "lost+found",
        "__pycache__",
    }
)  # fmt: skip
"""Folders that storage servers and operating systems leave in data, in lower case: thumbnails, deleted files, settings."""


def is_foreign(name: str) -> bool:
    """Whether a folder of this name is hidden, or belongs to a storage server or operating system and holds no data of the user."""
    return name.startswith(".") or name.lower() in FOREIGN_FOLDERS


def shard_names(num_shards: int) -> list[str]:
    """Shard names in order: zero-padded to five digits, `00000` first."""
    return [f"{index:05d}" for index in range(num_shards)]


def shard_files(folder: str, num_shards: int) -> list[str]:
    """Tar and index of every shard of a folder, in order."""
    return [f"{folder}/{name}{suffix}" for name in shard_names(num_shards) for suffix in (".tar", ".parquet")]


def shard_index(name: str) -> int:
    """The number behind a shard name."""
    return int(name)


def shards_dir(dataset: str) -> str:
    """Folder of a data set's image shards."""
    return f"{RESULTS}/shards/{dataset}"


def views_dir(source: str) -> str:
    """Folder of a source's view shards."""
    return f"{RESULTS}/views/{source}"


def generator_dir(generator: str) -> str:
    """Folder of a generator trained in the DAG."""
    return f"{RESULTS}/generators/{generator}"


def embeddings_dir(source: str) -> str:
    """Folder of the embedding tables and the index behind a source of kind `knn`."""
    return f"{RESULTS}/embeddings/{source}"


def embedding_index(source: str) -> str:
    """The search index of a source of kind `knn`."""
    return f"{embeddings_dir(source)}/index.faiss"


def consistency_dir(source: str) -> str:
    """Folder of a source's pair tables."""
    return f"{RESULTS}/consistency/{source}"


def run_dir(run: str, seed: int) -> str:
    """Folder of one pre-training run and seed."""
    return f"{RESULTS}/pretrain/{run}/seed{seed}"


def encoder_file(run: str, seed: int) -> str:
    """The encoder that a pre-training run leaves: a timm-loadable ViT state dict."""
    return f"{run_dir(run, seed)}/encoder.safetensors"


def propagation_table(encoder: str, evaluation_set: str) -> str:
    """Scores of one encoder on one evaluation set."""
    return f"{RESULTS}/propagation/{encoder}/{evaluation_set}.parquet"


def propagation_strips(encoder: str, evaluation_set: str) -> str:
    """Folder of a few painted images of every sequence, for the report."""
    return f"{RESULTS}/propagation/{encoder}/strips/{evaluation_set}"


def prepared_set(evaluation_set: str) -> str:
    """The copy of an evaluation set that is measured instead of the user's folder."""
    return f"{RESULTS}/evaluation_sets/{evaluation_set}"


def prepared_listing(evaluation_set: str) -> str:
    """The file of a prepared copy of DAVIS that is written last."""
    return f"{prepared_set(evaluation_set)}/ImageSets/2017/val.txt"


def paper_table(table: str, extension: str) -> str:
    """One of the files of a paper table; not below `results/report`, which the page's job replaces as a whole."""
    return f"{RESULTS}/tables/{table}.{extension}"


def demo_marker(directory: str) -> str:
    """The file that says the demo data is whole, and which files it has."""
    return f"{directory}/{DEMO_MARKER}"


FOLDER_OUTPUTS = ("generators/*", "pretrain/*/*/panels", "propagation/*/strips/*", "report")
"""Folders below `results/` that are outputs as a whole."""
RECORDED_FOLDERS = ("generators/*", "pretrain/*/*", "propagation/*/strips/*", "report", "evaluation_sets/*")
"""Folders below `results/` that have one record for all their files."""


def folder_with(path: Path, patterns: tuple[str, ...]) -> Path | None:
    """The folder below `results/` that fits one of some patterns and in which a file lies; None if there is none."""
    parts = path.parts
    if RESULTS in parts[:-1]:
        below = len(parts) - parts[::-1].index(RESULTS)
        for pattern in patterns:
            end = below + len(Path(pattern).parts)
            if len(parts) > end and Path(*parts[below:end]).match(pattern):
                return Path(*parts[:end])
    return None


def output_with(path: Path) -> Path | None:
    """The declared output that a file is or lies in, which the workflow makes again once it is deleted.

    Returns:
        The file itself or one of `FOLDER_OUTPUTS`; None for a path without a folder `results` in it.
    """
    if RESULTS not in path.parts[:-1]:
        return None
    return folder_with(path, FOLDER_OUTPUTS) or path


def how_to_remake(path: Path) -> str:
    """What to do about a result that is damaged or does not fit, as the end of a sentence: a command where a workflow makes it again."""
    output = output_with(path)
    if output is None:
        return "delete it and make it again with the command that made it"
    return f"delete it with `{shlex.join(['rm', '-r', str(output)])}`, and the same run of the workflow again makes it anew"


def how_to_make(path: Path | str) -> str:
    """What to do about a result that is not there, as the end of a sentence."""
    if RESULTS not in Path(path).parts:
        return "check the path, or make it with the command of its stage"
    return f"make it with `{shlex.join(['snakemake', '--cores', 'all', str(path)])}`, with the --configfile of your run"


def lies_within(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or below it, by name alone (nothing needs to exist)."""
    return Path(directory) in (Path(path), *Path(path).parents)
