"""Everything that is measured beside the graph: a folder for each measure, and what they share."""
