#!/bin/bash
# A provider for tests. Its cloud is the directory of its configuration file; that file is bash, and may define
# `behave`, which runs before each command and may end it.
set -u
dir=${GARM_PROVIDER_CONFIG_FILE%/*}
mkdir -p "$dir/calls" "$dir/cloud/$GARM_CONTROLLER_ID"

# What it was given, for the test.
call=$dir/calls/$EPOCHREALTIME-$$
mkdir "$call.new"
cat "/proc/$$/environ" >"$call.new/environ"
echo "$#" >"$call.new/arguments"
if [ -t 0 ]; then echo terminal; else cat; fi >"$call.new/stdin"
mv "$call.new" "$call"

behave() { :; }
# shellcheck disable=SC1090
. "$GARM_PROVIDER_CONFIG_FILE"
behave

cloud=$dir/cloud/$GARM_CONTROLLER_ID

show() {
  printf '{"provider_id":"i-%s","name":"%s","os_type":"linux","status":"%s","addresses":[]}' "$1" "$1" \
    "$(cat "$cloud/$1/status")"
}

case $GARM_COMMAND in
  CreateInstance)
    name=$(sed -n 's/^{"name":"\([^"]*\)".*/\1/p' "$call/stdin")
    mkdir "$cloud/.$name.$$"
    echo "$GARM_POOL_ID" >"$cloud/.$name.$$/pool"
    echo running >"$cloud/.$name.$$/status"
    if ! mv -nT "$cloud/.$name.$$" "$cloud/$name" 2>/dev/null || [ -d "$cloud/.$name.$$" ]; then
      rm -r "$cloud/.$name.$$"
      echo "there is one called $name" >&2
      exit 31
    fi
    show "$name"
    ;;
  GetInstance)
    [ -d "$cloud/$GARM_INSTANCE_ID" ] || exit 30
    show "$GARM_INSTANCE_ID"
    ;;
  DeleteInstance)
    mv "$cloud/$GARM_INSTANCE_ID" "$cloud/.deleted.$$" 2>/dev/null || exit 30
    rm -r "$cloud/.deleted.$$"
    ;;
  ListInstances)
    between='['
    for home in "$cloud"/*/; do
      name=${home%/}
      name=${name##*/}
      [ "$(cat "$home/pool" 2>/dev/null)" = "$GARM_POOL_ID" ] || continue
      printf '%s' "$between"
      show "$name"
      between=,
    done
    if [ "$between" = '[' ]; then echo null; else echo ']'; fi
    ;;
  GetVersion) echo v1.2.3 ;;
  GetSupportedInterfaceVersions) echo '["v0.1.0","v0.1.1"]' ;;
  *)
    echo "unknown command $GARM_COMMAND" >&2
    exit 1
    ;;
esac
