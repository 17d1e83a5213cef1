"""Inputs to label: listings, lists, and their order. Does not import Ray."""
