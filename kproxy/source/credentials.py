"""Where the API server is, and what we show it: resolved by the ``kubernetes`` package, in a child process.

The package knows kubeconfigs, exec plugins, OIDC and in-cluster accounts, and we do not want to know them again. But
importing it costs half a second to two seconds and 35 to 60 MB that never go away, its exec plugins have no deadline,
and its loader logs a plugin's failure and goes on without credentials (as its 36.0.0 went on without a header). So a
child resolves, prints one JSON value and ends; the parent kills it and the plugin at a deadline; and a user entry that
gave nothing is an error here. Nothing of the package is used after that: requests are ``client.py``'s.

Run as ``python -m kproxy.source.credentials [KUBECONFIG]`` it is that child; without an argument it is in a pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from kproxy.config import Config
from kproxy.errors import BadCredentials
from kproxy.source.proxy import proxy_for

_ROOT = Path(__file__).resolve().parents[2]
# -P and our own root instead of the working directory: the child imports the same kproxy as its parent, from anywhere.
_CHILD = "import sys; sys.path.insert(0, sys.argv.pop(1)); from kproxy.source.credentials import main; main()"
_SHOWN = 600  # characters of a plugin's complaint
# What may name files, by the part of the current context: the field, and the one that holds the same inline and wins
_FILES = {
    "cluster": (("certificate-authority", "certificate-authority-data"),),
    "user": (
        ("tokenFile", "token"),
        ("client-certificate", "client-certificate-data"),
        ("client-key", "client-key-data"),
    ),
}
_POD = "the pod's service account"
_POD_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 -- its path, by Kubernetes' contract


class Credentials(Struct, frozen=True):
    """Everything that a connection needs. All PEM is inline: no file has to outlive the child."""

    server: str
    source: str  # what a message should point at: the kubeconfig, "the pod's service account", "--master"
    authorization: str = ""  # the header's whole value
    ca: str = ""  # PEM; empty: the system's
    certificate: str = ""
    private_key: str = ""
    server_name: str = ""  # the name that the server's certificate must have, when it is not the one in the URL
    insecure: bool = False
    proxy: str = ""
    expires: float = 0.0  # seconds since the epoch; 0: never, or unknown
    token_file: str = ""  # read again by the daemon itself; its content replaces ``authorization``


class Failure(Struct, frozen=True, tag=True):
    """What the child prints when it cannot."""

    message: str


class _Success(Struct, frozen=True, tag=True):
    credentials: Credentials


_decode_answer: Callable[[bytes], _Success | Failure] = msgspec.json.Decoder(_Success | Failure).decode


async def resolve(config: Config) -> Credentials:
    """Resolve once. Raises ``BadCredentials``, which names the file and the remedy.

    ``--master`` alone is an address without credentials, as in kube-proxy; but in a pod it goes with the pod's account,
    because a proxy cannot use the address in its environment, which is the Service's that it is to provide.
    """
    if config.master and not config.kubeconfig and not _is_for_pod(config.master):
        return Credentials(server=config.master.rstrip("/"), source="--master")
    found = await _ask_child(config)
    return msgspec.structs.replace(found, server=config.master.rstrip("/")) if config.master else found


def _is_for_pod(server: str) -> bool:
    """Whether there is an account, and a server that it may be shown to: a token is not for the open wire."""
    return server.startswith("https://") and Path(_POD_TOKEN).exists()


def read_token(path: str) -> str:
    """The Authorization header from a token file. Raises ``BadCredentials``."""
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadCredentials(f"the token file {path} cannot be read: {error}; mount it, or correct its path") from error
    if not token or "\n" in token:
        raise BadCredentials(f"the token file {path} holds no token; wait for the kubelet to write it, or repair it")
    return f"Bearer {token}"


async def _ask_child(config: Config) -> Credentials:
    where = f"kubeconfig {config.kubeconfig}" if config.kubeconfig else _POD
    try:
        child = await _start([config.kubeconfig] if config.kubeconfig else [])
    except OSError as error:
        raise BadCredentials(f"{where}: its reader cannot be started: {error}; free memory or processes") from error
    try:
        async with asyncio.timeout(config.credentials_deadline):
            stdout, stderr = await child.communicate()
    except TimeoutError as error:
        await _kill(child)
        raise BadCredentials(
            f"{where}: no credentials within {config.credentials_deadline:g} s; "
            "its exec plugin hangs: run the plugin by hand, or use a token or a client certificate"
        ) from error
    except asyncio.CancelledError:
        await _kill(child)
        raise
    try:
        answer = _decode_answer(stdout)
    except msgspec.DecodeError as error:
        said = " ".join(stderr.decode(errors="replace").split())[-_SHOWN:]
        text = f"{where}: its reader ended with status {child.returncode}: {said or 'it said nothing'}"
        raise BadCredentials(f"{text}; run `python -m kproxy.source.credentials` by hand") from error
    if isinstance(answer, Failure):
        raise BadCredentials(answer.message)
    return answer.credentials


async def _start(arguments: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _CHILD, str(_ROOT), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # a hanging plugin is the child's child; the whole group goes at once
    )


async def _kill(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()


# --- the child ------------------------------------------------------------------------------------------------


def main() -> None:
    """Print the answer as JSON on standard output."""
    answer: _Success | Failure
    try:
        answer = _Success(from_kubeconfig(sys.argv[1]) if len(sys.argv) > 1 else from_pod())
    except BadCredentials as error:
        answer = Failure(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    sys.stdout.flush()


def from_pod() -> Credentials:
    """The service account of the pod that we run in."""
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_incluster_config
    from kubernetes.config.incluster_config import SERVICE_TOKEN_FILENAME

    loaded = Configuration()
    loaded.proxy = None  # the environment's is proxy.py's
    try:
        load_incluster_config(client_configuration=loaded, try_refresh_token=False)
    except (ConfigException, OSError) as error:
        raise BadCredentials(
            f"no --kubeconfig, no --master, and this is no pod with a service account ({error}); "
            "give --kubeconfig FILE, or --manifests DIR to work without an API server"
        ) from error
    return _from_configuration(loaded, _POD, token_file=SERVICE_TOKEN_FILENAME)


def from_kubeconfig(path: str) -> Credentials:
    """The current context of a kubeconfig, its exec plugin run."""
    from kubernetes.client import Configuration
    from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

    source = f"kubeconfig {path}"
    if not any(Path(each).expanduser().exists() for each in path.split(":") if each):
        raise BadCredentials(f"{source} does not exist; give --kubeconfig an existing file, or mount it")
    complaints = _Complaints()
    logging.getLogger().addHandler(complaints)
    loaded = Configuration(host="")  # else a cluster without a server is http://localhost
    loaded.proxy = None
    loader: Any = None
    merged: Any = None
    try:
        merged = KubeConfigMerger(path).config
        with _private_directory() as directory:
            loader = KubeConfigLoader(merged, config_base_path=None, temp_file_path=directory)
            loader.load_and_set(loaded)
            user = _entry_of("user", loader, merged)[0]
            found = _from_configuration(loaded, source, token_file=_token_file(user, path), expiry=loader)
    except BadCredentials:
        raise
    except Exception as error:  # the package lets KeyError, YAMLError, binascii.Error and more through
        missing = ""
        with contextlib.suppress(Exception):  # it may be broken in other ways, too
            missing = ", ".join(_missing(loader, merged))
        why = f"{missing}; mount what is missing, or correct the path" if missing else f"{_one_line(error)}; repair it"
        raise BadCredentials(f"{source} cannot be used: {why}") from error
    finally:
        logging.getLogger().removeHandler(complaints)
    if "exec" in user and not found.authorization and not found.certificate:
        command = user["exec"].get("command") if isinstance(user["exec"], dict) else None
        said = "; ".join(complaints.said) or "it printed neither a token nor a certificate"
        raise BadCredentials(f"{source}: its exec plugin {command!r} gave no credentials: {said}; run it by hand")
    return found


def _from_configuration(loaded: Any, source: str, *, token_file: str, expiry: object = None) -> Credentials:
    server = loaded.host or ""
    if not server.startswith(("http://", "https://")):
        raise BadCredentials(f"{source}: its server {server!r} is no http or https URL; correct it")
    # 36.0.0 stored the header under another name than it looked for. Ask for both names instead of asking the package.
    header = loaded.api_key.get("BearerToken") or loaded.api_key.get("authorization") or ""
    scheme, _, secret = header.partition(" ")
    secret = secret.strip()
    if token_file and not secret:
        raise BadCredentials(f"{source}: its token file {token_file} is empty; wait for it to be written, or repair it")
    moment = getattr(expiry, "expiry", None)
    return Credentials(
        server=server.rstrip("/"),
        source=source,
        authorization=f"{'Bearer' if scheme.casefold() == 'bearer' else scheme} {secret}" if secret else "",
        ca=_read(loaded.ssl_ca_cert, source),
        certificate=_read(loaded.cert_file, source),
        private_key=_read(loaded.key_file, source),
        server_name=loaded.tls_server_name or "",
        insecure=not loaded.verify_ssl,
        proxy=_proxy(loaded, source),
        expires=moment.timestamp() if moment else 0.0,
        token_file=token_file,
    )


def _proxy(loaded: Any, source: str) -> str:
    """The kubeconfig's proxy, or the environment's."""
    found: str = loaded.proxy or proxy_for(loaded.host, os.environ)
    if found and not found.startswith(("http://", "https://")):
        # Not the whole of it: it may hold a password.
        scheme = found.partition("://")[0] if "://" in found else "no scheme"
        raise BadCredentials(f"{source}: its proxy-url with {scheme} is not supported; use an http or https proxy")
    return found


def _read(path: str | None, source: str) -> str:
    if not path:
        return ""
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadCredentials(f"{source}: {path} cannot be read: {_one_line(error)}; correct the path") from error
    if not content.strip():
        # No authority at all would mean the system's authorities, which is not what anybody asked for.
        raise BadCredentials(f"{source}: a certificate or key of it is empty ({path}); repair it")
    return content


def _entry_of(part: str, loader: Any, merged: Any) -> tuple[dict[str, Any], str, str]:
    """The current context's ``user`` or ``cluster``, as it stands in the file; its name; and the file's path."""
    name = loader.current_context["context"].get(part)
    node = merged[f"{part}s"].get_with_name(name, safe=True) if name and merged.safe_get(f"{part}s") else None
    found = node[part] if node is not None and part in node else None
    value = getattr(found, "value", None)  # the package wraps mappings to remember which file they came from
    return (value if isinstance(value, dict) else {}), str(name), str(getattr(found, "path", None) or "")


def _missing(loader: Any, merged: Any) -> Iterator[str]:
    """All files of the current context that are not there, by the fields that name them."""
    for part, fields in _FILES.items():
        entry, name, path = _entry_of(part, loader, merged)
        for field, inline in fields:
            if inline in entry or not isinstance(entry.get(field), str):
                continue
            file = Path(path).absolute().parent / entry[field]
            if not file.exists():
                yield f"{part}s[{_one_line(name)}].{part}.{field} {_one_line(file)} does not exist"


def _token_file(user: dict[str, Any], path: str) -> str:
    """An inline token wins over a token file in the package, so it does here."""
    name = user.get("tokenFile")
    if not name or user.get("token"):
        return ""
    first = next((each for each in path.split(":") if each and Path(each).expanduser().exists()), path)
    # Its links stay links: the kubelet rotates a token by swapping one, and removes what it led to.
    return str(Path(first).expanduser().absolute().parent / str(name))


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    """The package writes inline keys into files. Memory is the better place, and exists under a read-only root."""
    memory = "/dev/shm"  # noqa: S108 -- only the parent of a directory with mode 0700
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="kproxy-")


class _Complaints(logging.Handler):
    """The package logs a failing plugin instead of raising; what it said belongs into our error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(_one_line(record.getMessage()))


def _one_line(what: object) -> str:
    return (" ".join(str(what).split()) or type(what).__name__)[:_SHOWN]


if __name__ == "__main__":
    main()
