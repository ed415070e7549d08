"""Clouds behind one Protocol, one module each."""
