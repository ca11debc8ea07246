"""Stage `shards`: lists the pictures of a data set and packs them, as they are or resized, into picture shards."""
