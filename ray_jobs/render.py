"""Print a job as a manifest for KubeRay or a batch script for Slurm.

python ray_jobs/render.py kuberay JOB.yaml [--nodes N] [--image IMAGE] ... [-- OVERRIDES...]
python ray_jobs/render.py slurm JOB.yaml [--nodes N] ... [-- OVERRIDES...]
"""

import sys

from rto.jobs.render import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
