"""Small dumps of nodes: a service proxy's rules, and around them those in the shape that other programs write.

One Service, shop/web, with an endpoint on this node (10.244.1.7) and one elsewhere (10.244.2.9).
"""

from __future__ import annotations

from kproxy.backend.iptables.parse import parse_rule
from kproxy.backend.iptables.rules import Goto, Jump

_SVC, _EXT = "KUBE-SVC-LOLE4ISW44XBNF3G", "KUBE-EXT-LOLE4ISW44XBNF3G"
_HERE, _THERE = "KUBE-SEP-AAAAAAAAAAAAAAAA", "KUBE-SEP-BBBBBBBBBBBBBBBB"
_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_PROXY = f"""
*nat
PREROUTING -j KUBE-SERVICES
OUTPUT -j KUBE-SERVICES
POSTROUTING -j KUBE-POSTROUTING
KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment "shop/web cluster IP" -m tcp --dport 80 -j {_SVC}
KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
KUBE-NODEPORTS -p tcp -m comment --comment shop/web -m tcp --dport 30080 -j {_EXT}
{_EXT} -j KUBE-MARK-MASQ
{_EXT} -j {_SVC}
{_SVC} ! -s 10.244.0.0/16 -d 10.96.0.20/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
{_SVC} -m statistic --mode random --probability 0.50000000000 -j {_HERE}
{_SVC} -j {_THERE}
{_HERE} -s 10.244.1.7/32 -j KUBE-MARK-MASQ
{_HERE} -p tcp -m tcp -j DNAT --to-destination 10.244.1.7:8080
{_THERE} -s 10.244.2.9/32 -j KUBE-MARK-MASQ
{_THERE} -p tcp -m tcp -j DNAT --to-destination 10.244.2.9:8080
KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
KUBE-POSTROUTING -j MASQUERADE --random-fully
*filter
INPUT -j KUBE-FIREWALL
FORWARD -j KUBE-FORWARD
OUTPUT -j KUBE-FIREWALL
KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
"""


