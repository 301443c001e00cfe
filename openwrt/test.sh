#!/bin/sh
# The feed's CI runs this with a package's name and version when it has installed the package.

case "$1" in
vpn-killswitch) [ "$(vpn-killswitch --version)" = "vpn-killswitch ${2%-r*}" ] ;;
esac
