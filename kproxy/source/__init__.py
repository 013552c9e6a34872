"""What an API server, or a directory of manifests, says becomes changes of the model."""
