"""Scoring the pairs of one shard: images, embeddings, similarities, and parts that survive an interruption."""
