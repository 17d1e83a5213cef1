"""PaddleClas' networks and weights."""
