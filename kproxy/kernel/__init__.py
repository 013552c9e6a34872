"""The machine: thin and typed access to iptables, conntrack, sysctls and addresses, with twins for tests."""
