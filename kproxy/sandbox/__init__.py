"""A small cluster out of network namespaces: hosts, servers, an API server, and the tour that shows them."""
