#!/usr/bin/env bash
# Runs the demonstration and the tests with the installed wheel, away from the checkout, so that nothing of it is imported.
set -euo pipefail
bin=$(cd "$1" && pwd)/bin
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cp -r tests "$here/tests"
cd "$here"
"$bin/python" -c 'import aead, sys; assert "site-packages" in aead.__file__, aead.__file__'
"$bin/aead" demo --out "$here/demo"
"$bin/python" -m pytest -q -n 2 --dist worksteal -p no:cacheprovider tests
