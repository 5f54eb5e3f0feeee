"""``python -m ewallet`` is ``ewallet``."""

from ewallet.cli import main

if __name__ == "__main__":
    main()
