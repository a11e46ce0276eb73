"""Serve InstantID on Ray."""
