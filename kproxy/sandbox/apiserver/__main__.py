"""Run the API server alone, for exploring with kubectl: `python -m kproxy.sandbox.apiserver --port 8001`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from kproxy.sandbox.apiserver.server import NODE_PORTS, SERVICE_CIDRS, ApiServer


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kproxy.sandbox.apiserver", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8001, help="port to listen on, 0 for any (%(default)s)")
    parser.add_argument(
        "--service-cidr",
        default=",".join(SERVICE_CIDRS),
        help="ranges of cluster IPs, at most one per family, primary first (%(default)s)",
    )
    parser.add_argument("--token", help="bearer token to demand (none)")
    parser.add_argument("--kubeconfig", type=Path, help="write a kubeconfig here")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = ApiServer(
        host=arguments.host,
        port=arguments.port,
        service_cidrs=arguments.service_cidr.split(","),
        node_port_range=NODE_PORTS,
        token=arguments.token,
    )
    async with server:
        if arguments.kubeconfig:
            server.kubeconfig(arguments.kubeconfig)
        sys.stdout.write(f"serving the Kubernetes API on {server.url}; try: kubectl -s {server.url} get svc\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> int:
    """Serve until a signal; returns the exit status."""
    arguments = _arguments()
    try:
        asyncio.run(_serve(arguments))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot serve on {arguments.host}:{arguments.port}: {error}; choose other flags\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
