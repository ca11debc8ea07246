"""Folders for hubs, loaded back by the software they are for: timm and Hugging Face datasets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import yaml
from typer.testing import CliRunner

from cdgmae import CrossViewMAE, load_encoder
from cdgmae.cli import app
from cdgmae.models.encoders.checkpoints import load_encoder_file, write_encoder
from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.bags import Bags
from tests.pretrain.drawn_bags import RUN, write_bags
from tests.propagation.drawn_clips import write_davis

ON_CPU = RuntimeSettings(device="cpu")

ROOT = Path(__file__).parents[2]


def export(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, ["export", "hub", *map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def finished_run(folder: Path, settings: PretrainRunSettings = RUN, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    write_encoder(folder / "encoder.safetensors", CrossViewMAE.from_settings(settings).state_dict(), settings.vit, {})
    (folder / "config.json").write_text(json.dumps({"settings": settings.model_dump(mode="json"), "seed": seed}))
    return folder


def metadata(folder: Path) -> dict[str, object]:
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front)  # type: ignore[no-any-return]


@pytest.mark.parametrize("settings", [RUN, PretrainRunSettings(image_size=64)], ids=["own dimensions", "ViT-S/16"])
def test_timm_opens_an_encoder_folder_and_computes_the_same_tokens(tmp_path: Path, settings: PretrainRunSettings) -> None:
    run = finished_run(tmp_path / "pretrain/cdg/seed0", settings)
    result = export("--encoder", run, "--output", tmp_path / "hub", "--results", tmp_path)
    assert result["architecture"] == "vit_small_patch16_224"
    assert result["evaluation_sets"] == []
    loaded = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    original = load_encoder_file(run / "encoder.safetensors").eval()
    side = settings.image_size
    images = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        assert torch.equal(loaded.forward_features(images), original.forward_features(images))
        ours = load_encoder(parse_encoder(f"local-dir:{tmp_path / 'hub'}"), device=torch.device("cpu"))
        torch.testing.assert_close(ours.tokens(images), original.forward_features(images), rtol=1e-4, atol=1e-5)
    prepared = timm.data.resolve_model_data_config(loaded)
    assert prepared["input_size"] == (3, side, side)
    assert tuple(prepared["mean"]) == (0.485, 0.456, 0.406)
    text = (tmp_path / "hub/README.md").read_text()
    assert "Not measured" in text
    assert "No licence was chosen" in text
    assert metadata(tmp_path / "hub")["library_name"] == "timm"


def test_the_card_has_the_scores_of_exactly_these_weights_and_their_protocol(tmp_path: Path) -> None:
    results = tmp_path / "results"
    run, other = (finished_run(results / f"pretrain/{name}/seed0", seed=seed) for seed, name in enumerate(("cdg", "other")))
    protocol = DavisProtocol(root=str(write_davis(tmp_path / "davis")), input_size=(32, 48), top_k=3, queue_length=2, radius=2)
    scores = run_propagation(
        protocol, parse_encoder(str(run / "encoder.safetensors")), results / "propagation/mine/davis.parquet",
        runtime=ON_CPU, name="mine", work_dir=tmp_path / "work",
    )  # fmt: skip
    result = export("--encoder", run, "--output", tmp_path / "hub", "--results", results, "--license", "cc-by-nc-4.0")
    assert result["evaluation_sets"] == ["davis"]
    text = (tmp_path / "hub/README.md").read_text()
    assert f"| this one | {scores['J&F']:.1f} | {scores['J']:.1f} | {scores['F']:.1f} |" in text
    assert '"queue_length": 2' in text
    assert str(tmp_path) not in text
    assert metadata(tmp_path / "hub")["license"] == "cc-by-nc-4.0"
    assert export("--encoder", other, "--output", tmp_path / "hub2", "--results", results)["evaluation_sets"] == []


@pytest.fixture
def results_with_bags(tmp_path: Path) -> Path:
    reals, views = write_bags(tmp_path / "made", num_bags=6, num_views=3)
    results = tmp_path / "results"
    for tars, folder in ((reals, results / "shards/demo"), (views, results / "views/s_ldm")):
        folder.parent.mkdir(parents=True)
        tars[0].parent.rename(folder)
    return results


def test_datasets_opens_exported_bags_and_the_views_join_by_key(tmp_path: Path, results_with_bags: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face datasets: pip install datasets")
    config = ROOT / "config.yaml"
    result = export("--bags", "s_ldm", "--config", config, "--results", results_with_bags, "--output", tmp_path / "hub")
    assert (result["shards"], result["real"], result["views"], result["files"]) == (1, 6, 18, "linked")
    load: Callable[[str], list[dict[str, object]]] = lambda name: list(  # noqa: E731
        datasets.load_dataset(str(tmp_path / "hub"), name, split="train", streaming=True)
    )
    views, real = load("views"), load("real")
    assert [row["__key__"] for row in views] == [row["__key__"] for row in real]
    assert len(views) == 6
    assert all({"1.jpg", "2.jpg", "3.jpg"} <= set(row) for row in views)
    assert real[0]["0.jpg"].size == (40, 40)  # type: ignore[attr-defined]
    pattern = str(tmp_path / "hub/views/*.tar")
    direct = datasets.load_dataset("webdataset", data_files=pattern, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(direct) == 6
    assert metadata(tmp_path / "hub")["size_categories"] == ["n<1K"]


def test_exported_bags_are_bags_of_this_package_too(tmp_path: Path, results_with_bags: Path) -> None:
    export("--bags", "s_ldm", "--config", ROOT / "config.yaml", "--results", results_with_bags, "--output", tmp_path / "hub")
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "hub"), "--json"])
    assert result.exit_code == 0, result.output
    store = Bags([tmp_path / "hub/real/00000.tar"], [tmp_path / "hub/views/00000.tar"]).usable()
    assert len(store) == 6


def test_wrong_requests_are_refused_and_nothing_is_overwritten(tmp_path: Path, results_with_bags: Path) -> None:
    def problem(*arguments: object) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            CliRunner().invoke(app, ["export", "hub", *map(str, arguments)], catch_exceptions=False)
        return str(caught.value)

    common = ["--output", tmp_path / "hub", "--config", ROOT / "config.yaml", "--results", results_with_bags]
    assert "exactly one of" in problem(*common)
    assert "allowed: s_ldm" in problem("--bags", "crops", *common)
    assert "holds no finished run" in problem("--encoder", tmp_path, *common)
    (results_with_bags / "views/s_ldm/00000.parquet").unlink()
    assert "run the views stage first" in problem("--bags", "s_ldm", *common)
    assert not (tmp_path / "hub").exists()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/notes.txt").write_text("mine")
    run = finished_run(tmp_path / "run")
    assert "already exists" in problem("--encoder", run, *common)
    assert (tmp_path / "hub/notes.txt").read_text() == "mine"
