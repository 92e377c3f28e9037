"""`python -m study`: the `study` command."""

from study.cli.app import main

if __name__ == "__main__":
    main()
