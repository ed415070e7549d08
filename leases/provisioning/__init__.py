"""Machines upstream: launching, probing and ending them, never leaking or missing one.

``sweep`` holds what beat runs; ``claims`` and ``upstream`` are what every call to a
provider goes through.
"""
