"""What is installed and importable here: an interpreter's environment, its distributions, and its import roots."""
