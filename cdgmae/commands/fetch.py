"""`cdgmae fetch`: the published networks of a configuration into the cache, before jobs without network need them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdgmae.commands.options import ConfigOption, json_wanted, load_chosen_config, print_result
from cdgmae.settings.reading.messages import LISTED

if TYPE_CHECKING:
    from cdgmae.config import Config


def fetch(config: ConfigOption = None) -> None:
    """Fetch all weights that a configuration takes from the hub: encoders, scoring and conditioning encoders, pipelines that draw views.

    Run it where there is network, e.g. on a cluster's login node: jobs on Slurm read the cache alone (`HF_HOME` says where it lies; the nodes
    must share it; `HF_HUB_OFFLINE=0` lets jobs ask the hub). What is in the cache already is not fetched again.

    Ends with exit code 1 if something cannot be had; the rest is fetched all the same.

    Example: cdgmae fetch --config my.yaml
    """
    from huggingface_hub import constants

    result: dict[str, Any] = {"cache": constants.HF_HUB_CACHE, **load_networks(load_chosen_config(config), config or ())}
    if not json_wanted():
        result["networks"] = ", ".join(result["networks"]) or "none"
    problems = result.pop("problems")
    print_result(result | ({"problems": problems} if json_wanted() else {}))
    if problems:
        raise ValueError("weights that cannot be had:" + "".join(f"{LISTED}{problem}" for problem in problems))


def load_networks(config: Config, files: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Load every network of the hub that a configuration names.

    Args:
        config: The configuration.
        files: What `--config` named, for the command in a message.

    Returns:
        `networks`: the names of those that are there; `problems`: in words, what is missing and which keys name it.
    """
    from cdgmae.interchange.named_networks import named_networks

    loaded, problems = [], []
    for network in named_networks(config):
        try:
            network.load()
            loaded.append(network.name)
        except ValueError as error:
            command = shlex.join(["cdgmae", "fetch", *(word for file in files for word in ("--config", str(file)))])
            problems.append(f"{', '.join(network.keys)}: {error}".replace("`cdgmae fetch`", f"`{command}`"))
    return {"networks": loaded, "problems": problems}
