"""The shards and the generator of `tests.generators.conftest`, for the views tests."""

from tests.generators.conftest import generator_dir, one_thread, shard_tar

__all__ = ["generator_dir", "one_thread", "shard_tar"]
