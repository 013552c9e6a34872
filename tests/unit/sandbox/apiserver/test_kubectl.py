"""An ordinary kubectl against the server: what a person types while exploring the sandbox."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kproxy.sandbox.apiserver import ApiServer, TlsFiles

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")

_WEB = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30123}]
"""


class Kubectl:
    """kubectl with a home of its own, so that neither caches nor configuration of the machine matter."""

    def __init__(self, home: Path, config: Path) -> None:
        self.home = home
        self.config = config

    async def start(self, *arguments: str, editor: str = "false") -> asyncio.subprocess.Process:
        environment = {"HOME": str(self.home), "KUBECONFIG": str(self.config), "EDITOR": editor}
        return await asyncio.create_subprocess_exec(
            "kubectl",
            *arguments,
            env=environment | {"PATH": os.environ["PATH"]},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def attempt(self, *arguments: str, stdin: str = "", editor: str = "false") -> tuple[int, str]:
        process = await self.start(*arguments, editor=editor)
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin.encode())
        return process.returncode or 0, (out + err).decode()

    async def __call__(self, *arguments: str, stdin: str = "", editor: str = "false") -> str:
        code, text = await self.attempt(*arguments, stdin=stdin, editor=editor)
        assert code == 0, text
        return text


@pytest.fixture
async def kubectl(server: ApiServer, tmp_path: Path) -> Kubectl:
    return Kubectl(tmp_path, server.kubeconfig(tmp_path / "config"))


async def test_apply_get_edit_patch_label_delete(server: ApiServer, kubectl: Kubectl) -> None:
    assert await kubectl("apply", "-f", "-", stdin=_WEB) == "service/web created\n"
    assert await kubectl("apply", "-f", "-", stdin=_WEB) == "service/web unchanged\n"
    changed = _WEB.replace("port: 80,", "port: 81,")
    assert await kubectl("apply", "-f", "-", stdin=changed) == "service/web configured\n"
    row = (await kubectl("get", "svc", "web", "--no-headers")).split()
    assert row[:2] + row[3:5] == ["web", "NodePort", "<none>", "81:30123/TCP"]
    editor = "sed -i s/8080/9090/"
    assert await kubectl("edit", "svc", "web", editor=editor) == "service/web edited\n"
    assert server.get("svc", "web")["spec"]["ports"][0]["targetPort"] == 9090
    await kubectl("patch", "svc", "web", "-p", '{"spec":{"sessionAffinity":"ClientIP"}}')
    await kubectl("label", "svc", "web", "tier=front")
    assert server.get("svc", "web")["metadata"]["labels"] == {"tier": "front"}
    assert "10800" in await kubectl("get", "svc", "web", "-o", "yaml")
    assert await kubectl("delete", "svc", "web") == 'service "web" deleted\n'


async def test_a_taken_node_port_reads_as_it_always_does(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=_WEB)
    code, text = await kubectl.attempt("apply", "-f", "-", stdin=_WEB.replace("name: web", "name: second"))
    assert code == 1, text
    assert text == (
        'The Service "second" is invalid: spec.ports[0].nodePort: Invalid value: 30123:'
        " provided port is already allocated\n"
    )


async def test_a_misspelt_field_is_refused(kubectl: Kubectl) -> None:
    code, text = await kubectl.attempt("apply", "-f", "-", stdin=_WEB.replace("targetPort", "targetport"))
    assert code == 1, text
    assert 'strict decoding error: unknown field "spec.ports[0].targetport"' in text


async def test_create_expose_scale_and_describe(server: ApiServer, kubectl: Kubectl) -> None:
    await kubectl("create", "deployment", "nginx", "--image=nginx", "--port=80")
    await kubectl("expose", "deployment", "nginx", "--name=nginx-service", "--port=88", "--target-port=80")
    await kubectl("scale", "deployment", "nginx", "--replicas=3")
    assert server.get("Deployment", "nginx")["spec"]["replicas"] == 3
    server.create(
        {
            "kind": "Pod",
            "metadata": {"name": "p", "labels": {"app": "nginx"}},
            "status": {"podIP": "10.1.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        }
    )
    server.settle()
    described = await kubectl("describe", "svc", "nginx-service")
    assert "10.1.0.1:80" in described
    assert "Internal Traffic Policy:  Cluster" in described
    listed = await kubectl("get", "all,endpoints,endpointslices", "-A", "-o", "wide")
    assert "endpoints/nginx-service   10.1.0.1:80" in listed


async def test_apply_server_side_diff_and_explain(kubectl: Kubectl) -> None:
    assert await kubectl("apply", "--server-side", "-f", "-", stdin=_WEB) == "service/web serverside-applied\n"
    code, text = await kubectl.attempt("diff", "--server-side", "-f", "-", stdin=_WEB.replace("port: 80,", "port: 82,"))
    assert code == 1, text
    assert "+    port: 82" in text
    assert "trafficDistribution" in await kubectl("explain", "service.spec")


async def test_watch_prints_changes(server: ApiServer, kubectl: Kubectl) -> None:
    process = await kubectl.start("get", "svc", "--watch", "--no-headers")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert (await process.stdout.readline()).split()[0] == b"kubernetes"
            await server.wait_for_request(lambda request: request.is_watch)
            server.create({"kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}})
            assert (await process.stdout.readline()).split()[0] == b"x"
    finally:
        process.kill()
        await process.wait()


async def test_credentials_are_demanded(tls: TlsFiles, tmp_path: Path) -> None:
    # Without the certificate, so that the token decides; kubectl sends tokens over TLS only.
    tls = replace(tls, client_ca=None, client_certificate=None, client_key=None)
    async with ApiServer(token="secret", tls=tls) as server:
        kubectl = Kubectl(tmp_path, server.kubeconfig(tmp_path / "config"))
        assert "10.96.0.1" in await kubectl("get", "svc")
        server.token = "rotated"
        code, text = await kubectl.attempt("get", "svc")
    assert code == 1, text
    assert "Unauthorized" in text or "logged in" in text
