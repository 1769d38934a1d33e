#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The server's end of the lab channel: one `ID BASE64(command)` a line, answered by
# `ID RC BASE64(output)`. Commands run side by side, so that one that hangs holds up no other.
port=/dev/virtio-ports/org.forecourt.lab
dir=/run/forecourt-lab
mkdir -p "$dir"
until [ -e "$port" ]; do sleep 0.2; done
exec 3<>"$port"
while IFS=' ' read -r id command <&3; do
    (
        printf '%s' "$command" | base64 -d >"$dir/$id.sh"
        timeout -k 2 300 /bin/sh "$dir/$id.sh" >"$dir/$id.out" 2>&1 3>&- </dev/null
        code=$?
        flock 9
        { printf '%s %s ' "$id" "$code"; base64 -w 0 <"$dir/$id.out"; echo; } >&3
        rm -f "$dir/$id.sh" "$dir/$id.out"
    ) 9>"$dir/lock" &
done
