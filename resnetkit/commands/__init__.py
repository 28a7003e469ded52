"""The command line: a module per command, with options made from the declarations of parameters."""
