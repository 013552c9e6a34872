"""What the running daemon carries. How it runs is in tests/e2e."""

import subprocess
import sys

_HEAVY = ("kubernetes", "iptc", "rich", "pyroute2", "uvloop", "pytest")


def test_the_daemon_does_not_import_what_only_others_need() -> None:
    """Each of these costs tens of megabytes on every node; pyroute2 is imported by the one thread that uses it."""
    code = f"import sys, kproxy.cli, kproxy.daemon.main; print([name for name in {_HEAVY} if name in sys.modules])"
    found = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"
