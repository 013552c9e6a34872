# kproxy for one node: `docker buildx build --platform linux/amd64,linux/arm64 .`, or `./run image` where there is no
# Docker. One stage compiles what comes from the lock file, each archive checked by its hash; one picks the files of the
# Debian packages that a node needs; the image is what both hand over and nothing else. So there is no shell, package
# manager, compiler or pip in it. It has iptables in both variants (kproxy finds out which one the node uses), and nft,
# conntrack and modprobe, for kproxy's own use and for `kubectl exec POD -- iptables-save`. 104 MB, 35 MB compressed.
#
# It runs as root with every capability dropped but two (tests/image tries each):
#   NET_ADMIN  rules, conntrack, addresses, transparent sockets
#   NET_RAW    iptables-legacy opens a raw socket; nodes that are certainly of the nft variant can do without
# The kernel loads the modules that rules ask for by itself. Only ip_tables, on a node of the legacy variant where nobody
# has loaded it yet, is left to modprobe; that takes SYS_MODULE and the node's /lib/modules.
# Another user was tried, too. Kubernetes gives no ambient capabilities, so iptables answers "Permission denied (you must
# be root)". Capabilities of files do work, even under allowPrivilegeEscalation: false, for the runtime has permitted them
# before. But Python would have to carry them, so that any script in here had them and not even `kproxy version` would
# start without; and the node's /run/xtables.lock and kubeconfigs are root's own, mode 0600: with the legacy variant
# nothing works then. Root without capabilities owns the files that are mounted, and that is all.
#
# The root file system may be read-only. Written are /run/xtables.lock, which is the node's own, mounted from it, and,
# for kubeconfigs with inline keys, /dev/shm, which every runtime mounts. The daemon does without /tmp.
ARG DEBIAN=debian:trixie-slim

FROM ${DEBIAN} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# Debian's own versions: whoever wants the same ones again names the base image by its digest, or a snapshot of it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev python3-setuptools python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY .requirements.lock ./
# The secrets are for registries behind a private authority or with a password; neither gets into a layer. What has to
# be compiled is compiled with Debian's setuptools (pip would fetch one without a hash), and without the name of the
# directory, which is another one each time.
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \
    python3 -m venv --system-site-packages /opt/tools \
    && CFLAGS=-g0 /opt/tools/bin/pip wheel --no-build-isolation --require-hashes --requirement .requirements.lock \
        --wheel-dir /wheels \
    && /opt/tools/bin/pip install --no-index --find-links /wheels hatchling editables
COPY pyproject.toml ./
# What kproxy requires, without what built it. From the packages goes what no part of kproxy imports (tests/image shows
# that it is not missed): all of Kubernetes' API but the loader of credentials, lexers, sources and symbols of compiled
# modules. Compiled here, for the image is read-only where it runs: 26 MB, and it starts in a quarter of the time. By
# content and not by time, for all files of a reproducible image have one time.
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        >runtime.txt \
    && python3 -m venv --without-pip /opt/kproxy \
    && /opt/tools/bin/pip --python /opt/kproxy/bin/python install --no-compile --no-index --find-links /wheels \
        --requirement runtime.txt \
    && site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib", vars={"base": "/opt/kproxy"}, scheme="venv"))') \
    && rm -rf "$site/kubernetes/aio" "$site"/kubernetes/client/api/[!_]* "$site"/kubernetes/client/models/[!_]* \
        "$site"/pygments/lexers/[!_]* \
    && find "$site" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
    && find "$site" -type f -regex '.*\.\(c\|h\|pxd\|pyi\|pyx\)' -delete \
    && find "$site" -type f -name '*.so*' -exec strip --strip-unneeded {} + \
    && find /opt/kproxy/bin ! -name 'python*' -type f -delete \
    && python3 -m compileall -q --invalidation-mode unchecked-hash "$site"
