"""What the cluster says: frozen values, no JSON, no I/O."""
