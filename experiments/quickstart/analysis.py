"""Expected and found, and the graph's strongest parts: ``python experiments/quickstart/analysis.py RUN``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from summary import main

main(Path(__file__).parent)
