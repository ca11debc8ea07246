"""Files between stages: atomic writes, picture shards, tables, journals, and the bag of views."""
