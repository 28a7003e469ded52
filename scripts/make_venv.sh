#!/bin/sh
# Make a virtual environment with the first Python from 3.10 to 3.13 on this machine; keep one that works.
# Usage: make_venv.sh FOLDER PYTHON_INSIDE
set -eu

supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'

if [ -x "$2" ] && "$2" -c "$supported"; then
    exit 0
fi
for python in ${PYTHON:-} python3 python python3.13 python3.12 python3.11 python3.10; do
    if "$python" -c "$supported" 2>/dev/null; then
        "$python" -m venv --clear "$1" || {
            echo "setup: $python cannot make a virtual environment; install its venv module (Debian: python3-venv)" >&2
            exit 1
        }
        exit 0
    fi
done
echo "setup: needs Python 3.10 to 3.13, found none on PATH; install one, or name it: make setup PYTHON=/path/to/python3.12" >&2
exit 1
