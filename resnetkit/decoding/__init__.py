"""Image files in: their formats, what their headers say, and their values, upright and in bounded memory."""
