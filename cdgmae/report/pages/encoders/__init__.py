"""The page that compares encoders: costs, scores with intervals, and which differences may be noise."""
