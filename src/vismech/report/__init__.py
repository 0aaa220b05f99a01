"""What a run shows to people: patches of concepts, the figure of the causal concept graph, and the page.

The files read in the order data flows: `patches` and `cards` cut pictures of positions, `text` writes numbers and
tables, `layout` places the graph, `figures` draws it, `page` renders everything as one self-contained HTML
file. Data in, bytes out.
"""
