"""A small cluster out of network namespaces: hosts, servers, an API server, and the tour that shows them."""


def run_sandbox(*, keep: bool, demo: bool) -> int:
    """``kproxy sandbox``: see demo.run_sandbox, which is loaded only when it is wanted."""
    from kproxy.sandbox import demo as shown

    return shown.run_sandbox(keep=keep, demo=demo)
