#!/bin/sh
# The users of accounts.conf as nsc makes them: writes front.creds, worker.creds and operator.creds here.
# Before it: nsc init, or an operator that is there. After it: `nsc push -A`, or `nsc generate config --nats-resolver`.
set -eu
conf=$(dirname "$0")/accounts.conf

# The subjects in quotes between "KIND: [" and "]" of a user's block, with commas between them.
subjects() {
    sed -n "/^${1}_MAY = {/,/^}/p" "$conf" | sed -n "/ $2: \[/,/\]/p" | grep -o '"[^"]*"' | tr -d '"' | paste -sd, -
}

nsc add account --name FLUX
nsc edit account --name FLUX --js-mem-storage 1G --js-disk-storage 200G --js-streams -1 --js-consumer -1
for user in FRONT WORKER OPERATOR; do
    name=$(echo "$user" | tr A-Z a-z)
    nsc add user --account FLUX --name "$name" \
        --allow-pub "$(subjects "$user" publish)" --allow-sub "$(subjects "$user" subscribe)"
    nsc generate creds --account FLUX --name "$name" >"$name.creds"
    chmod 600 "$name.creds"
done
