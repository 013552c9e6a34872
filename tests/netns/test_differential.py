"""The tracer's answer and what real packets do, on small random clusters among random rules of other programs.

Hundreds of clusters are for `./run bench differential`; these are a few dozen packets of them, on both variants and in
both families. A failure says its seed: `./run bench differential --seed SEED --clusters 1` repeats it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from kproxy.backend.iptables.parse import parse_save
from kproxy.config import IptablesVariant
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.packet import Packet
from tests.differential.compare import Differs, check, run_cluster
from tests.differential.field import Field, Observed, all_fields

pytestmark = pytest.mark.root
SEEDS = range(5)
PACKETS = 6
VARIANTS = (IptablesVariant.LEGACY, IptablesVariant.NFT)


@pytest.fixture(scope="module")
def fields() -> Iterator[Mapping[IptablesVariant, Field]]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    with all_fields() as every:
        yield every


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("variant", VARIANTS)
def test_packets_go_where_the_tracer_says(
    fields: Mapping[IptablesVariant, Field], variant: IptablesVariant, family: IPFamily
) -> None:
    counts = Counter[str]()
    for seed in SEEDS:
        counts += run_cluster(fields[variant], family, str(seed), PACKETS)
    assert counts["packets"] >= len(SEEDS) * PACKETS
    assert {"seen: arrived", "seen: refused", "seen: dropped"} <= counts.keys()


_REFUSES = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p tcp -m tcp --dport 9 -j REJECT --reject-with tcp-reset
-A FORWARD -p udp -m udp --dport 9 -j REJECT --reject-with icmp-port-unreachable
-A FORWARD -p udp -m udp --dport 10 -j DROP
-A OUTPUT -p tcp -m tcp --dport 9 -j REJECT --reject-with icmp-admin-prohibited
COMMIT
"""


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_field_tells_what_became_of_a_packet(
    fields: Mapping[IptablesVariant, Field], variant: IptablesVariant
) -> None:
    """Or the test above would say nothing."""
    field = fields[variant]
    field.restore(IPFamily.IPV4, _REFUSES)
    sent = {
        ("10.244.1.5", 9, Protocol.TCP): "refused",
        ("10.244.1.5", 9, Protocol.UDP): "refused",
        ("10.244.1.5", 10, Protocol.UDP): "dropped",
        ("10.244.1.5", 10, Protocol.TCP): "arrived",
        ("192.168.0.2", 9, Protocol.UDP): "arrived",
    }
    for (ip, port, protocol), fate in sent.items():
        assert field.send(Packet("203.0.113.7", ip, port, protocol, field.fresh())).fate == fate, (ip, port, protocol)
    here = Packet("192.168.0.2", "10.244.1.5", 9, source_port=field.fresh(), from_host=True)
    assert field.send(here) == Observed("refused")
    untouched = Packet("203.0.113.7", "10.96.0.1", 80, source_port=field.fresh())
    assert field.send(untouched) == Observed("arrived", "eth0", "203.0.113.7", "10.96.0.1", 80, untouched.source_port)


def test_a_wrong_answer_is_noticed(fields: Mapping[IptablesVariant, Field]) -> None:
    field = fields[IptablesVariant.LEGACY]
    field.restore(IPFamily.IPV4, _REFUSES)
    tables = parse_save(_REFUSES.replace("--dport 10", "--dport 11").splitlines())
    with pytest.raises(Differs, match="the kernel and the tracer disagree"):
        check(field, tables, Packet("203.0.113.7", "10.244.1.5", 10, Protocol.UDP), "a wrong dump")
