"""What is installed and importable here: `scan` looks at an interpreter's environment and gives a `LocalEnvironment`.

It imports little and parses little, because a scan stands before every `.to()` of an env that replicates the local one.
"""

from runkit.client.scan.environment import scan
from runkit.client.scan.model import CondaPackage, Distribution, ImportRoot, LocalEnvironment, Note

__all__ = ["CondaPackage", "Distribution", "ImportRoot", "LocalEnvironment", "Note", "scan"]
