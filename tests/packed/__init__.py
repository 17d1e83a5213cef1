"""Packed files and what is in them."""
