"""Ignored: must not reach the image."""
