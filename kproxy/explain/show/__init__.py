"""From answers to text, JSON and a page; with other names where they are to be hidden."""
