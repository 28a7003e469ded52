"""Qt forms made from the declarations of parameters."""
