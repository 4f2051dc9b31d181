#!/bin/sh
# Runs once before the services of compose.yaml: makes the identities of its three nodes where there are none, and
# writes the gateway's settings with their pins. All identities lie in one volume because this is a demonstration on one
# machine: for real, a node's operator makes the identity, keeps it, and gives out the pin alone (--print-pin).
set -eu
identities=${IDENTITIES:-/identities}
data=${DATA:-/data}
settings=$data/veriroute.toml

# id, service, models
node() {
  pin=$(veriroute node --identity "$identities/$2.json" --print-pin)
  printf '\n[[nodes]]\nid = "%s"\nbase_url = "http://%s:9001"\nmodels = [%s]\npin = "%s"\n' "$1" "$2" "$3" "$pin"
}

# The same three as nodes of the network openai, which sign nothing, each of an operator of its own: id, service
voter() {
  printf '\n[[nodes]]\nid = "%s"\nnetwork = "openai"\nbase_url = "http://%s:9001"\nmodels = ["voted-lm"]\n' "$1" "$2"
  printf 'operator = "%s.example"\nendpoints = ["/v1/chat/completions"]\n' "$1"
}

umask 077
{
  cat << END
# Written by containers/setup.sh; the next start writes it anew.
[server]
host = "0.0.0.0"
port = 8080
# Whatever port of the host leads here, and the name of the service.
allowed_hosts = ["127.0.0.1", "localhost", "gateway"]

[storage]
url = "sqlite:///$data/veriroute.db"

[log]
origin = "demo.veriroute.local/log"

[auth]
mode = "keys"

[upstream]
# The nodes have no TLS here, only a network of their own. Their answers are signed all the same; channel_bound is not
# shown, and the policy strict takes none of them.
allow_http = true
END
  node honest-1 node-1 '"veriroute-lm-1", "veriroute-embed-1"'
  node honest-2 node-2 '"veriroute-lm-1", "veriroute-embed-1", "shared-lm"'
  node dishonest node-dishonest '"tampered-lm", "shared-lm"'
  voter plain-3 node-dishonest
  voter plain-1 node-1
  voter plain-2 node-2
} > "$settings.new"
mv "$settings.new" "$settings"
echo "identities in $identities, settings in $settings"
