"""Stage `shards`: lists the images of a data set and packs them, as they are or resized, into image shards."""
