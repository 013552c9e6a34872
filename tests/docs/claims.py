"""Who executes which command of the documents, and as what: the table that a new command has to join.

A claim fits by the command's text, not by its page, because text moves between pages; `*` stands for anything. Each
command has exactly one claim and each claim a command (test_commands.py), so neither can drift away from the other.
What is typed is what is shown, but for ``places`` (what a reader fills in) and ``more`` (flags that make it short).
``why`` says what is not done here and who does it. Rejected: to list commands by page and line, which every edit of a
page breaks; to guess the way from the program's name, which hides what is not executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from tests.docs.commands import Command, shown

DUMP = "deploy/examples/kube-proxy.dump"
CONFIG = "/var/lib/kube-proxy/config.conf"


class Way(Enum):
    HERE = "it is what runs this test"
    CHECKOUT = "in a copy of the checkout (test_checkout.py)"
    INSTALL = "in a copy of the checkout, with an /opt and a /usr/local of its own (test_install.py)"
    SANDBOX = "it makes the cluster in which others are typed (test_node.py)"
    NODE = "on node-1 of the sandbox, where kproxy runs (test_node.py)"
    DAEMON = "on node-2 of the sandbox, until it is ready and told to end (test_node.py)"
    TRACE = "on a node between a client and endpoints, while packets pass (test_trace.py)"
    CLUSTER = "at an API server without kubelets, in the page's order (test_cluster.py)"
    SYMPTOM = "in the state of which its page tells (tests/e2e/test_symptoms.py)"
    NOT_HERE = "it cannot be, or not in every run"


@dataclass(frozen=True)
class Claim:
    pattern: str
    way: Way
    places: Mapping[str, str] = field(default_factory=dict)  # what a reader fills in
    more: str = ""  # typed behind it
    before: str = ""  # shell, typed before it
    status: int = 0
    host: str = ""  # instead of node-1, or of the control plane for kubectl
    typist: str = "sh"  # the shell
    is_last: bool = False  # it changes what others look at
    anybody: bool = False  # typed without any capability, as what is shown behind `$` always is
    varies: tuple[str, ...] = ()  # patterns of what differs from run to run in its output
    why: str = ""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(".*".join(map(re.escape, self.pattern.split("*"))))

    def fits(self, command: Command) -> bool:
        return self._pattern.fullmatch(command.first) is not None

    def typed(self, command: Command) -> str:
        text = command.text
        for place, filled in self.places.items():
            assert place in text, f"{command}: has no {place}"
            text = text.replace(place, filled)
        return text + self.more


# What a command of this page prints depends on what its section tells, so its test has the page and types all of it.
PAGES = {"deploy/TROUBLESHOOTING.md": Claim("*", Way.SYMPTOM)}


def claims_on(command: Command) -> list[Claim]:
    if not command.is_inline and command.document in PAGES:
        return [PAGES[command.document]]
    return [each for each in CLAIMS if each.fits(command)]


def typed(way: Way) -> list[tuple[Command, Claim]]:
    """What is executed in one way: each text once, wherever it is shown, and where its output is shown if it is."""
    found: dict[str, tuple[Command, Claim]] = {}
    for command in shown():
        for claim in claims_on(command)[:1]:
            if claim.way is way and (command.first not in found or command.printed):
                found[command.first] = (command, claim)
    return list(found.values())


_LONG = "minutes: the command line is read, and its parts are run by "
CLAIMS = (
    # The tasks
    Claim("./run", Way.CHECKOUT),
    # Chance says which pods answer; a pipe is wider than the page.
    Claim("./run demo", Way.CHECKOUT,
          varies=(r"(?:\d+ [a-z]+-\d+ *)+", r"(?<=as )([\w-]+), .*", r"[\d.]+ s$", r" +")),
    Claim("./run test", Way.HERE),
    # The linters are stand-ins there: `./run test` began with the real ones.
    Claim("./run lint", Way.CHECKOUT),
    Claim("./run test tests/unit/plan -x", Way.CHECKOUT, more=" --collect-only"),
    Claim("KPROXY_GOLDEN=1 ./run test tests/test_scenarios.py", Way.CHECKOUT, more=" -k node-port"),
    Claim("./run lock", Way.NOT_HERE, why="asks a registry for versions; it would change the lock files"),
    Claim("./run image", Way.CHECKOUT, more=" --help", why="takes minutes and installs buildah: ./run image --test"),
    Claim("./run image --test", Way.CHECKOUT, more=" --help", why="it is a test itself"),
    Claim("./run image --arch arm64", Way.CHECKOUT, more=" --help", why="half an hour of QEMU"),
    Claim("./run version", Way.CHECKOUT),
    Claim("./run version X.Y.Z", Way.CHECKOUT, {"X.Y.Z": "0.1.0"}),
    Claim("./run release", Way.CHECKOUT, more=" --help", why=_LONG + "tests/release"),
    Claim("./run release --dry-run", Way.CHECKOUT, more=" --help", why=_LONG + "tests/release"),
    Claim("./run conformance", Way.CHECKOUT, more=" --help", why=_LONG + "tests/netns/test_conformance.py"),
    Claim("./run conformance --row *", Way.CHECKOUT, more=" --help", why=_LONG + "tests/netns/test_conformance.py"),
    Claim("./run kproxy explain …", Way.CHECKOUT, {"…": DUMP}, anybody=True),
    # Benchmarks: the least that each can do where that is quick
    Claim("./run bench fuzz", Way.CHECKOUT, more=" --examples 1 --variant nft --output out.json"),
    Claim("./run bench fuzz --examples *", Way.CHECKOUT, more=" --help", why="an hour; one example is above"),
    Claim("./run bench differential", Way.CHECKOUT, more=" --clusters 1 --packets 2 --variant nft --output out.json"),
    Claim("./run bench dump", Way.CHECKOUT, more=" --endpoints 33 --runs 1 --output out.json"),
    Claim("./run bench sync*", Way.CHECKOUT, more=" --help", why="17 s at the least"),
    Claim("./run bench packets*", Way.CHECKOUT, more=" --help", why="7 s at the least"),
    Claim("./run bench accounting", Way.CHECKOUT, more=" --help", why="7 s at the least"),
    Claim("./run bench leak", Way.CHECKOUT, more=" --help", why="8 s at the least"),
    Claim("./run bench relay*", Way.CHECKOUT, more=" --help", why="needs HAProxy, nginx and socat; two minutes"),
    Claim("PATH=/usr/bin:$PATH ./run bench relay", Way.NOT_HERE, why="makes .venv anew, with another Python"),
    # Dumps, by anybody
    Claim(f"kproxy explain {DUMP}", Way.CHECKOUT, more=" --width 110", anybody=True),
    Claim(f"kproxy explain {DUMP} --from 198.*", Way.CHECKOUT, more=" --width 110", anybody=True),
    Claim(f"kproxy explain {DUMP} --from 10.*", Way.CHECKOUT, more=" --width 110", anybody=True, status=2),
    Claim("kproxy explain diff *", Way.CHECKOUT, more=" --width 110", anybody=True, status=1,
          before=f"sed s/10.244.2.10/10.244.2.11/g {DUMP} > after.dump"),
    Claim("kproxy explain DUMP [--from IP --to IP:PORT/PROTO]", Way.CHECKOUT, anybody=True,
          places={"DUMP": DUMP, "[--from IP --to IP:PORT/PROTO]": "--from 198.51.100.7 --to 203.0.113.10:80/tcp"}),
    Claim("kproxy explain", Way.CHECKOUT, before=f"exec < {DUMP}", more=" -", anybody=True),
    Claim("kproxy plan", Way.CHECKOUT, more=" -f tests/scenarios/node-port/cluster.yaml", anybody=True),
    Claim("kproxy plan -f PATH", Way.CHECKOUT, {"PATH": "tests/scenarios/node-port/cluster.yaml"}, anybody=True),
    Claim("kproxy --version", Way.CHECKOUT, anybody=True),
    Claim("kproxy config", Way.CHECKOUT, anybody=True),
    Claim("iptables-save -c | kproxy explain - --redact --from IP --to IP:PORT", Way.NODE,
          places={"from IP": "from 10.244.1.2", "to IP:PORT": "to 10.96.0.1:443"}),
    Claim("kproxy completion bash|zsh|fish", Way.CHECKOUT, {"bash|zsh|fish": "zsh"}, anybody=True),
    Claim("source <(kproxy completion bash)*", Way.CHECKOUT, typist="bash", anybody=True),
    Claim("source <(kproxy completion zsh)*", Way.CHECKOUT, typist="zsh", anybody=True,
          before="autoload -U compinit; compinit -u"),
    Claim("*kproxy completion fish >*", Way.CHECKOUT, before="export HOME=$PWD", anybody=True),
    Claim("kproxy man", Way.CHECKOUT, anybody=True),
    Claim("kproxy man | man -l -", Way.CHECKOUT, anybody=True),
    # Installation
    Claim("*kproxy man > /usr/local/share/man/man1/kproxy.1", Way.INSTALL),
    Claim("python3 -m venv /opt/kproxy", Way.INSTALL),
    Claim("/opt/kproxy/bin/pip install *", Way.INSTALL),
    Claim("pip install --require-hashes -r kproxy-*.lock", Way.NOT_HERE, why="./run release --test does it"),
    Claim("ln -s /opt/kproxy/bin/kproxy /usr/local/bin/kproxy", Way.INSTALL),
    # A node
    Claim("./run sandbox", Way.SANDBOX),
    Claim("kproxy sandbox", Way.CHECKOUT, more=" --help", why="./run sandbox and ./run demo are this with a flag"),
    # Each line is there with its label and each warning word for word; what the columns hold is the node's.
    Claim("kproxy status", Way.NODE, anybody=True, varies=(r" on \S+: ", r"(?<=\S)  +\S.*$", r"\n {16,}.*")),
    Claim("kubectl -n kube-system exec POD -- kproxy status", Way.NODE, {"kubectl -n kube-system exec POD -- ": ""},
          anybody=True, why="kubectl exec needs a kubelet"),
    Claim("kproxy config --config FILE", Way.NODE, {"FILE": CONFIG}, anybody=True),
    Claim("kproxy check", Way.NODE),
    Claim("kproxy check --config=*", Way.NODE),
    Claim("kproxy explain live", Way.NODE),
    Claim("(iptables-save -c; ip6tables-save -c; iptables-legacy-save -c) | kproxy explain -", Way.NODE),
    Claim("iptables-restore --test", Way.NODE, before="exec < deploy/examples/kube-proxy.dump"),
    Claim("iptables-restore --noflush", Way.NODE, more=" --test", before="exec < deploy/examples/kube-proxy.dump"),
    Claim("nft list ruleset", Way.NODE),
    Claim("ip link set veth2 type bridge_slave hairpin on", Way.NODE),
    Claim("nft flush ruleset", Way.NODE, host="node-2"),
    Claim("conntrack -L", Way.NODE),
    Claim("conntrack -F", Way.NODE),
    Claim("curl -s 127.0.0.1:10249/metrics | grep userspace", Way.NODE),
    Claim("curl http://127.0.0.1:10249/debug/rules", Way.NODE),
    Claim("dig @10.96.0.10", Way.NODE),
    Claim("fuser -v /run/xtables.lock", Way.NODE, before="exec 9> /run/xtables.lock"),
    Claim("curl -k https://ADDRESS/livez", Way.NODE, {"ADDRESS": "127.0.0.1:6444"}),
    Claim("openssl s_client -connect ADDRESS *", Way.NODE, {"ADDRESS": "127.0.0.1:6444"}),
    Claim("kubectl annotate service checkout kproxy.io/mode=userspace", Way.NODE, is_last=True),
    # 1: the annotation of one Service is a mistake there
    Claim("kubectl get services,endpointslices,nodes -A -o yaml | kproxy plan *", Way.NODE, status=1),
    Claim("kubectl get endpointslices -n shop *", Way.NODE),
    Claim("kubectl -n kube-system get pods *", Way.NODE),
    Claim("kubectl get svc,endpointslices,nodes,pods -A -o json", Way.NODE),
    Claim("kubectl describe pod", Way.NODE),
    Claim("kubectl logs -n kube-system ds/kproxy", Way.NOT_HERE, why="needs a kubelet"),
    # The daemon
    Claim("kproxy run", Way.CHECKOUT, more=" --help", why="the others with their flags are below"),
    Claim("kproxy run --*", Way.DAEMON),
    Claim("kproxy --cluster-cidr ... --v=2", Way.DAEMON,
          places={"...": "10.244.0.0/16 --kubeconfig /var/lib/kube-proxy/kubeconfig --hostname-override node-1"}),
    Claim("kproxy cleanup", Way.NODE, host="node-2"),
    Claim("kproxy trace", Way.TRACE, more=" --service shop/web"),
    Claim("kproxy trace --service NAMESPACE/NAME", Way.TRACE, {"NAMESPACE/NAME": "shop/web"}),
    # Either endpoint may be chosen, from any port
    Claim("kproxy trace --service shop/web *", Way.TRACE,
          varies=(r"(?:-m statistic --mode random --probability [\d.]+ )?-j KUBE-SEP-\w{16}", r"KUBE-SEP-\w{16}",
                  r"\d+", r" +")),
    # A cluster, as far as objects go
    Claim("kubectl get daemonset kube-proxy -n kube-system -o yaml > kube-proxy.yaml", Way.CLUSTER),
    Claim("kubectl get configmap kube*", Way.CLUSTER),
    Claim("kubectl delete *", Way.CLUSTER),
    Claim("kubectl apply -f *", Way.CLUSTER),
    Claim("kubectl get pods -n kube-system -o wide -l *", Way.CLUSTER),
    Claim("kubectl rollout undo *", Way.NOT_HERE, why="the controller of DaemonSets keeps the revisions"),
    Claim("kubectl rollout status *", Way.CLUSTER, more=" --watch=false", why="only kubelets can end it"),
    Claim("kubectl label node worker-1 *", Way.CLUSTER),
    Claim("kubectl patch daemonset kube-proxy *", Way.CLUSTER),
    Claim("kubectl apply -k deploy/mine", Way.CLUSTER),
    Claim("kubectl apply -k deploy/k3s", Way.CLUSTER),
    Claim("kubectl apply -k deploy/kind && deploy/kind/smoke.sh", Way.CLUSTER,
          places={"deploy/kind/smoke.sh": "sh -n deploy/kind/smoke.sh"}, why="the script needs pods that run"),
    Claim("kubectl auth can-i watch *", Way.NOT_HERE, why="our API server reviews nobody's access"),
    # What is not here
    Claim("docker buildx build *", Way.NOT_HERE, why="needs Docker; ./run image builds the same Dockerfile"),
    Claim("kind *", Way.NOT_HERE, why="needs kind and Docker"),
    Claim("k3s *", Way.NOT_HERE, why="needs k3s"),
    Claim("ctr *", Way.NOT_HERE, why="needs containerd"),
    Claim("systemctl *", Way.NOT_HERE, why="needs systemd; tests/deploy/test_service.py reads the unit"),
    Claim("crictl *", Way.NOT_HERE, why="needs containerd"),
    Claim("skopeo copy *", Way.NOT_HERE, why="needs a registry"),
    Claim("kubeadm *", Way.NOT_HERE, why="needs kubeadm and kubelets"),
    Claim("promtool test rules alerts.test.yaml", Way.NOT_HERE, why="tests/deploy/test_monitoring.py"),
)  # fmt: skip
