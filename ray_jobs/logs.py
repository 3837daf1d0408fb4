"""Print a job's log.

python ray_jobs/logs.py JOB [--follow] [--address URL]
"""

import sys

from rto.jobs.status import logs

if __name__ == "__main__":
    sys.exit(logs(sys.argv[1:]))
