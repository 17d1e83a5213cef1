"""Bulk labelling on Ray Data: plans, the label store, the pipeline."""
