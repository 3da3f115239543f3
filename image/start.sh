#!/bin/sh
# The daemon in a container: weights, then the neighbour, then the daemon in this process's place.
#
#     speech-start [CONFIG] [OPTION...]      as of `speech up`
#
# SPEECH_PULL        models to have first, such as "magpie parakeet"; nothing is asked of the hub
#                    for those that are there
# SPEECH_WAIT_FOR    a URL of the LLM's that has to answer first, such as vLLM's /health
# SPEECH_WAIT_S      for how long (1800)
set -eu

if [ -n "${SPEECH_PULL:-}" ]; then
    # shellcheck disable=SC2086 # several names
    speech models pull $SPEECH_PULL
fi
if [ -n "${SPEECH_WAIT_FOR:-}" ]; then
    speech memory hold --until "$SPEECH_WAIT_FOR" --timeout "${SPEECH_WAIT_S:-1800}"
fi
exec speech up "$@"
