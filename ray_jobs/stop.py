"""Stop a job, wait until it has ended, and say what stands of it.

python ray_jobs/stop.py JOB [--timeout SECONDS] [--address URL]
"""

import sys

from rto.jobs.stop import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
