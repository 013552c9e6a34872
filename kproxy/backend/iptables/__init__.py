"""The iptables mode: kube-proxy's chains and comments, in a layout that does not grow slower with the cluster."""
