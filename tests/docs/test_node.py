"""What is typed on a node: in a sandbox that was started as the README says, where kproxy runs on two nodes.

Nothing is written to the machine: /etc and /var/lib of the sandbox are layers of its own over the machine's. What
needs a server besides kproxy (TLS to look at) finds one made by openssl. kproxy on node-2 is ended first, and daemons
are started there as the documents start them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.docs.claims import Claim, Way, typed
from tests.docs.commands import PROGRAMS, Command
from tests.docs.machine import DEADLINE, Answer, Copy, Sandbox, failures

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]
_LAYERS = """
mkdir /run/layers && mount -t tmpfs none /run/layers
for place in /etc /var/lib; do
    mkdir -p /run/layers/upper$place /run/layers/work$place
    mount -t overlay -o lowerdir=$place,upperdir=/run/layers/upper$place,workdir=/run/layers/work$place none $place
done
mkdir -p /var/lib/kube-proxy /etc/kproxy/manifests
cp /run/kproxy/kubeconfig /var/lib/kube-proxy/kubeconfig
cp tests/scenarios/node-port/cluster.yaml /etc/kproxy/manifests
cp config.conf /var/lib/kube-proxy
"""
_CONFIG = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig}
clusterCIDR: 10.244.0.0/16,fd00:10:244::/48
metricsBindAddress: 127.0.0.1:10249
"""
_EXAMPLES = tuple(f"deploy/examples/{name}.yaml" for name in ("01-nginx-service", "03-kube-dns", "10-relayed"))
_OBJECTS = """\
apiVersion: v1
kind: Service
metadata: {name: checkout}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: odd, annotations: {kproxy.io/mode: ipvs}}
spec: {ports: [{port: 80}]}
"""
_TLS = """
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=x -addext subjectAltName=IP:127.0.0.1
openssl s_server -accept 127.0.0.1:6444 -key key.pem -cert cert.pem -www
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(copy: Copy) -> AsyncIterator[Sandbox]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    ((command, claim),) = typed(Way.SANDBOX)
    sandbox = await Sandbox.start(copy, claim.typed(command))
    (copy.path / "config.conf").write_text(_CONFIG, encoding="utf-8")
    (copy.path / "objects.yaml").write_text(_OBJECTS, encoding="utf-8")
    answer = await sandbox.everywhere(_LAYERS)
    assert answer.status == 0, answer
    await sandbox.apply("objects.yaml", *_EXAMPLES)
    relayed = "until curl -s http://127.0.0.1:10249/metrics | grep -q kproxy_userspace_workers; do sleep 0.1; done"
    assert (await sandbox.type("node-1", relayed)).status == 0
    server = await sandbox.start_typing("node-1", _TLS)
    assert server.stdout is not None
    async with asyncio.timeout(DEADLINE):
        while b"ACCEPT" not in await server.stdout.readline():
            assert server.returncode is None
    yield sandbox
    answer = await sandbox.end()
    assert (answer.status, answer.out.strip()) == (0, "stopped; nothing is left behind")


def _programs(script: str) -> list[str]:
    """Those that may be missing; a part of a path is none, such as /var/lib/kube-proxy."""
    return [
        word for word in re.findall(r"(?<![\w/.-])[\w-]+(?![\w/.-])", script) if word in PROGRAMS - {"kproxy", "ip"}
    ]


async def test_they_do_as_they_say(sandbox: Sandbox) -> None:
    async def do(command: Command, claim: Claim) -> Answer | None:
        script = claim.typed(command)
        if not all(map(shutil.which, _programs(script))):
            return None
        anybody = claim.anybody or not (command.is_root or command.is_inline)
        host = claim.host or ("cp" if script.startswith("kubectl") else "node-1")
        return await sandbox.type(host, f"{claim.before}\n{script}", anybody=anybody)

    assert not (found := await failures(Way.NODE, do)), found


async def test_the_check_that_the_sandbox_prints_is_complete(sandbox: Sandbox) -> None:
    (printed,) = (line for line in sandbox.said.splitlines() if " kproxy check " in line)
    answer = await sandbox.type("node-1", printed.partition(" node-1 ")[2])
    assert " service ports" in answer.out, answer


@pytest.mark.parametrize("number", range(len(typed(Way.DAEMON))))
async def test_it_serves_until_it_is_told_to_end(number: int, sandbox: Sandbox) -> None:
    command, claim = typed(Way.DAEMON)[number]
    before = await sandbox.type("node-2", "kproxy status --json")
    if process := json.loads(before.out).get("process"):
        await sandbox.type("node-2", f"kill {process}; while kill -0 {process}; do sleep 0.05; done")
    # As its child the shell can wait for it.
    script = f"{claim.typed(command)} & pid=$!; echo $pid; status=0; wait $pid || status=$?; exit $status"
    daemon = await sandbox.start_typing("node-2", script)
    assert daemon.stdout is not None
    pid = int(await daemon.stdout.readline())
    ready = "until curl -sf http://127.0.0.1:10256/readyz; do kill -0 %d || exit 9; sleep 0.05; done"
    answer = await sandbox.type("node-2", ready % pid)
    await sandbox.type("node-2", f"kill -{signal.SIGTERM.value} {pid}")
    async with asyncio.timeout(DEADLINE):
        _, said = await daemon.communicate()
    assert (answer.status, daemon.returncode) == (0, 0), said.decode()
