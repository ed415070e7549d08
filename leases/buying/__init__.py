"""Buying: where demand exceeds what we hold, what each cloud would charge, and taking a choice."""
