"""What must not steer uv when it works for an env: another tool's virtual environment, project or interpreter."""

FOREIGN = (
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONHOME",
    "PYTHONPATH",
    "UV_PROJECT",
    "UV_PROJECT_ENVIRONMENT",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
)
"""Variables of the server's own environment, or of a user's shell."""
