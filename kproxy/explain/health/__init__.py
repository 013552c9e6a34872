"""What in the rules looks like trouble."""
