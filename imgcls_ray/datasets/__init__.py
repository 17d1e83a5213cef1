"""Labelled datasets: read them, check every image, split them anew."""
