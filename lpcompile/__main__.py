"""`python -m lpcompile`."""

from lpcompile.cli import main

if __name__ == "__main__":
    main()
