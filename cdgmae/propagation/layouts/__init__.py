"""Data sets in their official layouts: what is read, and everything that can be wrong with it."""
