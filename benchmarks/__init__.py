"""Measurements of the product beside the limit: the raw SQL, in the same run."""
