"""`cdgmae provenance`: where a result comes from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdgmae.commands.options import json_wanted, print_result
from cdgmae.terminal import open_console

if TYPE_CHECKING:
    from cdgmae.storage.files.ancestry import Origin


def provenance(file: Annotated[Path, typer.Argument(help="A result, file or folder, e.g. results/pretrain/cdg/seed0.")]) -> None:
    """Say where a result comes from: the command that made it and its inputs, back to the source images.

    Each step shows when, by which version (git revision, + for changed files), with which settings, seed, libraries and on which machine it
    was made, told by the records that lie beside results. An input that was made anew since is marked. Source images are told from others by
    their names and sizes; the sha256 of each packed one stands in its shard's index.

    Example: cdgmae provenance results/propagation/cdg/davis.parquet
    """
    from cdgmae.storage.files.ancestry import ancestry

    origins = list(ancestry(file))
    if json_wanted():
        steps = [
            {"path": str(step.path), "depth": step.depth, "digest": step.digest, "changed": step.changed, "record": step.metadata}
            for step in origins
        ]
        print_result({"steps": steps})
        return
    console = open_console()
    for origin in origins:
        for line in _lines(origin):
            console.print("    " * origin.depth + line, soft_wrap=True)


def _lines(origin: Origin) -> list[str]:
    more = f" (and {origin.others} more like it)" if origin.others else ""
    head = f"{origin.path}{more}" + ("  CHANGED since it was read" if origin.changed else "")
    metadata = origin.metadata
    if metadata is None:
        known = f", as read: {origin.digest[:12]}" if origin.digest else ""
        return [head, f"  no record: not made here{known}"]
    if metadata.get("renewed"):
        return [head, f"  how it was made is not known: its record was lost and written anew on {metadata['finished']}"]
    revision = f" (git {metadata['git'][:12]}{'+' if metadata['git_dirty'] else ''})" if metadata.get("git") else ""
    libraries = ", ".join(f"{name} {version}" for name, version in metadata["libraries"].items())
    return [
        head,
        f"  {metadata['finished']} on {metadata['host']}, {metadata['device']}: cdgmae {metadata['version']}{revision}, "
        f"python {metadata['python']}, {libraries}",
        f"  settings {metadata['settings'] or '-'}, seed {metadata['seed'] or '-'}: {shlex.join(metadata['command'])}",
    ]
