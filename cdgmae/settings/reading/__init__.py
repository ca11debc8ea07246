"""How settings are read, bounded, and what is said of wrong ones."""
