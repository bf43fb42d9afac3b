"""Formats under a budget: candidates, what they lose and cost, and the exact choice among them. [architecture 6]."""
