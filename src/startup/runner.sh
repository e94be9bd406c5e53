#!/bin/sh
# Makes a bare machine (Ubuntu, Debian, RHEL and their relatives, with or without systemd) one GitHub Actions runner.
# Secrets are in no process's arguments.
# shellcheck disable=SC1083,SC2016 # placeholders, and what is put there
set -eu
umask 022

RUNNER_NAME={{RUNNER_NAME}}
RUNNER_LABELS={{RUNNER_LABELS}}
RUNNER_DOWNLOAD_URL={{RUNNER_DOWNLOAD_URL}}
RUNNER_JIT_CONFIG={{RUNNER_JIT_CONFIG}}
RUNNER_ORG={{RUNNER_ORG}}
RUNNER_GROUP={{RUNNER_GROUP}}
RUNNER_JOB_STARTED_SCRIPT={{RUNNER_JOB_STARTED_SCRIPT}}
RUNNER_JOB_COMPLETED_SCRIPT={{RUNNER_JOB_COMPLETED_SCRIPT}}
RUNNER_METADATA_URL={{RUNNER_METADATA_URL}}
RUNNER_CALLBACK_URL={{RUNNER_CALLBACK_URL}}
RUNNER_TOKEN={{RUNNER_TOKEN}}

user=runner
home=/opt/actions-runner
config=/run/actions-runner.env
unit=/etc/systemd/system/actions-runner.service
systemd=/run/systemd/system
os_release=/etc/os-release
selinux=/sys/fs/selinux/enforce

have() {
  command -v "$1" >/dev/null 2>&1
}

# Asks the manager, as this instance. The token goes by standard input.
ask() {
  printf 'header = "Authorization: Bearer %s"\n' "$RUNNER_TOKEN" |
    curl --config - --fail --silent --show-error --location --retry 5 --retry-delay 2 --max-time 60 "$@"
}

# Tells the manager how far this is; that it cannot be told stops nothing. Messages are words of this script.
report() {
  printf 'startup: %s: %s\n' "$1" "$2"
  if [ -n "$RUNNER_CALLBACK_URL" ] && have curl; then
    ask --data "{\"status\": \"$1\", \"message\": \"$2\"}" --header 'Content-Type: application/json' \
      "$RUNNER_CALLBACK_URL/status" >/dev/null || true
  fi
}

step='starting'
begin() {
  step=$1
  report installing "$1"
}

ended() {
  code=$?
  [ "$code" = 0 ] || report failed "$step"
  exit "$code"
}
trap ended EXIT

install_packages() {
  if have apt-get; then
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends "$@"
  elif have dnf; then
    dnf install -q -y "$@"
  elif have yum; then
    yum install -q -y "$@"
  else
    echo "startup: neither apt-get nor dnf nor yum is there to install: $*" >&2
    return 1
  fi
}

