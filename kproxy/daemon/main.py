"""``kproxy run``: find out what this node has, build everything, and let it run until a signal.

All tasks live in one TaskGroup, so none can die unnoticed: one that raises ends the process with a sentence, and the
supervisor starts it anew. The order is kube-proxy's (spec: runtime.md 2) but for the servers, which come first: node
settings, programs, sources, syncs. Nothing is written before the cluster is known, and SIGTERM leaves the rules: a
node keeps serving while its kproxy is replaced (kubernetes/kubernetes#119265).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack

import msgspec

from kproxy import __version__
from kproxy.config import Config
from kproxy.daemon.addresses import LocalAddresses
from kproxy.daemon.choose import choose_variant, find_families
from kproxy.daemon.front import Front
from kproxy.daemon.log import Log, configure
from kproxy.daemon.oddities import refuse
from kproxy.daemon.reload import ConfigFile, watch
from kproxy.daemon.setup import allow_many_files, become_unlikely_victim, prepare, show_flows
from kproxy.daemon.wiring import Daemon
from kproxy.errors import KproxyError
from kproxy.kernel.address import Addresses
from kproxy.kernel.monitor import FlushMonitor
from kproxy.kernel.sysctl import Sysctl
from kproxy.kernel.timeouts import Timeouts
from kproxy.settings.resolve import Remark
from kproxy.source.client import Client

_log = Log(__name__)


def run(
    config: Config, *, remarks: Sequence[Remark] = (), init_only: bool = False, file: ConfigFile | None = None
) -> int:
    """Serve until SIGTERM or SIGINT, or until ``file`` changes. The result is the exit status."""
    configure(config.verbosity, sys.stderr, form=config.logging_format, modules=config.vmodule)
    _log.info("Starting kproxy", version=__version__, node=config.hostname, mode=config.proxy_mode)
    for remark in remarks:
        _log.warning(remark.message, **remark.fields)
    for name, value in msgspec.structs.asdict(config).items():
        _log.verbose(1, "Setting", name=name, value=value)
    try:
        asyncio.run(_until_signalled(config, init_only=init_only, file=file))
    except* KproxyError as group:
        for error in _leaves(group):
            _log.error("Cannot go on; rules in the kernel stay", err=error)
        status = 1
    else:
        status = 0
    return status


def _leaves(group: BaseExceptionGroup[KproxyError]) -> Iterator[KproxyError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _until_signalled(config: Config, *, init_only: bool, file: ConfigFile | None) -> None:
    loop, front = asyncio.get_running_loop(), Front(config)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(_init(config) if init_only else _serve(config, front, file))

        def stop(number: signal.Signals) -> None:
            if not work.cancelling():
                _log.info("Ending on a signal; the rules stay and go on serving", signal=number.name)
                work.cancel()
            elif front.is_relaying():
                _log.info("Not yet: the kernel is about to serve what was relayed", signal=number.name)
            else:  # whoever asks twice does not want to wait; nothing is half done that would matter
                os._exit(128 + number)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)


async def _init(config: Config) -> None:
    """--init-only: what needs full root, so that the daemon itself needs CAP_NET_ADMIN alone."""
    prepare(config, Sysctl(), Timeouts())


async def _serve(config: Config, front: Front, file: ConfigFile | None) -> None:
    async with asyncio.TaskGroup() as group:
        if file:
            group.create_task(watch(file, poll=config.config_poll))
        front.open(group)
        await _work(config, front)


async def _work(config: Config, front: Front) -> None:
    become_unlikely_victim(config.oom_score_adj)
    allow_many_files()
    front.facts["Kernel settings"] = prepare(config, Sysctl(), Timeouts())
    front.more.append(lambda: show_flows(Sysctl()))
    verdict = await choose_variant(config)
    front.facts["Iptables variant"] = f"{verdict.variant.value}: {verdict.why}"
    found = await find_families(config, verdict.variant)
    refuse(config, found)
    async with AsyncExitStack() as stack:
        addresses = LocalAddresses(await stack.enter_async_context(Addresses()), again=config.bind_retry)
        await addresses.refresh()
        client = None if config.manifests else await stack.enter_async_context(Client(config))
        await Daemon(config, front, found, addresses, client).run(
            FlushMonitor(verdict.variant, [door for door, _ in found.values()])
        )
