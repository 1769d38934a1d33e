#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The server's end of the lab channel: one `ID BASE64(command)` a line, answered by lines of
# `ID + BASE64(part of the output)` and an `ID .` at the end. Commands run side by side, so that one
# that hangs holds up no other; a line fits one write, so that answers do not mix.
port=/dev/virtio-ports/org.forecourt.lab
until [ -e "$port" ]; do sleep 0.2; done
exec 3<>"$port"
while IFS=' ' read -r id command <&3; do
    (
        printf '%s' "$command" | base64 -d | timeout -k 2 300 /bin/sh 2>&1 3>&- | base64 -w 3000 |
            while read -r part || [ -n "$part" ]; do
                printf '%s + %s\n' "$id" "$part" >&3
            done
        printf '%s .\n' "$id" >&3
    ) &
done
