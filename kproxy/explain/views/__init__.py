"""Everything about one thing of a dump; what changed between two of them."""
