"""The consistency explorer: distributions of scores, the most telling bags, and which patch of a view matches which of the real image."""
