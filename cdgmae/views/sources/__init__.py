"""View sources: the ways in which a bag of views is filled."""
