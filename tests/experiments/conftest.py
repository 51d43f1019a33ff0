import sys
from pathlib import Path

# Other processes import from here what computes the jobs.
sys.path.append(str(Path(__file__).parent))
