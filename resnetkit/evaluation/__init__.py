"""A model judged on labelled images: classes aligned by name, figures, predictions in a table, runs compared."""
