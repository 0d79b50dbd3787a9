"""What runs on the host of an env: the installer, the worker's keeper, and the Ray actor that holds the two."""
