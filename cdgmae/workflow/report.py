"""Files and settings of stage report, and what its tables ask of the stages before."""

from __future__ import annotations

from cdgmae import names
from cdgmae.config import Config
from cdgmae.paper import PAPER_TABLES
from cdgmae.settings.report import ReportContents, ReportJobSettings, TableSettings
from cdgmae.workflow import consistency, pretrain, propagation


def report_settings(config: Config) -> ReportJobSettings:
    """What the page depends on: its own settings and what the configuration names; the paper's tables are jobs of their own."""
    section = config.report
    own = {name: getattr(section, name) for name in type(section).model_fields if name != "tables"}
    return ReportJobSettings(**own, contents=contents(config))


def contents(config: Config) -> ReportContents:
    """What the configuration names of every stage."""
    sources = config.views.sources
    judged = list(config.propagation.encoders) if config.propagation.datasets else []
    return ReportContents(
        datasets={name: dataset.num_shards for name, dataset in config.shards.datasets.items()},
        views={name: consistency.num_shards(config, name) for name, source in sources.items() if source.has_files},
        scored={name: consistency.num_shards(config, name) for name in config.consistency.sources},
        generators=[name for name, generator in config.views.generators.items() if generator.train is not None],
        runs=dict.fromkeys(config.pretrain.runs, config.pretrain.seeds),
        encoders=judged,
        looks={name: propagation.loadable_encoder(config, name) for name in judged},
        sets=evaluation_sets(config),
    )


def evaluation_sets(config: Config) -> dict[str, str]:
    """Evaluation set -> its kind."""
    return {name: protocol.kind for name, protocol in config.propagation.datasets.items()}


def named_tables(config: Config) -> list[str]:
    """The paper's tables of which the configuration fills a row."""
    return [table for table in PAPER_TABLES if config.report.tables.get(table)]


def table_rows(config: Config, table: str) -> dict[str, list[str]]:
    """Row of a paper table -> what fills it: a source, or an encoder with all its seeds; only the configured rows."""
    rows = config.report.tables.get(table, {})
    if PAPER_TABLES[table].is_of_sources:
        return {row: [source] for row, source in rows.items()}
    return {row: list(config.seeds_of_encoder(encoder)) for row, encoder in rows.items()}


def table_settings(config: Config, table: str) -> TableSettings:
    """What fills a paper table; of several evaluation sets of a kind the one that is named like it, else the first, is the paper's."""
    rows, sets = table_rows(config, table), evaluation_sets(config)
    fillers = [name for names_of_row in rows.values() for name in names_of_row] if PAPER_TABLES[table].is_of_sources else []
    kinds = {kind: name for name, kind in reversed(sets.items())} | {name: name for name, kind in sets.items() if name == kind}
    return TableSettings(rows=rows, num_shards={name: consistency.num_shards(config, name) for name in fillers}, sets=kinds)


def table_inputs(config: Config, table: str) -> list[str]:
    """The score tables behind a paper table; no file twice."""
    fillers = dict.fromkeys(name for fillers_of_row in table_rows(config, table).values() for name in fillers_of_row)
    if PAPER_TABLES[table].is_of_sources:
        return [file for source in fillers for file in consistency.score_tables(config, source)]
    return [names.propagation_table(encoder, name) for encoder in fillers for name in config.propagation.datasets]


def table_images(config: Config, table: str) -> list[str]:
    """Shards of the real images of the runs behind a table of encoders; a table of sources names them through its score tables."""
    if PAPER_TABLES[table].is_of_sources:
        return []
    fillers = [encoder for encoders in table_rows(config, table).values() for encoder in encoders]
    runs = [propagation.judged_encoder(config, encoder).run for encoder in fillers]
    return pretrain.images_of_runs(config, dict.fromkeys(run for run in runs if run is not None))


def judged_encoders(config: Config) -> list[str]:
    """The encoders that the default target judges: those of section `propagation`, and their other seeds that a named table needs."""
    tables = [table_rows(config, table) for table in named_tables(config) if not PAPER_TABLES[table].is_of_sources]
    asked = [encoder for rows in tables for encoders in rows.values() for encoder in encoders]
    return list(dict.fromkeys([*config.propagation.encoders, *asked]))


def results(config: Config) -> list[str]:
    """All files of the stage."""
    tables = [names.paper_table(table, kind) for table in named_tables(config) for kind in ("csv", "md", "html")]
    return [f"{names.RESULTS}/report", *tables]
