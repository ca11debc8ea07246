"""Which finished results another version of the package, or other settings than the configuration's, made: told by their records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cdgmae import __version__
from cdgmae.config import Config
from cdgmae.names import RECORD_SUFFIX
from cdgmae.settings.base import Settings
from cdgmae.status.evidence import JobState
from cdgmae.storage.files.publishing import settings_digest
from cdgmae.storage.files.records import find_record, read_record
from cdgmae.workflow import consistency, pretrain, propagation, shards, views

LOOKED_AT = 20
"""Finished jobs of a group whose records are read: the newest and the oldest ones."""

SETTINGS: dict[str, Callable[[Config, list[str]], Settings | str]] = {
    "write_manifest": lambda config, words: shards.listing_settings(config, words[0]),
    "write_shard": lambda config, words: shards.packing_settings(config, words[0]),
    "train_generator": lambda config, words: views.generator_training(config, words[0]),
    "make_views": lambda config, words: views.view_settings(config, words[0]),
    "gather_views": lambda config, words: views.view_settings(config, words[0]),
    "score_views": lambda config, words: consistency.scoring_settings(config, words[0]),
    "pretrain_encoder": lambda config, words: pretrain.run_settings(config, words[0]),
    "propagate_labels": lambda config, words: propagation.protocol(config, words[1]),
}
"""Rule -> the settings that its command is given now; the second argument is the job's wildcards."""


def made_otherwise(config: Config, states: Iterable[JobState], root: Path) -> list[dict[str, Any]]:
    """`rule`, `name` and `by` (what differs, in words) of finished jobs that were made by another version or with other settings.

    Args:
        config: The configuration.
        states: The states of its jobs.
        root: Working directory of the workflow.
    """
    done: dict[tuple[str, str], list[JobState]] = defaultdict(list)
    for state in states:
        if state.state == "done":
            done[state.job.stage, state.job.group].append(state)
    otherwise = []
    for group in done.values():
        by_age = sorted(group, key=lambda state: state.time or 0.0)
        chosen = by_age if len(by_age) <= LOOKED_AT else [*by_age[: LOOKED_AT // 2], *by_age[-LOOKED_AT // 2 :]]
        for state in chosen:
            if differences := _differences(config, state, root):
                otherwise.append({"rule": state.job.rule, "name": state.job.name, "by": ", ".join(differences)})
    return otherwise


def _differences(config: Config, state: JobState, root: Path) -> list[str]:
    job, output = state.job, root / state.job.outputs[-1]
    try:
        folder = output / RECORD_SUFFIX
        record = (read_record(folder) if folder.is_file() else None) if output.is_dir() else find_record(output)
    except ValueError:  # `cdgmae verify` says so
        return []
    if record is None or record.metadata.get("renewed"):  # what made it is not known
        return []
    metadata, differences = record.metadata, []
    if metadata["version"] != __version__:
        differences.append(f"version {metadata['version']}")
    if job.rule in SETTINGS:
        wanted = SETTINGS[job.rule](config, job.name.split("/"))
        text = wanted.canonical_json() if isinstance(wanted, Settings) else wanted
        if metadata["settings"] != settings_digest([text]):
            differences.append("other settings")
    return differences
