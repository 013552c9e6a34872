"""From what a user gives to values: dumps, objects, flows, facts about the node."""
