"""Commands: arguments in, objects called, files and tables out."""
