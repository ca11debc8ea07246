"""Images and clips: decoding, encoding, crops, strips."""
