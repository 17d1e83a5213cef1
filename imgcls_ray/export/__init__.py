"""Networks in other formats, compared with the originals. Knows nothing of Ray."""
