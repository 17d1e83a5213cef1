"""What the project claims about speed, memory and survival, as commands that anyone can repeat."""
