import sys
from pathlib import Path

# The scripts run outside pytest, too, and import their neighbours by name.
sys.path.insert(0, str(Path(__file__).parent))
