"""Step 1: what an API server, or a directory of manifests, says becomes changes."""
