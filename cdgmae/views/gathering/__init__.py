"""Filling bags with images that exist: neighbours and random images of the data set, frames of clips."""
