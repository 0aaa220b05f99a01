"""Expected and found, table and figures: ``python experiments/saturation_concepts/analysis.py RUN [RUN …]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from saturation import main

main(Path(__file__).parent)
