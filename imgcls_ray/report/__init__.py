"""What is drawn for people: pages, pictures, curves."""
