"""The report page: gathers what the stages left, draws figures and thumbnails, fills the template."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from cdgmae import __version__, names
from cdgmae.paper import PAPER_TABLES
from cdgmae.report.assets import ASSETS, write_assets
from cdgmae.report.bag_thumbnails import BAGS, FIGURES, show_bags
from cdgmae.report.pages.explorer.explorer_page import EXPLORER_ASSETS, write_explorer
from cdgmae.report.pages.pretrain.pretrain_page import PRETRAIN_ASSETS, write_pretrain_page
from cdgmae.report.pages.propagation.propagation_page import PROPAGATION_ASSETS, write_propagation_page
from cdgmae.report.propagation_scores import describe_findings, describe_sample, evaluation_sets, score_columns
from cdgmae.report.rendering import PAGES, write_page
from cdgmae.report.stages import StageFiles, read_results, score_tables
from cdgmae.report.svg_figures import draw_curves
from cdgmae.settings.report import ReportJobSettings
from cdgmae.storage.files.atomic import write_text
from cdgmae.workflow.last_run import how_to_run

PAGE_NAME = "index.html"
PACKAGES = ("torch", "torchvision", "timm", "diffusers", "accelerate", "pyarrow", "snakemake")


def write_report(settings: ReportJobSettings, results: Path, output: Path) -> dict[str, Any]:
    """Write all pages and their figures.

    Only what `settings.contents` names is read. Figures, thumbnails and shared scripts are written first and index.html last and at once, so
    a page that is there is whole. What has not been run is named in the page. The same results give the same bytes.

    Args:
        settings: Title, numbers of bags and strips, thumbnail size, and what the configuration names.
        results: Folder with the results of the stages.
        output: Folder for index.html, assets/, figures/ and a folder per further page; other files in it are left alone.

    Returns:
        The page's path, its size with all figures in megabytes, the number of shown bags, missing stages and the verdict; what the
        explorer shows, and the numbers of reconstruction panels and of sequences shown as strips.

    Raises:
        ValueError: if `results` holds nothing that the configuration names, or something in it cannot be read.
    """
    files = read_results(settings.contents, results)
    if len(files.missing) == len(names.STAGES) - 1:
        raise ValueError(
            f"--results {results}: holds nothing that the configuration names, of any stage; {how_to_run('report')}, or give the "
            "folder in which it ran and, with --config, its configuration"
        )
    tables = {source: score_tables(results, source, count) for source, count in settings.contents.scored.items()}
    page, figures = output / PAGE_NAME, output / FIGURES
    page.unlink(missing_ok=True)
    shutil.rmtree(figures / BAGS, ignore_errors=True)
    sources = [str(row["source"]) for row in files.consistency]
    bags = [shown for name in sources if (shown := show_bags(tables[name], results, name, settings, output)) is not None]
    findings = describe_findings(files.encoders) if files.encoders else []
    drawn = _draw(files, figures)
    write_assets(output, EXPLORER_ASSETS + PRETRAIN_ASSETS + PROPAGATION_ASSETS)
    explored = write_explorer(settings, results, output, files.consistency, tables)
    panels = write_pretrain_page(settings, results, output, files.runs, files.not_run["pretrain"])
    strips = write_propagation_page(settings, results, output, files.encoders)
    write_page(
        output, PAGE_NAME, "index.html.j2", settings=settings, files=files, bags=bags, findings=findings, sample=describe_sample(files.encoders),
        dag=_dag(files), figures=drawn, scores=score_columns(files.encoders), paper=PAPER_TABLES,
        packages=_package_versions(), protocols={name: protocol for encoder in files.encoders for name, protocol in encoder.protocols.items()},
    )  # fmt: skip
    return {
        "output": str(page), "megabytes": round(sum(path.stat().st_size for path in _written_files(output)) / 1e6, 2),
        "bags": sum(len(shown.bags) for shown in bags), "missing": files.missing, "verdict": (findings or ["no propagation scores"])[0],
        **explored, **panels, **strips,
    }  # fmt: skip


def _written_files(output: Path) -> list[Path]:
    """All files of the report; other files in its folder are not counted."""
    folders = [output / FIGURES, output / ASSETS, *(output / page for page in map(os.path.dirname, PAGES) if page)]
    return [output / PAGE_NAME, *(path for folder in folders for path in folder.rglob("*") if path.is_file())]


def _dag(files: StageFiles) -> list[tuple[str, str]]:
    """Stage and what it made, in a few words each."""
    good, views = (sum(part.good for part in group) for group in (files.datasets, files.sources))
    pairs = sum(row["pairs"] - row["bad"] for row in files.consistency)
    sets = evaluation_sets(files.encoders)
    done = {
        "shards": _count(good, "image"), "views": _count(views, "view"), "consistency": f"{_count(pairs, 'pair')} scored",
        "pretrain": _count(len(files.runs), "run"),
        "propagation": _count(len(files.encoders), "encoder") + (f" on {_count(len(sets), 'evaluation set')}" if sets else ""),
        "report": "this page",
    }  # fmt: skip
    return [(stage, done[stage] if stage not in files.missing else _absence(files, stage)) for stage in names.STAGES]


def _absence(files: StageFiles, stage: str) -> str:
    return "not run" if files.not_run[stage] else "nothing configured"


def _draw(files: StageFiles, folder: Path) -> dict[str, str]:
    """Draw the curves that there are; name -> path relative to the page."""
    drawn: dict[str, str] = {}
    trainings = {"pretrain_loss": (files.runs, "epoch"), "generator_loss": (files.generators, "optimiser step")}
    for name, (group, x_label) in trainings.items():
        (folder / f"{name}.svg").unlink(missing_ok=True)
        if group:
            svg = draw_curves([(part.label, part.curve) for part in group], x_label=x_label, y_label="training loss")
            write_text(folder / f"{name}.svg", svg)
            drawn[name] = f"{FIGURES}/{name}.svg"
    return drawn


def _package_versions() -> dict[str, str]:
    """Versions of the packages that decide results, as installed where this page was written."""
    versions = {"cdgmae": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
