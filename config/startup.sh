#!/bin/sh
# A startup script of one's own, for an image that has the runner in /opt/actions-runner and a user called runner. See
# startup_script in external.yaml. It runs as root.
#
# A value is asked for by {{ and }} around its name, as the whole value of an assignment on a line of its own; it is put
# there in quotes, so that no shell reads anything of it. Values that a machine does not have are empty. There are
#   RUNNER_NAME RUNNER_LABELS RUNNER_ORG RUNNER_GROUP RUNNER_DOWNLOAD_URL
#   RUNNER_JIT_CONFIG             what the runner starts with: a secret, good for one runner
#   RUNNER_JOB_STARTED_SCRIPT     the group's hooks
#   RUNNER_JOB_COMPLETED_SCRIPT
#   RUNNER_METADATA_URL           where the manager is asked and told, with RUNNER_TOKEN as the bearer
#   RUNNER_CALLBACK_URL
#   RUNNER_TOKEN                  a secret, good until the runner is online
# shellcheck disable=SC1083,SC2016 # placeholders, and what is put there
set -eu

RUNNER_NAME={{RUNNER_NAME}}
ACTIONS_RUNNER_INPUT_JITCONFIG={{RUNNER_JIT_CONFIG}}
export ACTIONS_RUNNER_INPUT_JITCONFIG

hostname "$RUNNER_NAME"
cd /opt/actions-runner
chown -R runner .
# The script ends and the runner goes on. With a failing status the manager replaces the instance at once.
nohup setpriv --reuid runner --regid runner --init-groups ./run.sh </dev/null >/var/log/actions-runner.log 2>&1 &
