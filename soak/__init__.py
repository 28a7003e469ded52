"""The claims of docs/RELIABILITY.md, one module each, tried far more often than a test has time for."""
