#!/bin/sh
# Installs the gateways of bench/peers.py into bench/peers/, each in an environment of its own: about 1 GB, once.
# Needs Python 3.11+ and, for Portkey, npm. These are other people's programs: they run as you when they are measured.
set -eu
cd "$(dirname "$0")"
mkdir -p peers
cd peers

python_package() {
  test -x "$1/bin/python" || "${PYTHON:-python3}" -m venv "$1"
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check "$2"
  echo "$2 is in bench/peers/$1"
}

python_package litellm 'litellm[proxy]==1.106.2'
python_package tensorzero 'tensorzero==2026.6.0'
python_package vllm-router 'vllm-router==0.1.17'

if command -v npm >/dev/null; then
  mkdir -p portkey
  # What npm resolves freshly for these two makes every streamed answer fail.
  cat >portkey/package.json <<'JSON'
{
  "name": "bench-portkey",
  "private": true,
  "dependencies": {"@portkey-ai/gateway": "1.15.2"},
  "overrides": {"hono": "4.9.7", "@hono/node-server": "1.13.5"}
}
JSON
  (cd portkey && npm install --silent --ignore-scripts --no-audit --no-fund)
  echo "@portkey-ai/gateway 1.15.2 is in bench/peers/portkey"
else
  echo "npm is not there: Portkey is left out"
fi
