"""What is in the image, and what is not: programs, libraries, modules, credentials. Packets: test_node.py."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from kproxy import __version__
from tests.image.conftest import Run

pytestmark = [pytest.mark.root, pytest.mark.slow]
PYTHON = "/opt/kproxy/bin/python"
READER = (PYTHON, "-m", "kproxy.source.credentials")


def test_it_answers_under_both_names(run: Run) -> None:
    assert run("kproxy", "version").stdout.strip() == f"kproxy {__version__}"
    assert run("kube-proxy", "--version").stdout.strip().endswith(f"+kproxy-{__version__}")


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("iptables", "(nf_tables)"),
        ("iptables-legacy", "(legacy)"),
        ("ip6tables-nft-restore", "(nf_tables)"),
        ("ip6tables-legacy-save", "(legacy)"),
        ("nft", "nftables v"),
        ("conntrack", "conntrack v"),
        ("modprobe", "kmod version"),
    ],
)
def test_a_program_that_a_node_needs_runs(run: Run, program: str, says: str) -> None:
    assert says in run(program, "--version").stdout


def test_every_library_that_is_wanted_is_there(rootfs: Path) -> None:
    loader = next(rootfs.glob("usr/lib*/ld-linux*"), None) or next(rootfs.glob("usr/lib/*/ld-linux*"))
    ours = [f"/{path.relative_to(rootfs)}" for path in rootfs.rglob("*") if _is_elf(path)]
    lacking = []
    for path in ours:
        command = ("chroot", str(rootfs), f"/{loader.relative_to(rootfs)}", "--list", path)
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        lacking += [f"{path}: {line}" for line in (said.stdout + said.stderr).splitlines() if "not found" in line]
    assert len(ours) > 100
    assert lacking == []


def _is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def test_every_module_of_ours_but_the_sandbox_imports(run: Run) -> None:
    code = (
        "import importlib, pkgutil, kproxy\n"
        "for found in pkgutil.walk_packages(kproxy.__path__, 'kproxy.'):\n"
        "    if not found.name.startswith('kproxy.sandbox') and not found.name.endswith('__main__'):\n"
        "        importlib.import_module(found.name); print(found.name)\n"
    )
    done = run(PYTHON, "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert {"kproxy.daemon.main", "kproxy.kernel.libiptc", "kproxy.backend.userspace.worker"} <= {*done.stdout.split()}


def test_nothing_that_runs_is_compiled_at_each_start(run: Run) -> None:
    code = (
        "import sys, kproxy.daemon.main, kproxy.daemon.wiring, kproxy.source.client, pyroute2, rich.console\n"
        "import os\n"
        "print(*(m.__spec__.origin for m in list(sys.modules.values()) if getattr(m, '__cached__', None)\n"
        "        and not os.path.exists(m.__cached__)))\n"
    )
    done = run(PYTHON, "-c", code)
    assert (done.stdout.split(), done.stderr) == ([], "")


def test_there_is_no_way_to_install_or_to_become_somebody_else(rootfs: Path) -> None:
    for name in ("sh", "bash", "apt", "dpkg", "pip", "pip3", "perl", "gcc", "su", "mount", "curl"):
        assert not [
            path for path in ("usr/bin", "usr/sbin", "usr/local/bin", "opt/kproxy/bin") if _has(rootfs / path, name)
        ]
    assert [
        path for path in rootfs.rglob("*") if path.is_file() and path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    ] == []
    distributions = {
        path.name.split("-")[0] for path in rootfs.glob("opt/kproxy/lib/python*/site-packages/*.dist-info")
    }
    assert "kubernetes" in distributions
    assert not distributions & {"pip", "setuptools", "hatchling", "editables", "pathspec", "pytest"}


def _has(directory: Path, name: str) -> bool:
    return (directory / name).exists() or (directory / name).is_symlink()


def test_no_secret_of_the_build_stayed(rootfs: Path) -> None:
    assert not (rootfs / "run/secrets").exists()
    names = [path.name for path in rootfs.rglob("*") if path.name in {"pip.conf", ".netrc", "auth.json"}]
    assert names == []


def test_scanners_find_the_debian_packages_and_readers_their_licences(rootfs: Path) -> None:
    entries = {path.name: path.read_text(encoding="utf-8") for path in rootfs.glob("var/lib/dpkg/status.d/*")}
    assert {"iptables", "nftables", "conntrack", "kmod", "libc6"} <= set(entries)
    assert all(f"Package: {name}\n" in text and "\nVersion: " in text for name, text in entries.items())
    lacking = [name for name in entries if not (rootfs / f"usr/share/doc/{name}/copyright").exists()]
    assert lacking == []


# --- credentials: what was left of the package that reads them is enough ----------------------------------------------


def _kubeconfig(directory: Path, user: dict[str, object], **cluster: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443", **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    directory.mkdir(exist_ok=True)
    (directory / "config").write_text(yaml.safe_dump(config), encoding="utf-8")
    return directory


def _credentials(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "credentials" in answer, answer
    return dict(answer["credentials"])


def test_inline_keys_are_read(run: Run, tmp_path: Path) -> None:
    pem = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n").decode()
    user = {"client-certificate-data": pem, "client-key-data": pem}
    place = _kubeconfig(tmp_path / "k", user, **{"certificate-authority-data": pem})
    found = _credentials(run(*READER, "/kube/config", mounts={"/kube": place}))
    assert found["server"] == "https://192.0.2.1:6443"
    assert all(found[name].startswith("-----BEGIN") for name in ("ca", "certificate", "private_key"))


def test_an_exec_plugin_is_run(run: Run, tmp_path: Path) -> None:
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t0ken"}}
    user = {"exec": {"apiVersion": said["apiVersion"], "command": "./plugin", "interactiveMode": "Never"}}
    place = _kubeconfig(tmp_path / "k", user)
    (place / "plugin").write_text(f"#!{PYTHON}\nprint({json.dumps(json.dumps(said))})\n", encoding="utf-8")
    (place / "plugin").chmod(0o755)
    found = _credentials(run(*READER, "/kube/config", mounts={"/kube": place}))
    assert found["authorization"] == "Bearer t0ken"


def test_the_service_account_of_the_pod_is_read(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "account"
    place.mkdir()
    (place / "token").write_text("t0ken", encoding="ascii")
    (place / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n", encoding="ascii")
    cluster = {"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "6443"}
    found = _credentials(run(*READER, mounts={"/var/run/secrets/kubernetes.io/serviceaccount": place}, more=cluster))
    assert (found["server"], found["authorization"]) == ("https://192.0.2.1:6443", "Bearer t0ken")


# --- capabilities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "capabilities", "user", "refusal"),
    [
        ("iptables-nft", ("CAP_NET_ADMIN",), 0, ""),
        ("iptables-nft", ("CAP_NET_RAW",), 0, "Permission denied (you must be root)"),
        ("iptables-legacy", ("CAP_NET_ADMIN", "CAP_NET_RAW"), 0, ""),
        ("iptables-legacy", ("CAP_NET_ADMIN",), 0, "Permission denied (you must be root)"),
        ("iptables-nft", ("CAP_NET_ADMIN", "CAP_NET_RAW"), 65532, "Permission denied (you must be root)"),
        ("nft", ("CAP_NET_ADMIN",), 0, ""),
        ("nft", ("CAP_NET_RAW",), 0, "Operation not permitted (you must be root)"),
        ("conntrack", ("CAP_NET_ADMIN",), 0, ""),
        ("conntrack", ("CAP_NET_RAW",), 0, "you must be root or get CAP_NET_ADMIN"),
    ],
)
def test_a_capability_is_needed(
    run: Run, tmp_path: Path, program: str, capabilities: tuple[str, ...], user: int, refusal: str
) -> None:
    lock = tmp_path / "xtables.lock"
    lock.touch(0o600)
    os.chown(lock, user, user)
    words = {"nft": ("list", "ruleset"), "conntrack": ("-L",)}.get(program, ("-t", "nat", "-S"))
    place = "/run/xtables.lock"
    done = run(program, *words, mounts={place: lock}, writable=(place,), capabilities=capabilities, user=user)
    assert refusal in done.stderr
    assert (done.returncode != 0) is bool(refusal), done.stderr
