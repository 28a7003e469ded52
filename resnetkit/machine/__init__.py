"""The ground: files and folders, threads, imports, and how long work shows its progress and is stopped."""
