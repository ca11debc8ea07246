"""The report's pages beside the overview."""
