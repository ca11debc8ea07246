"""`cdgmae fetch`, and what becomes of jobs whose weights are not there: an answer within seconds that says how to get them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cdgmae.config import check_config
from cdgmae.interchange.named_networks import named_networks
from cdgmae.settings.runtime import RUN_VARIABLE
from cdgmae.storage.hub import OFFLINE_VARIABLE, keep_slurm_jobs_offline
from tests.interchange.fake_hub import NETWORK, fake_hub

NOWHERE = "http://127.0.0.1:9"
OTHER = "hf-hub:me/other"


def names(*networks: str) -> dict[str, object]:
    encoders = {f"encoder{number}": {"timm": name} for number, name in enumerate(networks)}
    return {"propagation": {"datasets": {"davis": {"root": "davis"}}, "encoders": encoders}}


def run(folder: Path, endpoint: str, *command: str, **variables: str) -> tuple[int, str, float]:
    """Exit code, words and seconds of a command whose hub is at `endpoint` and whose cache lies in the folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "CDGMAE_"))}
    hub = {"HF_HOME": str(folder / "hf"), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "cdgmae", *command],
        cwd=folder,
        env=kept | hub | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - started


@pytest.mark.slow
def test_what_is_fetched_once_loads_without_network_and_the_rest_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(names(NETWORK, OTHER)))
    (tmp_path / "files").mkdir()
    with fake_hub(tmp_path / "files") as (address, sent):
        code, said, _ = run(tmp_path, address, "fetch")
        assert (code, sorted(sent)) == (1, ["config.json", "model.safetensors"])
        assert "propagation.encoders.encoder1: encoder 'hf-hub:me/other'" in said
        assert "encoder0" not in said
    for offline in ("0", "1"):
        code, said, _ = run(tmp_path, NOWHERE, "fetch", HF_HUB_OFFLINE=offline)
        assert (code, said.count("Retry")) == (1, 0)
        assert f"networks  {NETWORK}\n" in said
        assert "in the workflow's folder, `cdgmae fetch` on a machine with network" in said
        assert "encoder0" not in said
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(names(NETWORK)))
    assert run(tmp_path, NOWHERE, "fetch")[0] == 0


def test_every_network_that_a_configuration_takes_from_the_hub_is_named_once() -> None:
    config = names("vit_small_patch16_224.dino", "local-dir:exported", NETWORK)
    config["propagation"]["encoders"]["file"] = {"timm": "vit_small_patch16_224", "checkpoint": "weights.pth"}  # type: ignore[index]
    config |= {
        "shards": {"datasets": {"photos": {"path": "photos"}}},
        "views": {
            "sources": {
                "sd": {
                    "kind": "diffusers",
                    "dataset": "photos",
                    "pipeline": "StableDiffusionImageVariationPipeline",
                    "hub": "me/sd",
                },
                "near": {"kind": "knn", "dataset": "photos", "encoder": {"timm": "vit_small_patch16_224.dino"}},
            }
        },
        "consistency": {"sources": ["sd"], "encoder": {"timm": "vit_base_patch16_224.mae"}},
    }
    found = {network.name: network.keys for network in named_networks(check_config(config))}
    assert found == {
        "vit_small_patch16_224.dino": ("views.sources.near.encoder", "propagation.encoders.encoder0"),
        "vit_base_patch16_224.mae": ("consistency.encoder",),
        NETWORK: ("propagation.encoders.encoder2",),
        "me/sd": ("views.sources.sd.hub",),
    }


def test_jobs_of_the_workflow_on_slurm_read_the_cache_alone_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (OFFLINE_VARIABLE, RUN_VARIABLE, "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(RUN_VARIABLE, "abc1")
    keep_slurm_jobs_offline()
    assert OFFLINE_VARIABLE not in os.environ
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(OFFLINE_VARIABLE, "0")
    keep_slurm_jobs_offline()
    assert os.environ[OFFLINE_VARIABLE] == "0"
    monkeypatch.delenv(OFFLINE_VARIABLE)
    keep_slurm_jobs_offline()
    assert os.environ[OFFLINE_VARIABLE] == "1"
