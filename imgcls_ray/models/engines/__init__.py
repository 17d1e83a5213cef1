"""What runs a network on pixels: OpenVINO and torch."""
