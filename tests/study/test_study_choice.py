"""What the study chooses by its scores, and how its data is laid out."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdgmae.config import load_config
from cdgmae.consistency.score_tables import SCORE_SCHEMA
from cdgmae.storage.tables import write_table
from perf.study.choice import CONFIG, candidates, chosen_values, consistent_run, score_files
from perf.study.data import lay_out


def write_scores(path: Path, source: str, kind: str, scores: dict[str, list[float]]) -> None:
    """A score table with one bag per entry, scores other than `nps` 0.5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        dict.fromkeys(("gs", "ls", "nps", "nps_reverse"), 0.5)
        | {
            "nps": value,
            "key": key,
            "source": source,
            "view_a": 0,
            "view_b": number + 1,
            "status": "ok",
            "encoder": "mae",
        }
        for key, values in scores.items()
        for number, value in enumerate(values)
    ]
    write_table(path, rows, SCORE_SCHEMA, extra={"kind": kind})


def test_half_of_the_views_are_kept_and_bags_left_out_are_made_up_for_by_epochs(tmp_path: Path) -> None:
    run = load_config(*CONFIG).pretrain.runs["consistent"]
    tables = [tmp_path / "00000.parquet", tmp_path / "00001.parquet"]
    write_scores(tables[0], "s_ldm", "s_ldm", {"a": [0.9, 0.8], "b": [0.1, 0.2]})
    write_scores(tables[1], "s_ldm", "s_ldm", {"c": [0.7, 0.3], "d": [0.1, 0.2]})
    chosen = consistent_run(run, tables)
    assert chosen.view_filter == "nps >= 0.25"
    assert chosen.epochs == 2 * run.epochs  # of a and c alone
    assert chosen.warmup_epochs == chosen.epochs / 20


def test_the_guidance_scale_is_that_of_the_source_nearest_to_video(tmp_path: Path) -> None:
    config, nps = (
        load_config(*CONFIG),
        {"video": 0.8, "guidance_1": 0.6, "guidance_2": 0.5, "guidance_4": 0.77, "guidance_6": 0.9},
    )
    assert set(candidates(config)) == set(nps) - {"video"}
    assert "views" not in chosen_values_of(tmp_path, nps | {"guidance_6": None})
    assert chosen_values_of(tmp_path, nps)["views"] == {"sources": {"guided": {"sampling": {"guidance_scale": 4.0}}}}


def chosen_values_of(results: Path, nps: dict[str, float | None]) -> dict[str, object]:
    config = load_config(*CONFIG)
    write_scores(results / "consistency/s_ldm/00000.parquet", "s_ldm", "s_ldm", {"a": [0.5], "b": [0.5]})
    for file in score_files(config, results):
        source = file.parent.name
        if (value := nps[source]) is not None:
            write_scores(file, source, config.views.sources[source].kind, {"a": [value], "b": [value]})
    return chosen_values(config, results)


def test_data_is_laid_out_as_the_configuration_has_it(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "small_study"
    lay_out(data, target, per_class=1)
    for folder in (data / "images").glob("*/"):
        files = sorted(folder.iterdir())
        (trained,), (tried,) = ((target / name / folder.name).iterdir() for name in ("images", "guidance"))
        assert trained.resolve() == files[0]
        assert tried.resolve() == files[1 if len(files) > 1 else 0]
    for kind in ("JPEGImages", "Annotations"):
        for clip in (data / "DAVIS" / kind / "480p").iterdir():
            halved = sorted((target / "DAVIS_halved" / kind / "480p" / clip.name).iterdir())
            assert [file.resolve() for file in halved] == sorted(clip.iterdir())[::2]
            assert [file.stem for file in halved] == [f"{number:05d}" for number in range(len(halved))]
    lay_out(data, tmp_path / "all", per_class=0)
    for folder in (data / "images").glob("*/"):
        files = sorted(folder.iterdir())
        trained, tried = (sorted((tmp_path / "all" / name / folder.name).iterdir()) for name in ("images", "guidance"))
        assert [file.resolve() for file in trained] == (files[:-1] or files)
        assert [file.resolve() for file in tried] == files[-1:]
    before = target.stat().st_mtime_ns
    lay_out(data, target, per_class=0)
    assert target.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="needs images/"):
        lay_out(tmp_path, tmp_path / "other", per_class=1)
