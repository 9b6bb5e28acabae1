"""`python -m webapp.cli` is `switchhook`: how the supervisor starts its children, whatever the path."""

from webapp.cli import main

if __name__ == "__main__":
    main(prog_name="switchhook")
