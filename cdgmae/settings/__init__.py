"""Typed settings: one module per stage section of the config, defaults are the paper's values."""
