"""A plan as rules of the kernel; each proxy mode has a folder. iptables is the only one so far."""
