"""What packets did when kube-proxy served a scenario, and what they and the process do when kproxy serves it.

`data/parity.yaml` is the table: what kube-proxy does, row by row. Scenarios show rows; those with a record must give
the record of kube-proxy 1.36.2, probe by probe, and the others what they expect by themselves. `world` lays out the
machines, `objects` writes the API's documents, `launch` says how the program is run and `proxy` runs it; `steps`
performs a scenario in its `scene` (`cluster_steps`, `node_steps`, `packet_steps`, `page_steps`), `probes`, `webs`,
`sctp`, `icmp`, `stray` and `series` ask, `compare` judges; `runner` goes through them all, `parity` makes findings of
about rows, and `report` tells them. Start it with ``./run conformance``: a full run takes minutes and needs root, so
pytest runs a few scenarios only (tests/netns/test_conformance.py), besides the tests in here.

No scenario looks inside the program: packets, pages over HTTP, tables of the kernel, files, exit statuses, its log,
and what it asks of the API server.
"""
