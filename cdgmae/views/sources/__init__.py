"""View sources: one file per kind with its settings, what it reads, and how it makes the views of one shard; `view_kinds` lists them."""
