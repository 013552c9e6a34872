"""How a scenario runs the proxy: its flags, its configuration file, its kubeconfig.

Usually the proxy gets the flags that the recorded one had, ``flags`` more and ``drop_flags`` fewer. ``bare_flags`` are
all it gets, besides what it needs to reach the API server and to know its name. ``config`` is a
KubeProxyConfiguration, a mapping or text, whose kubeconfig is ours unless it names one that exists. ``kubeconfig`` is
text, a mapping merged into the usual one (parts of a user or a cluster are put where they belong), or one of the words
of ``_CREDENTIALS``. ``$SCRATCH`` in flags and files is the scenario's own directory.
The mode of the run is one more flag, or a line of the file, unless the scenario says another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from tests.conformance.modes import IPTABLES

Json = dict[str, Any]
_FLAGS = (
    "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
    "--healthz-bind-address=0.0.0.0:10256",
    "--metrics-bind-address=127.0.0.1:10249",
    "--conntrack-max-per-core=0",
    "--conntrack-tcp-timeout-established=0",
    "--conntrack-tcp-timeout-close-wait=0",
    "--iptables-min-sync-period=200ms",
    "--oom-score-adj=0",
    "-v=2",
)
_ACCESS = ("--kubeconfig", "--master", "--config", "--manifests")  # any of these says where the cluster is
_USER_KEYS = {"token", "tokenFile", "exec", "auth-provider", "username", "password"}
_CLUSTER_KEYS = {"server", "certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify"}
_PLUGIN = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "by-plugin"}}
_CREDENTIALS: Mapping[str, Json] = {
    "token": {"token": "a-token"},
    "token-file": {"tokenFile": "$SCRATCH/token"},
    "exec": {
        "exec": {
            "apiVersion": _PLUGIN["apiVersion"],
            "command": "/bin/echo",
            "args": [json.dumps(_PLUGIN)],
            "interactiveMode": "Never",
        }
    },
}


class UnknownWord(Exception):
    """A kubeconfig is asked for by a word that says nothing here."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One way to run the proxy; see above."""

    flags: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    bare: tuple[str, ...] | None = None
    config: str | Json | None = None
    kubeconfig: str | Json | None = None

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Self:
        """What a scenario, or a step of it, says."""
        bare = asked.get("bare_flags")
        return cls(
            tuple(map(str, asked.get("flags") or ())),
            tuple(asked.get("drop_flags") or ()),
            None if bare is None else tuple(map(str, bare)),
            asked.get("config"),
            asked.get("kubeconfig"),
        )

    def with_more(self, step: Mapping[str, Any]) -> Launch:
        """The same with what a step changes."""
        other = Launch.of(step)
        return Launch(
            (*self.flags, *other.flags),
            (*self.dropped, *other.dropped),
            self.bare if other.bare is None else other.bare,
            self.config if other.config is None else other.config,
            self.kubeconfig if other.kubeconfig is None else other.kubeconfig,
        )

    def arguments(self, node: str, variant: str, usual: Path, scratch: Path, mode: str = IPTABLES) -> list[str]:
        """Write what must be written into ``scratch`` and return the flags; ``usual`` is the kubeconfig."""
        kubeconfig = self._write_kubeconfig(usual, scratch)
        own = list(self.bare if self.bare is not None else _FLAGS)
        names = {_name(flag) for flag in (*own, *self.flags)} - set(self.dropped)
        own = [flag for flag in own if _name(flag) not in self.dropped]
        if self.config is not None:
            own.append(f"--config={self._write_config(kubeconfig, scratch, mode)}")
        # With a file the flag would be ignored, so the file says it.
        elif not names & set(_ACCESS):
            own.append(f"--kubeconfig={kubeconfig}")
        asked = [("--hostname-override", node), ("--iptables-backend", variant)]
        if mode != IPTABLES and self.config is None:
            asked.append(("--proxy-mode", mode))
        for name, value in asked:
            if name not in names and name not in self.dropped:
                own.append(f"{name}={value}")
        return [flag.replace("$SCRATCH", str(scratch)) for flag in (*own, *self.flags)]

    def _write_kubeconfig(self, usual: Path, scratch: Path) -> Path:
        asked = self.kubeconfig
        if asked is None:
            return usual
        path = scratch / "kubeconfig"
        document = yaml.safe_load(usual.read_text(encoding="utf-8"))
        if isinstance(asked, str) and asked not in _CREDENTIALS:
            if not asked.strip().count(" ") and "\n" not in asked.strip():
                raise UnknownWord(f"kubeconfig {asked}")
            server = document["clusters"][0]["cluster"]["server"]
            text = asked.replace("$SERVER", server)
        else:
            _merge_access(document, _CREDENTIALS[asked] if isinstance(asked, str) else asked)
            text = yaml.safe_dump(document, sort_keys=False)
        (scratch / "token").write_text("a-token-of-a-file\n", encoding="utf-8")
        path.write_text(text.replace("$SCRATCH", str(scratch)), encoding="utf-8")
        return path

    def _write_config(self, kubeconfig: Path, scratch: Path, mode: str) -> Path:
        path = scratch / "config.yaml"
        if isinstance(self.config, str):
            text = _with_mode(_with_kubeconfig(self.config, kubeconfig), mode)
        else:
            document: Json = {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                **({"mode": mode} if mode != IPTABLES else {}),
                **(self.config or {}),
            }
            text = _with_kubeconfig(yaml.safe_dump(document, sort_keys=False), kubeconfig)
        path.write_text(text.replace("$SCRATCH", str(scratch)), encoding="utf-8")
        return path


