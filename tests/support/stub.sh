#!/bin/bash
# Stands for a command of a machine that is made a runner: notes how it was called, and does as little as it can.
name=${0##*/}
{
  printf '%s' "$name"
  printf ' <%s>' "$@"
  printf '\n'
} >>"$ROOT/log"

case $name in
  curl)
    output='' stdin='' url='' data='' previous=''
    for argument in "$@"; do
      case $previous in
        --output) output=$argument ;;
        --data) data=$argument ;;
        --config) stdin=$(cat) ;;
      esac
      previous=$argument
      url=$argument
    done
    printf '%s\n%s\n' "$url" "$stdin" >>"$ROOT/asked"
    [ -z "$data" ] || printf '%s\n' "$data" >>"$ROOT/reported"
    [ ! -e "$ROOT/offline" ] || exit 22
    [ -z "$output" ] || cp "$ROOT/runner.tar.gz" "$output"
    case $url in */jit-config) printf '%s' "$CONFIG" ;; esac
    ;;
  id) exit 1 ;;
  getent) [ -e "$ROOT/docker" ] ;;
  apt-get | dnf | yum)
    # What was missing is there.
    case " $* " in *' curl '*) ln -sf "$STUB" "$ROOT/bin/curl" ;; esac
    ;;
  systemctl)
    if [ "$1" = start ]; then
      cp "$ROOT/home/.env" "$ROOT/env-at-start"
      stat -c %a "$ROOT/config" >"$ROOT/config-mode"
    fi
    ;;
  runuser | su)
    cp "$ROOT/home/.env" "$ROOT/env-at-start"
    printf '%s' "$ACTIONS_RUNNER_INPUT_JITCONFIG" >"$ROOT/started-with.new"
    mv "$ROOT/started-with.new" "$ROOT/started-with"
    ;;
esac
