"""The pages of the documentation that are made of the code: components, methods, settings, commands."""