# Writes a hook of the runner to a file, unless it is the path of one, and prints where it is.
hook() {
  case $2 in
    *'
'*) ;;
    /*)
      printf '%s\n' "$2"
      return
      ;;
  esac
  mkdir -p "$home/hooks"
  printf '%s\n' "$2" >"$home/hooks/$1.sh"
  chmod 755 "$home/hooks/$1.sh"
  printf '%s\n' "$home/hooks/$1.sh"
}

printf 'startup: runner %s of group %s in %s, labels %s\n' \
  "$RUNNER_NAME" "$RUNNER_GROUP" "$RUNNER_ORG" "$RUNNER_LABELS"

missing=''
have curl || missing="$missing curl ca-certificates"
have tar || missing="$missing tar"
have gzip || missing="$missing gzip"
if [ -n "$missing" ]; then
  step='installing packages'
  # shellcheck disable=SC2086 # a list of words
  install_packages $missing
fi

begin 'making the user'
if ! id "$user" >/dev/null 2>&1; then
  useradd --create-home --shell /bin/bash "$user"
fi
if getent group docker >/dev/null 2>&1; then
  usermod --append --groups docker "$user"
fi

mkdir -p "$home"
if [ ! -x "$home/run.sh" ]; then
  begin 'downloading the runner'
  if [ -z "$RUNNER_DOWNLOAD_URL" ]; then
    echo 'startup: there is no runner in the image, and no address to download it from' >&2
    exit 1
  fi
  curl --fail --silent --show-error --location --retry 5 --retry-delay 2 --output "$home/runner.tar.gz" \
    "$RUNNER_DOWNLOAD_URL"
  tar -xzf "$home/runner.tar.gz" -C "$home"
  rm -f "$home/runner.tar.gz"
  begin 'installing dependencies of the runner'
  if [ -x "$home/bin/installdependencies.sh" ]; then
    "$home/bin/installdependencies.sh" >/dev/null
  fi
fi

begin 'writing hooks'
touch "$home/.env"
if [ -n "$RUNNER_JOB_STARTED_SCRIPT" ]; then
  printf 'ACTIONS_RUNNER_HOOK_JOB_STARTED=%s\n' "$(hook job-started "$RUNNER_JOB_STARTED_SCRIPT")" >>"$home/.env"
fi
if [ -n "$RUNNER_JOB_COMPLETED_SCRIPT" ]; then
  printf 'ACTIONS_RUNNER_HOOK_JOB_COMPLETED=%s\n' "$(hook job-completed "$RUNNER_JOB_COMPLETED_SCRIPT")" \
    >>"$home/.env"
fi

begin 'fetching the just-in-time config'
if [ -z "$RUNNER_JIT_CONFIG" ] && [ -n "$RUNNER_METADATA_URL" ]; then
  # The manager may be restarting.
  tries=0
  until RUNNER_JIT_CONFIG=$(ask "$RUNNER_METADATA_URL/jit-config"); do
    tries=$((tries + 1))
    [ "$tries" -lt 10 ] || exit 1
    sleep 3
  done
fi
case $RUNNER_JIT_CONFIG in
  '' | *[!A-Za-z0-9+/=_-]*)
    echo 'startup: there is no just-in-time config' >&2
    exit 1
    ;;
esac

if [ -n "$RUNNER_CALLBACK_URL" ] && [ -r "$os_release" ]; then
  # shellcheck disable=SC1090,SC1003 # a file of the machine; two characters
  system=$(. "$os_release" && printf '%s\n%s' "${NAME:-}" "${VERSION_ID:-}" | tr -d '"\\')
  ask --data "{\"os_name\": \"${system%%
*}\", \"os_version\": \"${system##*
}\"}" --header 'Content-Type: application/json' "$RUNNER_CALLBACK_URL/system-info" >/dev/null || true
fi

begin 'starting the runner'
chown -R "$user" "$home"
if [ -e "$selinux" ] && have chcon; then
  chcon -R -t bin_t "$home" || true
fi
# Once it is online the token is of no use any more.
report idle 'the runner is installed and about to start'
if [ -d "$systemd" ] && have systemctl; then
  (umask 077 && printf 'ACTIONS_RUNNER_INPUT_JITCONFIG=%s\n' "$RUNNER_JIT_CONFIG" >"$config")
  cat >"$unit" <<UNIT
[Unit]
Description=GitHub Actions runner
Wants=network-online.target
After=network-online.target

[Service]
User=$user
WorkingDirectory=$home
EnvironmentFile=$config
ExecStart=$home/run.sh
ExecStartPost=+/bin/rm -f $config
KillMode=process
TimeoutStopSec=5min
UNIT
  systemctl daemon-reload
  systemctl start actions-runner.service
else
  cd "$home"
  ACTIONS_RUNNER_INPUT_JITCONFIG=$RUNNER_JIT_CONFIG
  export ACTIONS_RUNNER_INPUT_JITCONFIG
  if have runuser; then
    runuser -u "$user" -- ./run.sh </dev/null >>"$home/runner.log" 2>&1 &
  else
    su "$user" -s /bin/sh -c ./run.sh </dev/null >>"$home/runner.log" 2>&1 &
  fi
fi
