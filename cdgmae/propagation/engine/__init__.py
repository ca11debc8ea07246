"""Label propagation itself: frames to features, memory, top-k selection."""