def _tables(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in filter(None, text.split("\n")):
        if line.startswith("*"):
            rules = found.setdefault(line[1:], [])
        else:
            rules.append(line)
    return found


def _node(ahead: str = "", behind: str = "", drops: tuple[str, ...] = ()) -> str:
    """``ahead``, ``behind``: other programs' rules before and after the proxy's; ``drops``: filter's policies."""
    parts = [_tables(text) for text in (ahead, _PROXY, behind)]
    lines: list[str] = []
    for table in ("raw", "mangle", "nat", "filter"):
        rules = [rule for part in parts for rule in part.get(table, ())]
        chains = dict.fromkeys(rule.split()[0] for rule in rules)
        targets = [parse_rule(f"-A {rule}")[1].target for rule in rules]
        chains |= dict.fromkeys(target.chain for target in targets if isinstance(target, Jump | Goto))
        policies = {chain: "ACCEPT" if chain in _BUILT_IN else "-" for chain in chains}
        policies |= dict.fromkeys(drops, "DROP") if table == "filter" else {}
        lines += [f"*{table}", *(f":{chain} {policy} [0:0]" for chain, policy in policies.items())]
        lines += [*(f"-A {rule}" for rule in rules), "COMMIT"]
    return "\n".join(lines) + "\n"


def _calico_pod(interface: str, namespace: str, policy: str = "") -> str:
    """What stands for one pod, its profile, and its policy if it has one."""
    to, out, profile = f"cali-tw-{interface}", f"cali-fw-{interface}", f"cali-pri-kns.{namespace}"
    both = "".join(
        f"""
{chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
{chain} -m conntrack --ctstate INVALID -j DROP
{chain} -j MARK --set-xmark 0x0/0x10000
{chain}-policy
{chain} -j {profile}
{chain} -m comment --comment "Return if profile accepted" -m mark --mark 0x10000/0x10000 -j RETURN
{chain} -m comment --comment "Drop if no profiles matched" -j DROP
"""
        for chain in (to, out)
    )
    selected = f"""
{to} -m comment --comment "Start of policies" -j MARK --set-xmark 0x0/0x20000
{to} -m mark --mark 0x0/0x20000 -j cali-pi-_web
{to} -m comment --comment "Return if policy accepted" -m mark --mark 0x10000/0x10000 -j RETURN
{to} -m comment --comment "Drop if no policies passed packet" -m mark --mark 0x0/0x20000 -j DROP
cali-pi-_web -m set --match-set {policy} src -j MARK --set-xmark 0x10000/0x10000
cali-pi-_web -m mark --mark 0x10000/0x10000 -j RETURN
"""
    accepted = f"{profile} -j MARK --set-xmark 0x10000/0x10000\n{profile} -m mark --mark 0x10000/0x10000 -j RETURN\n"
    return both.replace(f"{to}-policy", selected if policy else "").replace(f"{out}-policy", "") + accepted


CALICO = _node(
    """
*raw
PREROUTING -j cali-PREROUTING
OUTPUT -j cali-OUTPUT
cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000
cali-PREROUTING -i cali+ -j MARK --set-xmark 0x40000/0x40000
cali-PREROUTING -m mark --mark 0x40000/0x40000 -j cali-rpf-skip
cali-PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP
cali-PREROUTING -m mark --mark 0x0/0x40000 -j cali-from-host-endpoint
cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
cali-OUTPUT -j MARK --set-xmark 0x0/0xf0000
cali-OUTPUT -j cali-to-host-endpoint
cali-OUTPUT -m mark --mark 0x10000/0x10000 -j ACCEPT
*mangle
PREROUTING -j cali-PREROUTING
POSTROUTING -j cali-POSTROUTING
cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
cali-PREROUTING -j cali-from-host-endpoint
cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
cali-POSTROUTING -m mark --mark 0x10000/0x10000 -j RETURN
cali-POSTROUTING -j MARK --set-xmark 0x0/0xf0000
cali-POSTROUTING -m conntrack --ctstate DNAT -j cali-to-host-endpoint
cali-POSTROUTING -m mark --mark 0x10000/0x10000 -j RETURN
*nat
PREROUTING -j cali-PREROUTING
OUTPUT -j cali-OUTPUT
POSTROUTING -j cali-POSTROUTING
cali-PREROUTING -j cali-fip-dnat
cali-OUTPUT -j cali-fip-dnat
cali-POSTROUTING -j cali-fip-snat
cali-POSTROUTING -j cali-nat-outgoing
cali-POSTROUTING -o vxlan.calico -m addrtype --src-type LOCAL -j MASQUERADE
cali-nat-outgoing -m set --match-set cali40masq-ipam-pools src -m set ! --match-set cali40all-ipam-pools dst \
-j MASQUERADE
*filter
INPUT -j cali-INPUT
FORWARD -j cali-FORWARD
OUTPUT -j cali-OUTPUT
cali-FORWARD -j MARK --set-xmark 0x0/0xe0000
cali-FORWARD -m mark --mark 0x0/0x10000 -j cali-from-hep-forward
cali-FORWARD -i cali+ -j cali-from-wl-dispatch
cali-FORWARD -o cali+ -j cali-to-wl-dispatch
cali-FORWARD -j cali-to-hep-forward
cali-FORWARD -j cali-cidr-block
cali-INPUT -p udp -m udp --dport 4789 -m set --match-set cali40all-vxlan-net src -m addrtype --dst-type LOCAL -j ACCEPT
cali-INPUT -p udp -m udp --dport 4789 -m addrtype --dst-type LOCAL -j DROP
cali-INPUT -i cali+ -g cali-wl-to-host
cali-INPUT -m mark --mark 0x10000/0x10000 -j ACCEPT
cali-INPUT -j MARK --set-xmark 0x0/0xf0000
cali-INPUT -j cali-from-host-endpoint
cali-INPUT -m mark --mark 0x10000/0x10000 -j ACCEPT
cali-OUTPUT -m mark --mark 0x10000/0x10000 -j ACCEPT
cali-OUTPUT -o cali+ -j RETURN
cali-OUTPUT -j MARK --set-xmark 0x0/0xf0000
cali-OUTPUT -m conntrack ! --ctstate DNAT -j cali-to-host-endpoint
cali-OUTPUT -m mark --mark 0x10000/0x10000 -j ACCEPT
cali-wl-to-host -j cali-from-wl-dispatch
cali-wl-to-host -m comment --comment "Configured DefaultEndpointToHostAction" -j ACCEPT
cali-from-wl-dispatch -i cali1a2b3c4d5e6 -g cali-fw-cali1a2b3c4d5e6
cali-from-wl-dispatch -i cali77665544332 -g cali-fw-cali77665544332
cali-from-wl-dispatch -m comment --comment "Unknown interface" -j DROP
cali-to-wl-dispatch -o cali1a2b3c4d5e6 -g cali-tw-cali1a2b3c4d5e6
cali-to-wl-dispatch -o cali77665544332 -g cali-tw-cali77665544332
cali-to-wl-dispatch -m comment --comment "Unknown interface" -j DROP
"""
    + _calico_pod("cali1a2b3c4d5e6", "shop", policy="cali40s:web")
    + _calico_pod("cali77665544332", "jobs"),
    """
*filter
FORWARD -m comment --comment "Policy explicitly accepted packet." -m mark --mark 0x10000/0x10000 -j ACCEPT
FORWARD -j MARK --set-xmark 0x10000/0x10000
""",
)
FLANNEL = _node(
    behind="""
*nat
POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
*filter
FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
""",
)
CILIUM = _node(
    ahead="""
*raw
PREROUTING -m comment --comment "cilium-feeder: CILIUM_PRE_raw" -j CILIUM_PRE_raw
OUTPUT -m comment --comment "cilium-feeder: CILIUM_OUTPUT_raw" -j CILIUM_OUTPUT_raw
CILIUM_PRE_raw -m mark --mark 0x200/0xf00 -m comment --comment "cilium: NOTRACK for proxy traffic" -j CT --notrack
CILIUM_OUTPUT_raw -o lxc+ -m mark --mark 0xa00/0xfffffeff -m comment --comment "cilium" -j CT --notrack
CILIUM_OUTPUT_raw -o cilium_host -m mark --mark 0xa00/0xfffffeff -m comment --comment "cilium" -j CT --notrack
*mangle
PREROUTING -m comment --comment "cilium-feeder: CILIUM_PRE_mangle" -j CILIUM_PRE_mangle
CILIUM_PRE_mangle ! -o lo -m socket --transparent -m comment --comment "cilium" -j MARK --set-xmark 0x200/0xffffffff
CILIUM_PRE_mangle -p tcp -m mark --mark 0x3920200 \
-j TPROXY --on-port 37433 --on-ip 127.0.0.1 --tproxy-mark 0x200/0xffffffff
*nat
PREROUTING -m comment --comment "cilium-feeder: CILIUM_PRE_nat" -j CILIUM_PRE_nat
OUTPUT -m comment --comment "cilium-feeder: CILIUM_OUTPUT_nat" -j CILIUM_OUTPUT_nat
POSTROUTING -m comment --comment "cilium-feeder: CILIUM_POST_nat" -j CILIUM_POST_nat
CILIUM_POST_nat -s 10.244.1.0/24 ! -d 10.244.1.0/24 ! -o cilium_+ -m comment --comment "cilium" -j MASQUERADE
CILIUM_POST_nat -m mark --mark 0xa00/0xe00 -m comment --comment "exclude proxy return traffic from masquerade" -j ACCEPT
CILIUM_POST_nat -s 127.0.0.1/32 -o cilium_host -m comment --comment "cilium" -j SNAT --to-source 10.244.1.1
CILIUM_POST_nat -o cilium_host -m mark --mark 0xf00/0xf00 -m conntrack --ctstate DNAT -j SNAT --to-source 10.244.1.1
*filter
INPUT -m comment --comment "cilium-feeder: CILIUM_INPUT" -j CILIUM_INPUT
FORWARD -m comment --comment "cilium-feeder: CILIUM_FORWARD" -j CILIUM_FORWARD
OUTPUT -m comment --comment "cilium-feeder: CILIUM_OUTPUT" -j CILIUM_OUTPUT
CILIUM_INPUT -m mark --mark 0x200/0xf00 -m comment --comment "cilium: ACCEPT for proxy traffic" -j ACCEPT
CILIUM_FORWARD -o cilium_host -m comment --comment "cilium: any->cluster on cilium_host forward accept" -j ACCEPT
CILIUM_FORWARD -i cilium_host -m comment --comment "cilium" -j ACCEPT
CILIUM_FORWARD -i lxc+ -m comment --comment "cilium: cluster->any on lxc+ forward accept" -j ACCEPT
CILIUM_FORWARD -i cilium_net -m comment --comment "cilium" -j ACCEPT
CILIUM_OUTPUT -m mark --mark 0xa00/0xfffffeff -m comment --comment "cilium: ACCEPT for proxy return traffic" -j ACCEPT
CILIUM_OUTPUT -m mark ! --mark 0xe00/0xf00 -m mark ! --mark 0xd00/0xf00 -m mark ! --mark 0xa00/0xe00 \
-j MARK --set-xmark 0xc00/0xf00
""",
)
AWS = _node(
    ahead="""
*mangle
PREROUTING -i eth0 -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
PREROUTING -i vlan+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
""",
    behind="""
*nat
PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0
PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
AWS-CONNMARK-CHAIN-0 -d 10.244.0.0/16 -m comment --comment "AWS CONNMARK CHAIN, VPC CIDR" -j RETURN
AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark 0x80/0x80
AWS-SNAT-CHAIN-0 -d 10.244.0.0/16 -m comment --comment "AWS SNAT CHAIN" -j RETURN
AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS" -m addrtype ! --dst-type LOCAL -j SNAT --to-source 192.168.100.11
""",
)
ROUTER = _node(
    ahead="""
*filter
INPUT -m comment --comment "kube-router netpol - 4IA2OSFRMVNDXBVV" -j KUBE-ROUTER-INPUT
FORWARD -m comment --comment "kube-router netpol - TEMCG2JMHZYE7H7T" -j KUBE-ROUTER-FORWARD
OUTPUT -m comment --comment "kube-router netpol - VEAAIY32XVBHCSCY" -j KUBE-ROUTER-OUTPUT
KUBE-ROUTER-INPUT -d 10.96.0.0/16 -m comment --comment "allow traffic to primary/secondary cluster IP range" -j RETURN
KUBE-ROUTER-INPUT -p tcp -m addrtype --dst-type LOCAL -m multiport --dports 30000:32767 -j RETURN
KUBE-ROUTER-INPUT -d 10.244.1.7/32 -m comment --comment "rule" -j KUBE-POD-FW-AAAAAAAAAAAAAAAA
KUBE-ROUTER-FORWARD -d 10.244.1.7/32 -m comment --comment "rule" -j KUBE-POD-FW-AAAAAAAAAAAAAAAA
KUBE-ROUTER-FORWARD -d 10.244.1.7/32 -m physdev --physdev-is-bridged -j KUBE-POD-FW-AAAAAAAAAAAAAAAA
KUBE-ROUTER-FORWARD -m comment --comment "rule" -m mark --mark 0x20000/0x20000 -j ACCEPT
KUBE-ROUTER-OUTPUT -d 10.244.1.7/32 -m comment --comment "rule" -j KUBE-POD-FW-AAAAAAAAAAAAAAAA
KUBE-POD-FW-AAAAAAAAAAAAAAAA -m comment --comment "rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
KUBE-POD-FW-AAAAAAAAAAAAAAAA -d 10.244.1.7/32 -m comment --comment "rule" -m addrtype --src-type LOCAL -j ACCEPT
KUBE-POD-FW-AAAAAAAAAAAAAAAA -d 10.244.1.7/32 -j KUBE-NWPLCY-CCCCCCCCCCCCCCCC
KUBE-POD-FW-AAAAAAAAAAAAAAAA -m mark ! --mark 0x10000/0x10000 -m limit --limit 10/min --limit-burst 10 \
-j NFLOG --nflog-group 100
KUBE-POD-FW-AAAAAAAAAAAAAAAA -m mark ! --mark 0x10000/0x10000 -j REJECT --reject-with icmp-port-unreachable
KUBE-POD-FW-AAAAAAAAAAAAAAAA -j MARK --set-xmark 0x0/0x10000
KUBE-POD-FW-AAAAAAAAAAAAAAAA -j MARK --set-xmark 0x20000/0x20000
KUBE-NWPLCY-CCCCCCCCCCCCCCCC -p tcp -m set --match-set KUBE-SRC-ABC src -m set --match-set KUBE-DST-DEF dst \
-m tcp --dport 8080 -j MARK --set-xmark 0x10000/0x10000
KUBE-NWPLCY-CCCCCCCCCCCCCCCC -p tcp -m set --match-set KUBE-SRC-ABC src -m set --match-set KUBE-DST-DEF dst \
-m tcp --dport 8080 -m mark --mark 0x10000/0x10000 -j RETURN
""",
)
DOCKER = _node(
    behind="""
*nat
PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
DOCKER -i docker0 -j RETURN
*filter
FORWARD -j DOCKER-USER
FORWARD -j DOCKER-ISOLATION-STAGE-1
FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
FORWARD -o docker0 -j DOCKER
FORWARD -i docker0 ! -o docker0 -j ACCEPT
FORWARD -i docker0 -o docker0 -j ACCEPT
DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
DOCKER-ISOLATION-STAGE-1 -j RETURN
DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
DOCKER-ISOLATION-STAGE-2 -j RETURN
DOCKER-USER -j RETURN
""",
    drops=("FORWARD",),
)
UFW = _node(
    ahead="""
*filter
INPUT -j ufw-before-input
FORWARD -j ufw-before-forward
OUTPUT -j ufw-before-output
ufw-before-input -i lo -j ACCEPT
ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
ufw-before-input -m conntrack --ctstate INVALID -j DROP
ufw-before-input -j ufw-not-local
ufw-before-input -j ufw-user-input
ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN
ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
ufw-not-local -j DROP
ufw-logging-deny -m conntrack --ctstate INVALID -m limit --limit 3/min --limit-burst 10 -j RETURN
ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
ufw-before-forward -j ufw-user-forward
ufw-before-output -o lo -j ACCEPT
ufw-before-output -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
ufw-before-output -j ufw-user-output
""",
    drops=(
        "FORWARD",
        "INPUT",
    ),
)
FIREWALLD = _node(
    ahead="""
*mangle
PREROUTING -j PREROUTING_direct
PREROUTING -j PREROUTING_ZONES
PREROUTING_ZONES -i eth0 -g PRE_public
PREROUTING_ZONES -g PRE_public
PRE_public -j PRE_public_allow
*nat
PREROUTING -j PREROUTING_ZONES
PREROUTING_ZONES -i eth0 -g PRE_public
PREROUTING_ZONES -g PRE_public
PRE_public -j PRE_public_allow
POSTROUTING -j POSTROUTING_ZONES
POSTROUTING_ZONES -o eth0 -g POST_public
POSTROUTING_ZONES -g POST_public
POST_public -j POST_public_allow
*filter
INPUT -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
INPUT -i lo -j ACCEPT
INPUT -j INPUT_ZONES
INPUT -m conntrack --ctstate INVALID -j DROP
INPUT -j REJECT --reject-with icmp-host-prohibited
FORWARD -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
FORWARD -i lo -j ACCEPT
FORWARD -j FORWARD_IN_ZONES
FORWARD -j FORWARD_OUT_ZONES
FORWARD -m conntrack --ctstate INVALID -j DROP
FORWARD -j REJECT --reject-with icmp-host-prohibited
INPUT_ZONES -i eth0 -g IN_public
INPUT_ZONES -g IN_public
IN_public -j IN_public_allow
IN_public_allow -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT
FORWARD_IN_ZONES -i eth0 -g FWDI_public
FORWARD_IN_ZONES -g FWDI_public
FWDI_public -j FWDI_public_allow
FORWARD_OUT_ZONES -o eth0 -g FWDO_public
FORWARD_OUT_ZONES -g FWDO_public
FWDO_public -j FWDO_public_allow
""",
)
