"""What this node must do: every decision, no syntax."""
