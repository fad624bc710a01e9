"""Measurements of the system against its limits and against what a user would write."""
