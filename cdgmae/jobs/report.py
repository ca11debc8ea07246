"""Files and settings of stage report, and what its tables ask of the stages before."""

from __future__ import annotations

from cdgmae import names
from cdgmae.jobs.propagation import PropagationJobs
from cdgmae.paper import PAPER_TABLES
from cdgmae.settings.report import TableSettings


class ReportJobs(PropagationJobs):
    """Jobs that write the page and the paper's tables."""

    def report_settings(self) -> str:
        """What the page depends on, as JSON; the paper's tables are jobs of their own."""
        return self.config.report.canonical_json(exclude={"tables"})

    def named_tables(self) -> list[str]:
        """The paper's tables of which the configuration fills a row."""
        return [table for table in PAPER_TABLES if self.config.report.tables.get(table)]

    def table_rows(self, table: str) -> dict[str, list[str]]:
        """Row of a paper table -> what fills it: a source, or an encoder with all its seeds; only the configured rows."""
        rows = self.config.report.tables.get(table, {})
        if PAPER_TABLES[table].is_of_sources:
            return {row: [source] for row, source in rows.items()}
        return {row: list(self.config.seeds_of_encoder(encoder)) for row, encoder in rows.items()}

    def table_settings(self, table: str) -> str:
        """What fills a paper table, as JSON."""
        return TableSettings(rows=self.table_rows(table)).canonical_json()

    def table_inputs(self, table: str) -> list[str]:
        """The score tables behind a paper table; no file twice."""
        fillers = dict.fromkeys(name for fillers_of_row in self.table_rows(table).values() for name in fillers_of_row)
        if PAPER_TABLES[table].is_of_sources:
            return [file for source in fillers for file in self.score_tables(source)]
        protocols = self.config.propagation.protocols
        return [names.propagation_table(encoder, clip_set) for encoder in fillers for clip_set in protocols]

    def judged_encoders(self) -> list[str]:
        """The encoders that the default target judges: those of section `propagation`, and their other seeds that a named table needs."""
        tables = [self.table_rows(table) for table in self.named_tables() if not PAPER_TABLES[table].is_of_sources]
        asked = [encoder for rows in tables for encoders in rows.values() for encoder in encoders]
        return list(dict.fromkeys([*self.config.propagation.encoders, *asked]))
