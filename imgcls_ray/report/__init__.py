"""Reports for people: pages, pictures, curves."""
