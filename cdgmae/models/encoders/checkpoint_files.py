"""What a checkpoint file holds, read without running anything in it: safetensors, or a torch file with `weights_only=True`.

Training states hold objects beside the weights. Those of known packages become inert placeholders, any other is refused; nothing in a file
is ever imported or run.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

HEADER_KEY = "cdgmae"
"""The one entry of a file's header: header as sorted JSON, so that equal weights and header give an equal file."""

INERT_PACKAGES = frozenset(
    {
        "pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "argparse", "numpy", "_codecs", "collections",
        "pathlib",
    }
)  # fmt: skip
"""Packages whose objects may lie beside the weights; they are not looked at."""

INERT_NAMES = frozenset({f"builtins.{name}" for name in ("list", "dict", "set", "int", "float", "str", "slice", "complex")})
LEGACY_NAMES = (
    "argparse.Namespace",
    "collections.defaultdict",
    "pathlib.PosixPath",
    "builtins.list",
    "builtins.dict",
    "builtins.int",
)
"""What is made inert in files of torch before 1.6, whose names cannot be listed without reading them."""

SHOWN = 6
START_BYTES = 512


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why and what to do."""


class _Inert:
    """Stands for any object beside the weights; whatever it is made with is forgotten."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """Stands for a dictionary with defaults: the unpickler fills plain ones only."""
    return {}


def read_content(path: Path) -> tuple[Any, dict[str, str]]:
    """The object that a checkpoint file holds, and the header in its header.

    Returns:
        A flat state dict for safetensors, else whatever was saved; header are empty but in this package's own files.

    Raises:
        CheckpointError: if the file is absent, truncated, something else, or would need code from elsewhere.
    """
    _check_kind(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                header: dict[str, str] = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
                return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118
        return _load_inert(path), {}
    except CheckpointError:
        raise
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({_first_line(error)}); it is truncated or of another kind: "
            "copy it again, or give a .safetensors or .pth file"
        ) from None
    except Exception as error:  # whatever else an unpickler meets in a damaged or hostile file
        raise CheckpointError(
            f"{path} cannot be loaded safely ({_first_line(error)}); convert its state dict to .safetensors elsewhere"
        ) from None


def _check_kind(path: Path) -> None:
    """Refuse what often lies where a checkpoint should, each with its remedy."""
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES).lstrip()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); give an existing, whole checkpoint file") from None
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull` in its repository")
    if start[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} is a web page, not a checkpoint: the download failed (quota, login); download it again")
    if path.name.endswith(".index.json"):
        raise CheckpointError(
            f"{path} is the index of weights that are split over several files; join them into one .safetensors file elsewhere "
            "(load with the library that wrote them, save the state dict)"
        )
    if not start:
        raise CheckpointError(f"{path} is empty: truncated; copy it again")


def _load_inert(path: Path) -> Any:
    """`torch.load` with `weights_only=True`, objects of known packages replaced by placeholders."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError(
                    f"{path} is compressed, which torch never writes and which may unfold without end; save it anew"
                )
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else list(LEGACY_NAMES)
    foreign = [name for name in names if name.split(".")[0] not in INERT_PACKAGES and name not in INERT_NAMES]
    if foreign:
        raise CheckpointError(
            f"{path} holds objects of {', '.join(foreign[:SHOWN])}, which are not loaded; convert its state dict to .safetensors elsewhere"
        )
    placeholders: list[Any] = [
        (_plain_dict if name == "collections.defaultdict" else type("Inert", (_Inert,), {}), name) for name in names
    ]
    with torch.serialization.safe_globals(placeholders):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    _refuse_claims(path, content)
    return content


def _refuse_claims(path: Path, content: Any) -> None:
    """Refuse tensors that are more than the file holds: a few bytes repeated without end, or sparse."""
    pending, seen = [content], set[int]()
    while pending:
        value = pending.pop()
        if id(value) in seen:  # containers may hold themselves
            continue
        seen.add(id(value))
        if isinstance(value, dict | list | tuple):
            pending += value.values() if isinstance(value, dict) else value
        elif isinstance(value, torch.Tensor) and (
            value.layout != torch.strided or value.nbytes > value.untyped_storage().nbytes()
        ):
            raise CheckpointError(
                f"{path}: a tensor of shape {list(value.shape)} is sparse or repeats its values; save dense weights"
            )


def _first_line(error: Exception) -> str:
    """Kind and first sentence of an error, without a library's advice to switch its safety off."""
    text = re.split(r"\n|\. |In PyTorch 2\.6|Re-running", str(error))[0]
    return f"{type(error).__name__}: {text[:200]}"
