"""Measures of faithfulness: reconstruction."""
