"""Files between stages: atomic writes, image shards, tables, journals, and the bag of views."""
