#!/bin/bash
# An instance of the tests' provider: waits until it may boot, fetches the files of its just-in-time config as install
# scripts do, or runs the script that was given to its provider, and becomes a simulated runner. $1 is its directory.
set -eu
home=$1
metadata=$(sed -n 's/.*"metadata-url":"\([^"]*\)".*/\1/p' "$home/stdin")
callback=$(sed -n 's/.*"callback-url":"\([^"]*\)".*/\1/p' "$home/stdin")
token=$(sed -n 's/.*"instance-token":"\([^"]*\)".*/\1/p' "$home/stdin")

ask() {
  printf 'header = "Authorization: Bearer %s"\n' "$token" |
    curl --config - --noproxy '*' --fail --silent --retry 100 --retry-delay 1 --retry-connrefused "$@"
}

while [ ! -e "$GO" ]; do sleep 0.05; done
ask --data '{"status": "installing", "message": "downloading JIT credentials"}' "$callback/status" || true
if [ -e "$BROKEN" ]; then
  rm "$BROKEN"
  ask --data '{"status": "failed", "message": "no space left\non the device"}' "$callback/status/"
  exec sleep 1000
fi
template=$(sed -n 's/.*"runner_install_template":"\([^"]*\)".*/\1/p' "$home/stdin")
if [ -n "$template" ]; then
  # As providers do it, as root.
  printf '%s' "$template" | base64 -d |
    sed "s|{{ .CallbackToken }}|$token|; s|{{ .MetadataURL }}|$metadata|; s|{{ .CallbackURL }}|$callback|" >"$home/install"
  mkdir "$home/bin"
  printf '#!/bin/sh\necho 0\n' >"$home/bin/id"
  chmod 755 "$home/bin/id" "$home/install"
  export HOME=$home PATH=$home/bin:$PATH no_proxy='*'
  exec "$home/install"
fi
config='{'
for file in runner credentials credentials_rsaparams; do
  ask --output "$home/$file" "$metadata/credentials/$file"
  config="$config\".$file\":\"$(base64 -w0 <"$home/$file")\","
done
ask --output "$home/service" "$metadata/system/service-name"
ask --output "$home/unit" "$metadata/systemd/unit-file?runAsUser=runner"
ACTIONS_RUNNER_INPUT_JITCONFIG=$(printf '%s}' "${config%,}" | base64 -w0)
export ACTIONS_RUNNER_INPUT_JITCONFIG
exec "$PROGRAM" demo-runner
