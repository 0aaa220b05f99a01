"""Interventions: what a network answers when concepts are removed, scaled or exchanged, by forward passes alone."""