def _name(flag: str) -> str:
    return flag.partition("=")[0].replace("_", "-")


def _with_kubeconfig(text: str, kubeconfig: Path) -> str:
    """The text of a configuration, edited as little as possible: mistakes in it are what a scenario may be about."""
    found = re.search(r"""^(\s+["']?kubeconfig["']?:\s*)(\S*).*$""", text, re.MULTILINE)
    if found:
        named = found[2].strip("\"',")
        if named and Path(named).exists():
            return text
        return f"{text[: found.start()]}{found[1].rstrip()} {kubeconfig}{text[found.end() :]}"
    if text.lstrip().startswith("{"):
        document = json.loads(text)
        document.setdefault("clientConnection", {})["kubeconfig"] = str(kubeconfig)
        return json.dumps(document)
    inline = re.search(r"^clientConnection:[ ]*(?:\{(.*)\}|null)[ ]*$", text, re.MULTILINE)
    if inline:
        rest = f", {inline[1]}" if (inline[1] or "").strip() else ""
        return f"{text[: inline.start()]}clientConnection: {{kubeconfig: {kubeconfig}{rest}}}{text[inline.end() :]}"
    block = re.search(r"^clientConnection:[ ]*$(?:\n(?P<indent>[ ]+))?", text, re.MULTILINE)
    if block:
        indent = block["indent"] or "  "
        at = block.start() + len("clientConnection:")
        return f"{text[:at]}\n{indent}kubeconfig: {kubeconfig}{text[at:]}"
    return f"{text.rstrip()}\nclientConnection:\n  kubeconfig: {kubeconfig}\n"


def _with_mode(text: str, mode: str) -> str:
    """The same in this mode, unless it names one."""
    is_said = mode == IPTABLES or re.search(r"""^["'{]*mode["']?:""", text, re.MULTILINE)
    return text if is_said else f"{text.rstrip()}\nmode: {mode}\n"


def _merge_access(document: Json, asked: Mapping[str, Any]) -> None:
    for key, value in asked.items():
        if key in _USER_KEYS or key.startswith("client-"):
            document["users"][0].setdefault("user", {})[key] = value
        elif key in _CLUSTER_KEYS or key.startswith(("tls-", "proxy-")):
            document["clusters"][0]["cluster"][key] = value
        else:
            document[key] = value


def shared(scenario: Mapping[str, Any], keys: Sequence[str] = ("flags", "drop_flags", "bare_flags")) -> bool:
    """Whether a scenario runs the proxy as most do."""
    return not any(scenario.get(key) for key in (*keys, "config", "kubeconfig"))
