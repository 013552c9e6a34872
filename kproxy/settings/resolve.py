"""Flags and a configuration file → one Config, where each value comes from, and everything that is wrong.

A flag that kube-proxy has is ignored beside a file, as kube-proxy ignores it, but for the flags of the log,
``--hostname-override`` and ``--master``; flags that are ours win, for a file that kube-proxy's tools wrote cannot hold
our settings, and a DaemonSet that adds one flag to it should get what it asks for. What is ignored is told.

kube-proxy stops at the first bad flag and lists the violations of a file; we list all of both, each with the name it
was given by, the value and what is accepted, because a DaemonSet's way from one mistake to the next takes minutes.

Source: spec: runtime.md 1 and 2, model.md 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from kproxy import gates
from kproxy.config import UNUSED, Config, DetectLocalMode
from kproxy.errors import InvalidConfig
from kproxy.settings.document import Document, tell
from kproxy.settings.kinds import go_duration, read_cidr, read_duration, read_endpoint
from kproxy.settings.table import BY_FLAG, FORGOTTEN, SETTINGS, Setting

PORTS = {"healthz-port": "healthz_bind_address", "metrics-port": "metrics_bind_address"}  # deprecated flags
_UNREADABLE = (ArithmeticError, TypeError, ValueError)
_EMPTY_MEANS_UNSET = {"hostname_override", "healthz_bind_address", "metrics_bind_address"}  # as flags, in kube-proxy
_FOR_IPV6 = {"healthz_bind_address": "[::]:10256", "metrics_bind_address": "[::1]:10249"}


class Origin(NamedTuple):
    """Where a value comes from: ``default``, ``file``, ``flag`` or ``derived``."""

    kind: str
    name: str = ""  # the file, the flag, or from what it was derived

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".strip()


class Remark(NamedTuple):
    """What an operator should know although nothing is wrong: a constant sentence and what varies."""

    message: str
    fields: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.message}: {'; '.join(self.fields.values())}"


class Settings(Struct, frozen=True):
    config: Config
    origins: Mapping[str, Origin]  # by key of a setting; what is missing is a default
    remarks: tuple[Remark, ...] = ()

    def origin(self, setting: Setting) -> Origin:
        return self.origins.get(setting.key, Origin("default"))


def resolve(
    flags: Iterable[tuple[str, str]] = (),
    document: Document | None = None,
    *,
    host: str,
    file: str = "",
    problems: Sequence[str] = (),
) -> Settings:
    """``flags``: name and text, in the order given. ``host``: the host's name. ``file``: where the document is from.

    ``problems``: what the caller has found already. Raises InvalidConfig with everything that is wrong; the remarks are
    its notes.
    """
    resolving = _Resolving(file, problems)
    if document:
        resolving.take_document(document)
    resolving.take_flags(list(flags), beside_file=document is not None)
    return resolving.settle(host)


class _Resolving:
    def __init__(self, file: str, problems: Sequence[str]) -> None:
        self._file = file
        self._wrong = list(problems)
        self._values: dict[str, Any] = {}
        self._origins: dict[str, Origin] = {}
        self._remarks: list[Remark] = []

    # --- what was given ---

    def take_document(self, document: Document) -> None:
        self._wrong += document.problems
        for setting in SETTINGS:
            value = document.values.get(setting.path)
            if value is None or (not setting.pointer and _is_zero(setting, value)):
                continue
            try:
                read = setting.kind.accept(value)
            except _UNREADABLE:
                self._wrong.append(f"{setting.path}: {tell(value)}: give {setting.kind.accepted}")
            else:
                self._set(setting, read, Origin("file", self._file))
        for message, paths in (
            ("Fields of the configuration file that nobody knows are ignored", document.unknown),
            ("Fields stand twice in the configuration file; the last one counts", document.doubled),
        ):
            if paths:
                self._remarks.append(Remark(message, {"file": self._file, "fields": ", ".join(paths)}))

    def take_flags(self, flags: Sequence[tuple[str, str]], *, beside_file: bool) -> None:
        ports = {} if beside_file else self._take_ports(flags)
        ignored = []
        for name, text in flags:
            setting = BY_FLAG.get(name)
            if beside_file and not (setting and setting.wins):
                ignored.append(f"--{name}")
            elif setting and (text or setting.field not in _EMPTY_MEANS_UNSET):
                self._take_flag(setting, text, ports)
        for field, port in ports.items():
            self._use_port(field, port)
        if ignored:
            fields = {"flags": " ".join(dict.fromkeys(ignored)), "file": self._file}
            self._remarks.append(Remark("Flags are ignored because a configuration file is given", fields))

    def _take_flag(self, setting: Setting, text: str, ports: Mapping[str, int]) -> None:
        origin = Origin("flag", f"--{setting.flag}")
        try:
            value = setting.kind.parse(text)
            if port := ports.get(setting.field):
                value = read_endpoint(text, port)
        except _UNREADABLE:
            self._wrong.append(f"--{setting.flag}={text}: give {setting.kind.accepted}")
            return
        earlier = self._values.get(setting.key, ())
        if setting.kind.adds and self._origins.get(setting.key) == origin:
            value = (*earlier, *value)
        elif setting.field == "vmodule" and self._origins.get(setting.key, origin) != origin:
            value = (*value, *earlier)  # of the log's settings this one is joined, the flag's part first
        self._set(setting, value, origin)

    def _take_ports(self, flags: Sequence[tuple[str, str]]) -> dict[str, int]:
        """The deprecated ports, by the field of their address."""
        ports = {}
        for name, text in flags:
            if name in PORTS:
                try:
                    port = int(text)
                except ValueError:
                    port = -1
                if 0 <= port <= 65535:
                    ports[PORTS[name]] = port
                else:
                    self._wrong.append(f"--{name}={text}: give a whole number from 0 to 65535")
        return ports

    def _use_port(self, field: str, port: int) -> None:
        """0 empties the address; any other port has been used, if there was an address that lacked one."""
        flag = next(name for name, each in PORTS.items() if each == field)
        if port == 0:
            self._values[field], self._origins[field] = "", Origin("flag", f"--{flag}")
        elif not str(self._values.get(field, getattr(Config(), field))).endswith(f":{port}"):
            address = f"--{flag.removesuffix('port')}bind-address"
            fields = {"flag": f"--{flag}={port}", "instead": f"give {address} with this port"}
            self._remarks.append(Remark("A deprecated flag changes nothing: the address has a port", fields))

    def _set(self, setting: Setting, value: Any, origin: Origin) -> None:
        self._values[setting.key] = value
        self._origins[setting.key] = origin

    # --- what follows ---

    def settle(self, host: str) -> Settings:
        self._listen_on_ipv6()
        self._read_cidrs()
        self._mark_apart()
        given = self._values
        fields = {key: value for key, value in given.items() if key in Config.__struct_fields__}
        wanted = tuple(sorted(dict(fields.get("feature_gates", ())).items()))  # of one name the last counts
        name = fields.get("hostname_override", host)
        config = Config(
            **fields | {"feature_gates": wanted},
            hostname=name.strip().lower(),
            allow_external_ips=gates.is_enabled(gates.EXTERNAL_IPS, wanted),
            unused=tuple(
                (path, given[path])
                for path in UNUSED
                if path not in FORGOTTEN and given.get(path, UNUSED[path]) != UNUSED[path]
            ),
        )
        self._origins["hostname"] = self._origins.get("hostname_override", Origin("derived", "the host's name"))
        self._check_gates(config)
        self._check(config)
        self._remark_on_unused(config)
        if self._wrong:
            invalid = InvalidConfig(*self._wrong)
            for remark in self._remarks:
                invalid.add_note(str(remark))
            raise invalid
        return Settings(config, dict(self._origins), tuple(self._remarks))

    def _listen_on_ipv6(self) -> None:
        """A file's IPv6 bindAddress moves the servers' default addresses; kube-proxy's flag does not."""
        if ":" in self._values.get("bind_address", "") and self._origins["bind_address"].kind == "file":
            for field, address in _FOR_IPV6.items():
                if field not in self._values:
                    self._values[field], self._origins[field] = address, Origin("derived", "bindAddress")

    def _mark_apart(self) -> None:
        """The relay's mark makes way for a masqueradeBit that kube-proxy would accept: its file must start kproxy."""
        usual = Config()
        if self._values.get("iptables_masquerade_bit") == usual.relay_mark_bit and "relay_mark_bit" not in self._values:
            self._values["relay_mark_bit"] = usual.relay_mark_bit - 1
            self._origins["relay_mark_bit"] = Origin("derived", "masqueradeBit")

    def _read_cidrs(self) -> None:
        """The pods' ranges must be right where they are used, in mode ClusterCIDR; elsewhere they may be anything."""
        texts = self._values.get("cluster_cidr", ())
        try:
            cidrs = tuple(map(read_cidr, texts))
            right = len(cidrs) < 3 and len({":" in cidr for cidr in cidrs}) == len(cidrs)
        except ValueError:
            cidrs, right = (), False
        if right:
            self._values["cluster_cidr"] = cidrs
        elif self._values.get("detect_local_mode", DetectLocalMode.CLUSTER_CIDR) is DetectLocalMode.CLUSTER_CIDR:
            accepted = "a CIDR such as 10.244.0.0/16, or two separated by a comma, one of each IP family"
            self._wrong.append(f"{self._call('cluster_cidr', ','.join(texts))}: give {accepted}")
        else:
            self._values["cluster_cidr"] = ()
            fields = {"clusterCIDR": ",".join(texts)}
            self._remarks.append(Remark("clusterCIDR is unreadable; this detectLocalMode does not use it", fields))

    def _check_gates(self, config: Config) -> None:
        for name, on, accepted in gates.refusals(config.feature_gates):
            self._wrong.append(f"{self._call('feature_gates')}: {name}={str(on).lower()}: give {accepted}")
        strangers = ", ".join(gates.strangers(config.feature_gates))
        if strangers:
            self._remarks.append(Remark("Feature gates that nobody here knows are ignored", {"gates": strangers}))

    def _check(self, config: Config) -> None:
        """What is wrong between values that are right alone."""
        wrong, call = self._wrong, self._call
        if not config.hostname:
            wrong.append(f"{call('hostname_override')}: it is empty; give the name that `kubectl get nodes` shows")
        if config.iptables_min_sync_period > config.iptables_sync_period:
            shown = go_duration(config.iptables_min_sync_period)
            longest = self._call("iptables_sync_period", go_duration(config.iptables_sync_period))
            wrong.append(f"{call('iptables_min_sync_period', shown)}: give at most {longest}")
        if not config.metrics_bind_address:
            wrong.append("--metrics-port=0: the metrics server cannot be turned off; give a port from 1 to 65535")
        if config.detect_local_mode is DetectLocalMode.BRIDGE_INTERFACE and not config.pod_bridge_interface:
            wrong.append(f"{call('pod_bridge_interface')}: mode BridgeInterface needs the bridge's name; give it")
        if config.detect_local_mode is DetectLocalMode.INTERFACE_NAME_PREFIX and not config.pod_interface_name_prefix:
            wrong.append(f"{call('pod_interface_name_prefix')}: mode InterfaceNamePrefix needs the prefix; give it")
        if config.relay_mark_bit == config.iptables_masquerade_bit:
            call_of = call("relay_mark_bit", str(config.relay_mark_bit))
            wrong.append(f"{call_of}: it is the bit of masquerading; give another one")
        if config.manifests and (config.kubeconfig or config.master):
            wrong.append(f"{call('manifests')}: give either a directory or an API server, not both")
        if config.vmodule and config.logging_format != "text":
            wrong.append(f"{call('vmodule')}: it works in the text format alone; leave it out, or give the format text")
        if not gates.is_enabled(gates.ALPHA_LOGGING, config.feature_gates):
            wrong += [
                f"{call(path)}: it is alpha; leave it out, or set the feature gate {gates.ALPHA_LOGGING}"
                for path, _ in config.unused
                if path.startswith("logging.options.")
            ]

    def _remark_on_unused(self, config: Config) -> None:
        told = [
            self._call(key)
            for key in self._origins
            if key in dict(config.unused) or key in FORGOTTEN or key[:2] == "--"
        ]
        if told:
            fields = {"settings": " ".join(told)}
            self._remarks.append(Remark("Settings of kube-proxy that mean nothing here are ignored", fields))

    def _call(self, key: str, value: str = "") -> str:
        """A setting by the name that the operator gave it by, with its value."""
        setting = next(each for each in SETTINGS if each.key == key)
        origin = self._origins.get(key)
        by_file = origin.kind != "flag" if origin else bool(self._file)
        if by_file and setting.path:
            return f"{setting.path}: {value}" if value else setting.path
        return f"--{setting.flag}={value}" if value else f"--{setting.flag}"


def _is_zero(setting: Setting, value: Any) -> bool:
    """Whether Go could not tell the value from one that is absent."""
    if isinstance(value, str) and setting.kind.show is go_duration:
        try:
            return read_duration(value) == 0
        except _UNREADABLE:
            return value == ""
    return value is False or (not isinstance(value, bool) and value in ("", 0)) or value in ([], {})
