"""`python -m streamasr`."""

from streamasr.cli import main

if __name__ == "__main__":
    main()
