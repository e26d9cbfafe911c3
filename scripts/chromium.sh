#!/usr/bin/env bash
# Print the path of a Chromium, installing Debian's if there is none and this is allowed. The browser tests use it.
# CHROMIUM may name one.
set -euo pipefail

find_chromium() {
    local name
    for name in ${CHROMIUM:+"$CHROMIUM"} chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" && return 0
    done
    return 1
}

find_chromium && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing Chromium for the browser tests" >&2
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >&2 || true
    find_chromium && exit 0
fi
echo "No Chromium was found and it could not be installed. On Debian and Ubuntu: sudo apt-get install chromium;" \
     "elsewhere set CHROMIUM to the path of a Chrome or Chromium." >&2
exit 1
