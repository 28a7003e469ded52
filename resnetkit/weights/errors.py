"""What goes wrong with weights files."""


class WeightsError(ValueError):
    """A weights file is missing, damaged, foreign, or does not fit."""
