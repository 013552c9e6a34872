"""How a service port's chains lead from an entrance to lists of endpoints.

Source of the shapes: kube-proxy 1.10 to 1.36 and kproxy. KUBE-FW says who may come, KUBE-EXT whether outside traffic
gets all endpoints or this node's. Up to 1.23 outside traffic of policy Local went through KUBE-XLB, which was a list of
endpoints and a way round it in one, and every load balancer's address through a KUBE-FW that also masqueraded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from kproxy.backend.iptables.parse import SavedChain
from kproxy.backend.iptables.rules import Comment, Jump, Nfacct, OfProtocol, Rule, Source
from kproxy.explain.answer import Fate
from kproxy.explain.services.pools import MARKS, Pool, Pools

_FIREWALL, _EXTERNAL, _OLD_EXTERNAL = "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"
_LOCAL = ("KUBE-SVL-", _OLD_EXTERNAL)
_MOST_OTHERS = 8  # chains for some clients; kube-proxy has one
_ALWAYS = (Comment, OfProtocol, Nfacct)


class Way(Struct, frozen=True):
    """From an entrance's chain to lists of endpoints."""

    fate: Fate  # of most clients, as far as nat decides it
    main: str = ""  # the chain whose list most clients get; empty: none
    others: tuple[str, ...] = ()  # chains whose lists some clients get
    chains: tuple[str, ...] = ()  # met before a list
    ranges: tuple[str, ...] = ()  # that may come this way; empty: anyone
    is_external: bool = False  # for traffic from outside
    why: str = ""  # of a drop

    @property
    def is_local(self) -> bool:
        """Whether most clients get this node's endpoints alone."""
        return is_local(self.main) if self.main else bool(self.others)


def is_local(chain: str) -> bool:
    """Whether a chain's list holds this node's endpoints alone."""
    return chain.startswith(_LOCAL)


class Ways:
    def __init__(self, chains: Mapping[str, SavedChain]) -> None:
        self._chains = chains
        self._pools = Pools(chains)
        self._known: dict[str, Way] = {}

    def pool(self, chain: str) -> Pool:
        return self._pools.pool(chain)

    def way(self, name: str) -> Way:
        """From a chain that an entrance leads to."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._find(name)
        return found

    def _find(self, name: str) -> Way:
        chain = self._chains.get(name)
        if chain is None:  # it would be this Service's if it were there
            is_list = not name.startswith((_FIREWALL, _EXTERNAL))
            return Way(Fate.UNTOUCHED, main=name) if is_list else Way(Fate.UNTOUCHED, chains=(name,), is_external=True)
        if name.startswith(_FIREWALL):
            return self._firewall(chain)
        return self._external(chain) if name.startswith(_EXTERNAL) else self._list(chain)

    def _firewall(self, chain: SavedChain) -> Way:
        inner, ranges = "", dict[str, None]()
        for rule, target in _jumps(chain):
            inner = inner or target
            sources = [match.cidr for match in rule.matches if isinstance(match, Source) and not match.negated]
            ranges |= dict.fromkeys(sources or [""])
        behind = self._chains.get(inner)
        if behind is None:
            return Way(Fate.UNTOUCHED, chains=(chain.name,), is_external=True)
        way = self._external(behind) if inner.startswith(_EXTERNAL) else self._list(behind)
        return Way(
            way.fate,
            way.main,
            way.others,
            (chain.name, *way.chains),
            _said(ranges),
            is_external=True,
            why=way.why,
        )

    def _external(self, chain: SavedChain) -> Way:
        main, others = "", dict[str, None]()
        for rule, target in _jumps(chain):
            if all(isinstance(match, _ALWAYS) for match in rule.matches):
                main = target
            elif len(others) < _MOST_OTHERS:
                others[target] = None
        pool = self.pool(main)
        fate, why = _fate(pool)
        return Way(fate, main, tuple(others), (chain.name,), is_external=True, why=why)

    def _list(self, chain: SavedChain) -> Way:
        old = chain.name.startswith(_OLD_EXTERNAL)
        others = dict[str, None]()
        if old:
            others = dict.fromkeys(target for _, target in _jumps(chain) if target.startswith("KUBE-SVC-"))
        fate, why = _fate(self.pool(chain.name))
        return Way(fate, chain.name, tuple(others), (), is_external=old, why=why)


def _fate(pool: Pool) -> tuple[Fate, str]:
    if pool.choices:
        return Fate.DELIVERED, ""
    return (Fate.DROPPED, "has no local endpoints") if pool.drops else (Fate.UNTOUCHED, "")


def _said(ranges: Mapping[str, None]) -> tuple[str, ...]:
    """A rule that asks for no source lets in everybody; beside ranges it was one of them (0.0.0.0/0, ::/0)."""
    if not any(ranges):
        return ()
    everybody = "::/0" if any(":" in each for each in ranges) else "0.0.0.0/0"
    return tuple(each or everybody for each in ranges)


def _jumps(chain: SavedChain) -> Iterator[tuple[Rule, str]]:
    for saved in chain.rules:
        target = saved.rule.target
        if isinstance(target, Jump) and target.chain not in MARKS:
            yield saved.rule, target.chain
