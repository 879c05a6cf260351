"""Stacking of astronomical frames: eleven phases from raw lights to a stacked image. Room only, so far."""
