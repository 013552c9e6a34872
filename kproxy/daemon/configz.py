"""The configuration in force, as kube-proxy's ``/configz`` shows it: a KubeProxyConfiguration v1alpha1.

All of kube-proxy's sections are there; what is ours stands in a section of its own, ``kproxy`` (spec: runtime.md 10).
"""

from __future__ import annotations

import json

from kproxy.config import Config
from kproxy.settings.document import GROUP
from kproxy.settings.v1alpha1 import render


def describe(config: Config) -> bytes:
    """JSON, one line."""
    return json.dumps({GROUP: render(config, whole=True)}, separators=(",", ":")).encode()
