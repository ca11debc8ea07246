"""A first configuration for a user's own folders."""
