"""Plots of queries, scores, hardness, trainings and pilots."""
