"""Sampling the views of a shard: batches, the drawing loop, processes, the journal of finished views."""
