"""Linux namespaces in which a test may mount a file system."""

import subprocess

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def can_mount():
    """Return whether this system allows such namespaces."""
    try:
        return subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]).returncode == 0
    except OSError:
        return False
