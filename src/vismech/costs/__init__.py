"""What a run costs before it is run: counts that the stages declare, and how fast machines are."""
