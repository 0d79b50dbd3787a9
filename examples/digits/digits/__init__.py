"""A small project with helper modules: it learns to read handwritten digits. `train.py` is what runs on the cluster."""
