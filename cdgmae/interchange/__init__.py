"""Results as folders that other software opens: encoders for timm, bags of views for Hugging Face datasets."""
