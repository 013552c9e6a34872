"""How many clients session affinity remembers: the kernel's limit, found and told where it matters.

iptables remembers a client in a list of the ``xt_recent`` module, one list for each endpoint, and a list holds
``ip_list_tot`` clients: 100 where nobody asked for more. Beyond, the client seen longest ago is forgotten and may be
sent elsewhere, without a word from the kernel; kube-proxy says nothing, either. Nothing can be changed from here, for
the parameter is read when the module is loaded, so the first round with such a Service is followed by one log line that
names the remedy, and by a gauge. An Event on each Service was rejected: the limit is the node's, not the Service's.
"""

from __future__ import annotations

from kproxy.daemon.log import Log
from kproxy.daemon.metrics import Metrics
from kproxy.kernel.doors import SysctlDoor
from kproxy.plan.plan import Plan

_log = Log(__name__)
LIMIT = "/sys/module/xt_recent/parameters/ip_list_tot"
_USUAL = 100  # the module's own default; whoever raised it knows


class AffinityLimit:
    def __init__(self, sysctl: SysctlDoor, metrics: Metrics) -> None:
        self._sysctl = sysctl
        self._metrics = metrics
        self._said = False

    def look(self, plan: Plan) -> None:
        """After a round: the module is loaded with the first rule that needs it."""
        if self._said or not (services := sum(each.affinity_seconds > 0 for each in plan.services.values())):
            return
        clients = self._sysctl.read(LIMIT)
        if clients is None:
            return
        self._said = True
        self._metrics.remembers(clients)
        say = _log.warning if clients <= _USUAL else _log.info
        say(
            "Session affinity remembers a limited number of clients for each endpoint; the rest may change endpoints",
            clients=clients,
            servicePorts=services,
            remedy="for more, put `options xt_recent ip_list_tot=2000` into /etc/modprobe.d/xt_recent.conf and reboot",
        )
