"""Commands about results as files: whether they are whole, and where they come from."""
