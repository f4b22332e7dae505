"""Sharing a mined set: a folder, the Hub, and the dataset card."""
