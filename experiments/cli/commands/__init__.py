"""The commands of `fedsam`, one module each with a function `command`, whose docstring is the help, and `EXAMPLES`.

Modules here import torch, Ray, Flower and numpy inside their functions, so that help and completion are fast.
"""
