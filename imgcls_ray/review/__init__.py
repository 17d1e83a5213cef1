"""What a person should look at first, and what becomes of the answers."""
