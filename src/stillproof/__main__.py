"""`python -m stillproof` is the command `stillproof`."""

from stillproof.cli import main

if __name__ == "__main__":
    main()
