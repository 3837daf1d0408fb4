"""List the jobs of a cluster, or tell one in full.

python ray_jobs/status.py [JOB] [--address URL]
"""

import sys

from rto.jobs.status import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
