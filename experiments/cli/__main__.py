"""`python -m experiments.cli`."""

from experiments.cli.main import program

if __name__ == "__main__":
    program()
