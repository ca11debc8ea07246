"""Slurm as its users' tools show it: leftover jobs of a dead controller, and what the nodes of each resource class offer."""
