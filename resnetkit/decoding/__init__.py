"""Image files in, from shards and addresses as well: formats, headers, and values, upright and in bounded memory."""
