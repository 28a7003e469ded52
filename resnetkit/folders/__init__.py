"""From many image files to their answers: which files are meant, tables that grow, annotated pictures, similar ones."""
