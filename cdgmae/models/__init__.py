"""Models of the method: encoder, decoder, cross-view masked autoencoder, checkpoints."""
