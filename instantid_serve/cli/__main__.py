"""``python -m instantid_serve.cli``."""

from instantid_serve.cli import main

main()
