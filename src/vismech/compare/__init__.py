"""Runs side by side: collected tables, paired intervals, figures."""