COPY README.md LICENSE ./
COPY kproxy kproxy
RUN /opt/tools/bin/pip wheel --no-build-isolation --no-deps --no-index --wheel-dir /wheels/kproxy . \
    && /opt/tools/bin/pip --python /opt/kproxy/bin/python install --no-compile --no-deps --no-index --root /program \
        /wheels/kproxy/*.whl \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -s /program /program/opt/kproxy/lib \
    && mkdir -p /program/usr/local/bin \
    && ln -s /opt/kproxy/bin/kproxy /program/usr/local/bin/kproxy \
    && ln -s kproxy /program/usr/local/bin/kube-proxy

FROM ${DEBIAN} AS system
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates conntrack iptables kmod nftables python3-minimal \
        libpython3-stdlib \
    && rm -rf /var/lib/apt/lists/*
# Named one by one: a further package in the image is a decision. Each one's entry of the package database comes along,
# in the form that scanners know from images without dpkg. Python's modules for terminals stay behind with their
# libraries, and so does what only its developers need.
RUN set -e -- base-files base-passwd netbase gcc-14-base libc6 libc-bin libgcc-s1 libstdc++6 zlib1g \
        conntrack iptables kmod nftables libbsd0 libedit2 libgmp10 libip4tc2 libip6tc2 libjansson4 libkmod2 libmd0 \
        libmnl0 libnetfilter-conntrack3 libnfnetlink0 libnftables1 libnftnl11 libsqlite3-0 libtinfo6 libxtables12 \
        python3-minimal python3.13-minimal libpython3.13-minimal libpython3.13-stdlib \
        libbz2-1.0 libexpat1 libffi8 liblzma5 libssl3t64 libuuid1 libzstd1; \
    mkdir -p /image/var/lib/dpkg/status.d /image/etc/ssl/certs /image/usr/lib/ssl; \
    for package in "$@" ca-certificates; do \
        dpkg-query --status "$package" >"/image/var/lib/dpkg/status.d/$package"; \
    done; \
    dpkg-query --listfiles "$@" >/tmp/listed; \
    find /usr/sbin /etc/alternatives -name '*tables*' -type l >>/tmp/listed; \
    printf '%s\n' /etc/group /etc/nsswitch.conf /etc/passwd /usr/share/doc/ca-certificates/copyright >>/tmp/listed; \
    grep -vE -e '^/usr/share/(bash-completion|info|lintian|locale|man|perl5|python3)/|^/usr/share/doc/.*/(ch|NEWS|README|TODO|ex)' \
        -e '^/usr/lib/([^/]*/gconv|python3[^/]*/(test|idlelib|pydoc_data|lib-dynload/(_curses|_dbm|readline)))' \
        -e '^$|^/\.$|^/usr/lib/python3/|^/usr/bin/py3|/__pycache__' /tmp/listed >/tmp/wanted; \
    while read -r path; do if [ -e "$path" ] || [ -L "$path" ]; then echo "$path"; fi; done </tmp/wanted >/tmp/there; \
    sort -u -o /tmp/there /tmp/there; \
    tar --create --file /tmp/image.tar --no-recursion --absolute-names --files-from /tmp/there; \
    tar --extract --file /tmp/image.tar --directory /image; \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/; \
    ln -s /etc/ssl/certs/ca-certificates.crt /image/usr/lib/ssl/cert.pem; \
    python3 -m compileall -q --invalidation-mode unchecked-hash -s /image /image/usr/lib/python3.13; \
    ldconfig -r /image; rm -f /image/var/cache/ldconfig/aux-cache

FROM scratch
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kproxy" \
    org.opencontainers.image.description="A per-node Kubernetes service proxy: everything kube-proxy does, easier to read and to operate" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="docker.io/library/debian:trixie-slim" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# What changes least comes first.
COPY --from=system /image/ /
COPY --from=build /opt/kproxy /opt/kproxy
COPY --from=build /program/ /
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Also called kube-proxy: whoever replaces that one's image keeps the command line that its DaemonSet has.
ENTRYPOINT ["kproxy"]
CMD ["run"]
