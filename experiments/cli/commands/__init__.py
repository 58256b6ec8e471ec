"""The commands of `fedsam`, one module each: its function `command`, whose docstring is the help, and the lines of its `EXAMPLES`.

Modules here import what is heavy (torch, Ray, Flower, numpy) inside their functions, so that help and completion answer at once.
"""
