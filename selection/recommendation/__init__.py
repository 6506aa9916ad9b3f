"""Recommendations: from the evidence and the facts of a target to configurations ranked for it."""
