"""Expected and found, table and figures of pixels: ``python experiments/saturation_pixels/analysis.py RUN``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from saturation import main

main(Path(__file__).parent)
