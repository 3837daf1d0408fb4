"""Submit a job that has ended once more, to go on from its newest checkpoint.

python ray_jobs/resume.py JOB [--follow] [--address URL] [-- OVERRIDES...]
"""

import sys

from rto.jobs.resume import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
