"""`python -m streamasr`."""

from streamasr.cli.main import main

if __name__ == "__main__":
    main()
