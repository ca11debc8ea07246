"""The page on propagation: scores beside the paper's, every sequence of every clip set, and painted frames of the worst."""
