"""``python -m stssad_fast`` is ``stssad-fast``."""

from stssad_fast.cli import main

main()
