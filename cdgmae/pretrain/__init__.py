"""Stage `pretrain`: cross-view masked autoencoders trained on bags of views."""
