"""The report: one static page, made from the files of all stages, readable offline."""
