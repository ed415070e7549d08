"""The demo: the product's main job, played through its own functions."""
