"""An embedded Kubernetes API server: the real protocol for what a service proxy and its users touch.

Decides nothing itself; its parts do::

    handler ──► routes        what a URL and its query ask for
       │    ──► registry ──► admission ──► shapes, *_defaults, *_rules, validate, assign
       │            │    ──► deletion, patch
       │            ▼
       │         store        versions, changes, what was true at an earlier revision
       │            │
       ▼            ▼
    encode, table, watch      bytes of answers          controllers ──► endpointslices

Use: ``async with ApiServer() as server: server.create({...}); server.kubeconfig(path)``, or
``python -m kproxy.sandbox.apiserver --port 8001`` and any kubectl.
"""

from kproxy.sandbox.apiserver.faults import Faults
from kproxy.sandbox.apiserver.handler import RecordedRequest
from kproxy.sandbox.apiserver.server import NODE_PORTS, SERVICE_CIDRS, ApiServer, TlsFiles
from kproxy.sandbox.apiserver.status import StatusError
from kproxy.sandbox.apiserver.store import Change, ChangeType

__all__ = [
    "NODE_PORTS",
    "SERVICE_CIDRS",
    "ApiServer",
    "Change",
    "ChangeType",
    "Faults",
    "RecordedRequest",
    "StatusError",
    "TlsFiles",
]
