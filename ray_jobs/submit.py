"""Submit a run to a Ray cluster's job server.

    python ray_jobs/submit.py JOB.yaml [--address URL] [--follow] [--dry_run] [-- OVERRIDES...]
    python -m rto.shipped.ray_jobs.submit ray_jobs/quickstart_cpu.yaml      (installed by pip)

The overrides go to the end of the job's entrypoint, so `-- --train.max_steps 2` shortens a run.
The address is that of the dashboard; RAY_API_SERVER_ADDRESS, then http://127.0.0.1:8265 when not
given. A cluster with token authentication reads the token as every Ray client does: RAY_AUTH_MODE
=token with RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
"""

import sys

from rto.jobs.submit import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
