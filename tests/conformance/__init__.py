"""What packets did when kube-proxy served a scenario, and what they do when kproxy serves it.

The records are the oracle. `world` lays out the machines, `objects` writes the API's documents, `probes`, `webs` and
`sctp` ask, `proxy` is the program under test, `steps` performs a scenario, `compare` judges, `runner` goes through
them all. Start it with ``python -m tests.conformance`` as root; it is no part of pytest, because a full run takes
minutes and its subject is the whole program.
"""
