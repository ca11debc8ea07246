"""The kinds of evaluation sets, one object each, and their registry; light, because the configuration is checked with them."""
